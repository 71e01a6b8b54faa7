//! The tensors of a model: allocated for its first step, or loaded from checkpoints.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use tandem_cluster::run::control::Report;
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::store::{self, ADAPTERS, AVERAGE, Checkpoint, LATEST, StoreError};
use tandem_config::composition::Composition;
use tandem_config::parameters::{self, LENGTH_EMBEDDING};
use tandem_config::run_of;
use tch::no_grad;

use crate::model::Parameters;
use crate::model::parameters::Weights;
use crate::session::corpora::Languages;
use crate::session::worker::Worker;

/// Trained weights that belong to another model, BERT or vocabulary: trying again cannot help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misfit(pub String);

/// The run's parameters with their values before the first step.
///
/// # Errors
/// Pre-trained weights that are missing or do not fit.
pub fn allocate(worker: &Worker, composition: &Composition) -> anyhow::Result<Parameters> {
    let list = parameters::model(composition);
    let mut pretrained = Vec::new();
    for (side, folder) in composition.folders() {
        pretrained.push((side, Weights::read(&folder.join("model.safetensors"))?));
    }
    if worker.is_first() {
        worker.report(Report::Plan {
            trained: parameters::trained_count(&list) as u64,
            frozen: parameters::frozen_count(&list) as u64,
        });
    }
    let (seed, kind) = (worker.config.seed, worker.kinds().frozen);
    Ok(Parameters::new(&list, &pretrained, seed, kind, worker.device)?)
}

/// What trained weights stand on: the BERTs by SHA-256 of their weights, and both sides' vocabularies
/// by SHA-256 of what decides which ids a text has.
///
/// # Errors
/// Weights that cannot be read.
pub fn base_hashes(languages: &Languages) -> anyhow::Result<Vec<(String, String)>> {
    let mut hashes = store::hash_weights(languages.composition.folders())?;
    for (side, own) in [("source", Some(&languages.source)), ("target", languages.target.as_ref())]
    {
        if let Some(tokenizer) = own {
            hashes.push((format!("{side} vocabulary"), hex::encode(tokenizer.fingerprint())));
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
    let here = |side: &str| bases.iter().find(|(known, _)| known == side);
    checkpoint
        .check_bases(|side| Some(here(side).map_or("none", |(_, hash)| hash)))
        .map_err(|other| Misfit(other.to_string()))?;
    Ok(checkpoint)
}

/// Takes the trained weights of another run, given by its folder or run file, for parameters of the same
/// names: those of its average, or else of its newest checkpoint. `bases` are this run's.
///
/// # Errors
/// No checkpoint, another vocabulary or BERT on the same side, or a weight that this model does not
/// have in the same shape, but for a length prediction that it does not need.
pub fn warm_start(
    init: &Path,
    parameters: &Parameters,
    bases: &[(String, String)],
) -> anyhow::Result<()> {
    let unusable = || format!("{} has no weights for model.init to start from", init.display());
    let folder = RunFolder::new(run_of(init).with_context(unusable)?);
    let checkpoint = match folder.model(AVERAGE) {
        Err(StoreError::Absent { .. }) => folder.model(LATEST),
        found => found,
    };
    let checkpoint = checkpoint.with_context(unusable)?;
    let here = |side: &str| bases.iter().find(|(known, _)| known == side);
    checkpoint
        .check_bases(|side| here(side).map(|(_, hash)| hash.as_str()))
        .map_err(|other| Misfit(other.to_string()))?;
    let path = checkpoint.path(ADAPTERS);
    let file = Weights::read(&path)?;
    // A model that predicts no lengths can start from one that does.
    let is_missing =
        |name: &&String| name.as_str() != LENGTH_EMBEDDING && !parameters.names.contains(name);
    if let Some(name) = file.names().find(is_missing) {
        bail!(Misfit(format!(
            "this model has no trained `{name}` as {} has: model.init must be a run whose model is \
             a part of this one",
            path.display()
        )));
    }
    for (name, mut view) in parameters.views(&parameters.weights) {
        if file.has(name) {
            let stored = file.get(name, &view.size());
            let stored = stored.map_err(|other| Misfit(format!("model.init: {other}")))?;
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
