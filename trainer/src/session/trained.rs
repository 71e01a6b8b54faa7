//! A checkpoint's model, opened to be used.

use std::path::Path;

use crate::objective::Objective;
use crate::session::corpora::Languages;
use crate::session::weights;
use crate::session::worker::Worker;

/// A checkpoint's model, with the languages it knows.
pub struct Trained {
    /// The BERTs and tokenizers.
    pub languages: Languages,
    /// The model.
    pub objective: Objective,
    /// The checkpoint's step.
    pub step: u64,
}

impl Trained {
    /// Opens the checkpoint in a folder, for the worker's run; without one, the model as it is
    /// before its first step.
    ///
    /// # Errors
    /// A damaged checkpoint, or one of another model.
    pub fn open(worker: &Worker, folder: Option<&Path>) -> anyhow::Result<Self> {
        let languages = Languages::open(worker)?;
        let bases = weights::base_hashes(&languages)?;
        let checkpoint = folder.map(|folder| weights::open(folder, &bases)).transpose()?;
        let mut parameters = weights::allocate(worker, &languages.composition)?;
        if let Some(checkpoint) = &checkpoint {
            weights::load_weights(checkpoint, &parameters)?;
        }
        let (model, kind) = (&worker.config.model, worker.kinds().compute);
        parameters.only_used(kind);
        let cls = languages.source.special().cls.into();
        let objective = Objective::new(model, &languages.composition, cls, &parameters, kind);
        Ok(Self {
            languages,
            objective,
            step: checkpoint.map_or(0, |checkpoint| checkpoint.step()),
        })
    }
}
