//! Which checkpoints stay.

use std::collections::BTreeSet;

use super::checkpoint::Checkpoint;
use super::{Store, StoreError, or_damaged, remove_folder, step_name};
use crate::run::io_error::IoContext;

/// Which checkpoints stay. The newest usable one, and what `best` points to, always do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// The newest so many, the extra ones not counted.
    pub last: usize,
    /// These steps are extra: they stay for no other reason than the ones below.
    pub extra: Vec<u64>,
    /// These steps: the best ones by some metric.
    pub best: Vec<u64>,
    /// Those whose step is a multiple of this; 0 for none.
    pub every: u64,
}

impl Store {
    /// Removes the checkpoints that need not stay, and drafts of earlier attempts; the removed
    /// steps.
    ///
    /// A checkpoint without a usable manifest counts for nothing, and goes when it is older than
    /// all that stay.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn retain(&self, keep: &Retention, attempt: u64) -> Result<Vec<u64>, StoreError> {
        for name in self.entries()? {
            if is_left_over(&name, attempt) {
                let folder = self.folder().join(name);
                remove_folder(&folder).tried("remove", &folder)?;
            }
        }
        let steps = self.steps()?;
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for step in steps {
            let usable = Checkpoint::read_manifest(&self.step_folder(step));
            if or_damaged(usable)?.is_ok() { good.push(step) } else { bad.push(step) }
        }
        let counted = good.iter().rev().filter(|step| !keep.extra.contains(step));
        let mut stay: BTreeSet<u64> = counted.take(keep.last).copied().collect();
        stay.extend(good.iter().filter(|step| keep.best.contains(step)));
        stay.extend(good.iter().filter(|step| keep.every > 0 && *step % keep.every == 0));
        stay.extend(good.last());
        stay.extend(self.best());
        let oldest = stay.first().copied().unwrap_or(0);
        let gone: Vec<u64> = good
            .into_iter()
            .filter(|step| !stay.contains(step))
            .chain(bad.into_iter().filter(|step| *step < oldest && !stay.contains(step)))
            .collect();
        for step in &gone {
            // Renamed first, so that a crash does not leave what looks like a damaged checkpoint.
            let folder = self.step_folder(*step);
            let aside = self.folder().join(format!("{}.removed", step_name(*step)));
            std::fs::rename(&folder, &aside).tried("set aside", &folder)?;
            remove_folder(&aside).tried("remove", &aside)?;
        }
        Ok(gone)
    }
}

/// A draft of an earlier attempt, or the remains of a removal.
fn is_left_over(name: &str, attempt: u64) -> bool {
    if name.ends_with(".removed") {
        return true;
    }
    match name.rsplit_once(".tmp-") {
        Some((_, writer)) => writer.parse::<u64>().is_ok_and(|writer| writer < attempt),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_left_over_goes() {
        assert!(is_left_over("step-00000004.removed", 2));
        assert!(is_left_over("step-00000004.tmp-1", 2));
        assert!(!is_left_over("step-00000004.tmp-2", 2));
        assert!(!is_left_over("step-00000004", 2));
        assert!(!is_left_over("average", 2));
    }
}
