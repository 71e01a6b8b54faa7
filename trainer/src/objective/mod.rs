//! What is trained: a model, what its micro-batches look like, and their loss.
//!
//! Losses are sums over a micro-batch, never means: the step divides by the whole step's tokens.

pub mod masked;
pub mod mlm;
pub mod sums;

use tandem_config::bases::Bases;
use tandem_config::model::Objective as Config;
use tandem_config::run::RunConfig;
use tch::{Device, Kind, Tensor};

use crate::data::example::{Draw, MlmBatch, MlmExamples, Padded, PairBatch, PairExamples};
use crate::model::{Parameters, Pass};

pub use sums::Sums;

/// A model and its loss.
#[derive(Debug)]
pub enum Objective {
    /// Conditional masked language modelling with length prediction.
    Masked(masked::Masked),
    /// Masked language modelling on one language.
    Mlm(mlm::Mlm),
}

/// Makes micro-batches out of samples.
#[derive(Clone)]
pub enum Examples {
    /// Of pairs.
    Pair(PairExamples),
    /// Of passages.
    Passage(MlmExamples),
}

/// A micro-batch.
#[derive(Debug)]
pub enum MicroBatch {
    /// Of pairs.
    Pair(PairBatch),
    /// Of passages.
    Passage(MlmBatch),
}

/// The loss of a micro-batch.
#[derive(Debug)]
pub struct Loss {
    /// A scalar whose gradient is that of the loss; its value means nothing.
    pub surrogate: Tensor,
    /// What is added up.
    pub sums: Sums,
}

impl Objective {
    /// The objective that a run's config names, over `parameters`; computes in `kind`.
    ///
    /// # Panics
    /// If the config passed no validation: a `masked` objective without a decoder.
    pub fn new(run: &RunConfig, bases: &Bases, parameters: &Parameters, kind: Kind) -> Self {
        match &run.model.objective {
            Config::Masked(config) => Self::Masked(
                masked::Masked::new(&run.model, config, bases, parameters, kind)
                    .expect("validation asks for a decoder"),
            ),
            Config::Mlm(_) => Self::Mlm(mlm::Mlm::new(&run.model, bases, parameters, kind)),
        }
    }

    /// The loss of a micro-batch, which must be of this objective's sort.
    pub fn loss(&self, batch: &MicroBatch, device: Device, pass: &Pass) -> Loss {
        match (self, batch) {
            (Self::Masked(masked), MicroBatch::Pair(batch)) => masked.loss(batch, device, pass),
            (Self::Mlm(mlm), MicroBatch::Passage(batch)) => mlm.loss(batch, device, pass),
            _ => panic!("a micro-batch of another objective"),
        }
    }
}

impl Examples {
    /// The micro-batch of these samples.
    pub fn batch(&self, samples: &[u32], draw: Draw) -> MicroBatch {
        match self {
            Self::Pair(examples) => MicroBatch::Pair(examples.batch(samples, draw)),
            Self::Passage(examples) => MicroBatch::Passage(examples.batch(samples, draw)),
        }
    }
}

/// Rows of ids and which of them are real: `[B, T]` i64 and `[B, T]` bool.
pub fn rows(padded: &Padded, device: Device) -> (Tensor, Tensor) {
    let shape = [padded.rows as i64, padded.columns as i64];
    let ids = Tensor::from_slice(&padded.ids).view(shape).to_device(device);
    let lengths = Tensor::from_slice(&padded.lengths).to_device(device).unsqueeze(1);
    let real = Tensor::arange(shape[1], (Kind::Int64, device)).unsqueeze(0).less_tensor(&lengths);
    (ids, real)
}
