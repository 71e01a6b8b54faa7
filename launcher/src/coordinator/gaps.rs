//! Missing checkpoints that the finished model needs: they could not be written, for example on a full
//! disk, or were damaged afterwards. They are trained again, so that the model is that of an undisturbed
//! run.

use std::collections::BTreeSet;

use tandem_cluster::run::store::{Checkpoint, Store, StoreError};

/// A checkpoint to be trained again.
#[derive(Debug)]
pub(crate) struct Gap {
    pub step: u64,
    /// Why it is missing.
    pub reason: String,
    /// From where training continues; none if that is the first step.
    pub resume: Option<Checkpoint>,
}

/// What was found of a run's last checkpoints.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The first that is to be trained again.
    pub gap: Option<Gap>,
    /// Those before it that are not there, with the reason, and from before which there is none to
    /// go on from.
    pub left_out: Vec<String>,
}

/// Looks for the steps in `wanted`, of which the last is that of the training; `unsaved` are those
/// that could not be written. (Others may be absent because fewer were to be kept.)
///
/// # Errors
/// Where the folder, or a checkpoint, may not be read.
pub(crate) fn first(
    store: &Store,
    wanted: &[u64],
    unsaved: &BTreeSet<u64>,
) -> Result<Found, StoreError> {
    let mut found = Found::default();
    let there = store.steps()?;
    for &step in wanted {
        let is_last = wanted.last() == Some(&step);
        let reason = if there.contains(&step) {
            match store.verify(step) {
                Ok(_) => continue,
                Err(StoreError::Damaged(damaged)) => damaged.to_string(),
                Err(error) => return Err(error),
            }
        } else if is_last || unsaved.contains(&step) {
            format!("the checkpoint of step {step} could not be written")
        } else {
            continue;
        };
        let resume = store.newest_good_before(step)?;
        if resume.is_some() || is_last {
            found.gap = Some(Gap { step, reason, resume });
            break;
        }
        found.left_out.push(reason);
    }
    Ok(found)
}
