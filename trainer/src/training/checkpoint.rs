//! What one rank puts into a checkpoint and takes out of it again.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::store::{
    self, ADAPTERS, Base, Checkpoint, OPTIMIZER, Store, StoreError, TRAINER, hex,
};
use tch::{Device, Tensor, no_grad};

use crate::model::Parameters;
use crate::model::parameters::Weights;
use crate::optim::Adam;
use crate::session::corpora::Languages;

/// Trained weights that belong to another model, BERT or vocabulary: trying again cannot help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misfit(pub String);

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

/// What trained weights stand on: the BERTs by SHA-256 of their weights, and both sides' vocabularies
/// by SHA-256 of what decides which ids a text has.
///
/// # Errors
/// Weights that cannot be read.
pub fn base_hashes(languages: &Languages) -> anyhow::Result<Vec<(String, String)>> {
    let mut hashes = Vec::new();
    for (side, folder) in languages.composition.folders() {
        let path = folder.join("model.safetensors");
        let (_, sha256) =
            store::hash_file(&path).with_context(|| format!("cannot read {}", path.display()))?;
        hashes.push((side.to_owned(), sha256));
    }
    for (side, own) in [("source", Some(&languages.source)), ("target", languages.target.as_ref())]
    {
        if let Some(tokenizer) = own {
            hashes.push((format!("{side} vocabulary"), hex(tokenizer.fingerprint())));
        }
    }
    Ok(hashes)
}

/// Opens a checkpoint's folder and refuses one that stands on other BERTs or vocabularies.
///
/// # Errors
/// A damaged checkpoint, other frozen weights, or another vocabulary.
pub fn open(folder: &Path, bases: &[(String, String)]) -> anyhow::Result<Checkpoint> {
    let checkpoint = Checkpoint::verify(folder)?;
    check_bases(&checkpoint, |side| {
        let here = bases.iter().find(|(known, _)| known == side);
        Some(here.map_or("none", |(_, hash)| hash))
    })?;
    Ok(checkpoint)
}

/// Compares what a checkpoint stands on with what `here` knows; none is not compared.
fn check_bases<'a>(
    checkpoint: &Checkpoint,
    here: impl Fn(&str) -> Option<&'a str>,
) -> anyhow::Result<()> {
    for Base { side, sha256 } in checkpoint.bases() {
        let Some(hash) = here(side) else { continue };
        let what = if side.ends_with("vocabulary") { "" } else { " BERT" };
        ensure!(
            hash == sha256,
            Misfit(format!(
                "{} was trained on another {side}{what} (SHA-256 {sha256}) than the one here \
                 ({hash})",
                checkpoint.folder().display()
            ))
        );
    }
    Ok(())
}

/// Takes the trained weights of another run, for parameters of the same names: those of its
/// average, or else of its newest checkpoint. `bases` are this run's.
///
/// # Errors
/// No checkpoint, another vocabulary or BERT on the same side, or a weight that this model does not
/// have in the same shape.
pub fn warm_start(
    run: &Path,
    parameters: &Parameters,
    bases: &[(String, String)],
) -> anyhow::Result<()> {
    let folder = RunFolder::new(run.to_owned());
    let checkpoint = match folder.model("average") {
        Err(StoreError::Absent { .. }) => folder.model("latest"),
        found => found,
    };
    let checkpoint = checkpoint.with_context(|| {
        format!("{} has no weights for model.init to start from", run.display())
    })?;
    check_bases(&checkpoint, |side| {
        bases.iter().find(|(known, _)| known == side).map(|(_, hash)| hash.as_str())
    })?;
    let path = checkpoint.path(ADAPTERS);
    let file = Weights::read(&path)?;
    if let Some(name) = file.names().find(|name| !parameters.names.contains(name)) {
        bail!(Misfit(format!(
            "this model has no trained `{name}` as {} has: model.init must be a run whose model is \
             a part of this one",
            path.display()
        )));
    }
    for (name, mut view) in parameters.views(&parameters.weights) {
        if file.has(name) {
            let stored = file.get(name, &view.size())?;
            no_grad(|| view.copy_(stored));
        }
    }
    Ok(())
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
        Misfit(format!(
            "{} has {found} tensors, this model has {expected}: it is another model's",
            path.display()
        ))
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
