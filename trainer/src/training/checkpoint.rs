//! What one rank puts into a checkpoint and takes out of it again.

use std::collections::BTreeMap;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tandem_cluster::run::store::{ADAPTERS, Checkpoint, OPTIMIZER, Store, TRAINER};
use tch::{Device, Tensor, no_grad};

use crate::model::Parameters;
use crate::model::parameters::Weights;
use crate::optim::Adam;
use crate::session::weights::load_weights;

/// Where training stood: `trainer.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Finished optimizer steps.
    pub step: u64,
    /// Micro-batches taken from the training data, over all ranks.
    pub position: u64,
    /// Steps that were skipped because their gradient was not finite.
    pub skipped: u64,
    /// How many of them came last in a row.
    pub skipped_in_a_row: u64,
    /// The run's seed.
    pub seed: u64,
    /// Ranks when this was written.
    pub world_size: usize,
    /// SHA-256 of each split's samples, by the split's name; empty where an older version wrote this.
    #[serde(default)]
    pub data: BTreeMap<String, String>,
}

impl TrainerState {
    /// Before the first step.
    pub fn new(seed: u64, world_size: usize) -> Self {
        Self {
            step: 0,
            position: 0,
            skipped: 0,
            skipped_in_a_row: 0,
            seed,
            world_size,
            data: BTreeMap::new(),
        }
    }

    /// The splits whose samples are others here than when this was written.
    pub fn changed_data(&self, here: &BTreeMap<String, String>) -> Vec<&str> {
        let differs =
            |(split, hash): &(&String, &String)| here.get(*split).is_some_and(|now| now != *hash);
        self.data.iter().filter(differs).map(|(split, _)| split.as_str()).collect()
    }
}

/// The trained state at one step, apart from what training changes next.
pub struct Snapshot {
    names: Vec<String>,
    shapes: Vec<Vec<i64>>,
    weights: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    state: TrainerState,
}

impl Snapshot {
    /// Copies the trained state.
    pub fn take(parameters: &Parameters, adam: &Adam, state: TrainerState) -> Self {
        let copy = |tensor: &Tensor| no_grad(|| tensor.to_device(Device::Cpu).copy());
        Self {
            names: parameters.names.clone(),
            shapes: parameters.trained.iter().map(Tensor::size).collect(),
            weights: copy(&parameters.weights),
            exp_avg: copy(&adam.exp_avg),
            exp_avg_sq: copy(&adam.exp_avg_sq),
            state,
        }
    }

    /// Writes and seals the draft of this step's checkpoint.
    ///
    /// # Errors
    /// Whatever the file system refuses; published checkpoints are as they were.
    pub fn write(
        self,
        store: &Store,
        attempt: u64,
        bases: Vec<(String, String)>,
    ) -> anyhow::Result<()> {
        let draft = store.draft(self.state.step, attempt).context("cannot begin a draft")?;
        let write = |tensors: &[(String, Tensor)], file| {
            let path = draft.path(file);
            Tensor::write_safetensors(tensors, &path)
                .with_context(|| format!("cannot write {}", path.display()))
        };
        write(&self.named("", &self.weights), ADAPTERS)?;
        let mut moments = self.named("exp_avg.", &self.exp_avg);
        moments.extend(self.named("exp_avg_sq.", &self.exp_avg_sq));
        write(&moments, OPTIMIZER)?;
        let path = draft.path(TRAINER);
        std::fs::write(&path, serde_json::to_string_pretty(&self.state)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
        draft.seal(bases)?;
        Ok(())
    }

    fn named(&self, prefix: &str, flat: &Tensor) -> Vec<(String, Tensor)> {
        let mut offset = 0;
        let view = |(name, shape): (&String, &Vec<i64>)| {
            let count = shape.iter().product::<i64>();
            let view = flat.narrow(0, offset, count).view(shape.as_slice());
            offset += count;
            (format!("{prefix}{name}"), view)
        };
        self.names.iter().zip(&self.shapes).map(view).collect()
    }
}

/// Takes everything that training needs out of a checkpoint.
///
/// # Errors
/// As [`load_weights`], and unusable states.
pub fn resume(
    checkpoint: &Checkpoint,
    parameters: &Parameters,
    adam: &mut Adam,
) -> anyhow::Result<TrainerState> {
    load_weights(checkpoint, parameters)?;
    let moments = Weights::read(&checkpoint.path(OPTIMIZER))?;
    parameters.load(&adam.exp_avg, &moments, "exp_avg.")?;
    parameters.load(&adam.exp_avg_sq, &moments, "exp_avg_sq.")?;
    let path = checkpoint.path(TRAINER);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let state: TrainerState = serde_json::from_str(&text)
        .with_context(|| format!("{} is not a trainer's state", path.display()))?;
    adam.resume(state.step - state.skipped);
    Ok(state)
}
