//! What one rank puts into a checkpoint and takes out of it again.

use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tandem_cluster::store::{self, ADAPTERS, Checkpoint, OPTIMIZER, Store, TRAINER};
use tandem_config::bases::Bases;
use tch::{Device, Tensor, no_grad};

use crate::model::Parameters;
use crate::model::parameters::Weights;
use crate::optim::Adam;

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
}

impl TrainerState {
    /// Before the first step.
    pub fn new(seed: u64, world_size: usize) -> Self {
        Self { step: 0, position: 0, skipped: 0, skipped_in_a_row: 0, seed, world_size }
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
        generation: u64,
        bases: Vec<(String, String)>,
    ) -> anyhow::Result<()> {
        let draft = store.draft(self.state.step, generation).context("cannot begin a draft")?;
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

/// The frozen BERTs by side and SHA-256 of their weights.
///
/// # Errors
/// Weights that cannot be read.
pub fn base_hashes(bases: &Bases) -> anyhow::Result<Vec<(String, String)>> {
    let encoder = ("encoder", bases.encoder.folder());
    let decoder = ("decoder", bases.decoder.as_ref().and_then(|base| base.folder()));
    let mut hashes = Vec::new();
    for (side, folder) in [encoder, decoder] {
        let Some(folder) = folder else { continue };
        let path = folder.path.join("model.safetensors");
        let (_, sha256) =
            store::hash_file(&path).with_context(|| format!("cannot read {}", path.display()))?;
        hashes.push((side.to_owned(), sha256));
    }
    Ok(hashes)
}

/// Opens a checkpoint's folder and refuses one that stands on other BERTs.
///
/// # Errors
/// A damaged checkpoint, or other frozen weights.
pub fn open(folder: &Path, bases: &[(String, String)]) -> anyhow::Result<Checkpoint> {
    let checkpoint = Checkpoint::verify(folder)?;
    for base in checkpoint.bases() {
        let here = bases.iter().find(|(side, _)| *side == base.side);
        let hash = here.map_or("none", |(_, hash)| hash);
        ensure!(
            hash == base.sha256,
            "{} was trained on another {} BERT (SHA-256 {}) than the one here ({hash})",
            folder.display(),
            base.side,
            base.sha256,
        );
    }
    Ok(checkpoint)
}

/// Takes the trained weights out of a checkpoint.
///
/// # Errors
/// A tensor that is missing or of another shape: the checkpoint is of another model.
pub fn load_weights(checkpoint: &Checkpoint, parameters: &Parameters) -> anyhow::Result<()> {
    let path = checkpoint.path(ADAPTERS);
    let file = Weights::read(&path)?;
    let (found, expected) = (file.count(""), parameters.names.len());
    ensure!(
        found == expected,
        "{} has {found} tensors, this model has {expected}: it is another model's",
        path.display()
    );
    Ok(parameters.load(&parameters.weights, &file, "")?)
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
    adam.step = state.step - state.skipped;
    Ok(state)
}
