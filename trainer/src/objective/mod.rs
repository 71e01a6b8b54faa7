//! What is trained: a model, what its micro-batches look like, and their loss.
//!
//! Losses are sums over a micro-batch, never means: the step divides by the whole step's tokens.

pub(crate) mod alignment;
pub mod ctc;
pub mod loss;
pub mod mlm;
pub mod sums;
pub mod translation;

use tandem_config::composition::{self, Composition};
use tandem_config::schema::model::Model;
use tch::{Device, Kind, Tensor};

use crate::data::batches::Lengths;
use crate::data::cache::CacheError;
use crate::data::ctc::{CtcBatch, CtcExamples};
use crate::data::example::{Draw, MlmBatch, MlmExamples, Padded, PairBatch, PairExamples};
use crate::device::transfer::{Reading, to_device};
use crate::model::{Block, Parameters, Pass, Seq2Seq};

pub use sums::{Losses, Sums};
pub use translation::Translation;

/// A model and its loss.
#[derive(Debug)]
pub enum Objective {
    /// Translation, masked or autoregressive.
    Translation(Box<Translation>),
    /// Translation in one pass, with blanks.
    Ctc(Box<ctc::Ctc>),
    /// Masked language modelling.
    Mlm(Box<mlm::Mlm>),
}

/// Makes micro-batches out of samples.
#[derive(Clone)]
pub enum Examples {
    /// Of pairs.
    Pair(PairExamples),
    /// Of pairs, for CTC.
    Ctc(CtcExamples),
    /// Of passages, or of pairs joined to one row.
    Passage(MlmExamples),
}

/// A micro-batch.
#[derive(Debug)]
pub enum MicroBatch {
    /// Of pairs.
    Pair(PairBatch),
    /// Of pairs, for CTC.
    Ctc(CtcBatch),
    /// Of passages, or of pairs joined to one row.
    Passage(MlmBatch),
}

impl MicroBatch {
    /// Which samples its rows are.
    pub fn samples(&self) -> &[u32] {
        match self {
            Self::Pair(batch) => &batch.samples,
            Self::Ctc(batch) => &batch.samples,
            Self::Passage(batch) => &batch.samples,
        }
    }
}

/// The loss of a micro-batch. It stays on its device, so that nobody has to wait for it yet.
#[derive(Debug)]
pub struct Loss {
    /// A scalar whose gradient is that of the loss; its value means nothing.
    pub surrogate: Tensor,
    /// The sums that were computed on the device.
    pub losses: Losses,
    /// The sums that are known without it.
    pub counts: Sums,
}

impl Loss {
    /// The sums of the micro-batch, which are waited for.
    pub fn sums(&self) -> Sums {
        Sums::from_slice(&Reading::begin(&self.losses.with(self.counts, Kind::Double)).wait())
    }
}

impl Objective {
    /// The objective of a run's model, over `parameters`; computes in `kind`. `cls` is the source's `[CLS]`.
    ///
    /// # Panics
    /// If the config passed no validation: neither a translation nor a BERT.
    pub fn new(
        model: &Model,
        composition: &Composition,
        cls: i64,
        parameters: &Parameters,
        kind: Kind,
    ) -> Self {
        if let Some(translation) = Translation::new(model, composition, cls, parameters, kind) {
            return Self::Translation(Box::new(translation));
        }
        if let Some(ctc) = ctc::Ctc::new(composition, cls, parameters, kind) {
            return Self::Ctc(Box::new(ctc));
        }
        let composition::Encoder::Bert(bert, settings) = &composition.encoder else {
            panic!("what does not translate is a BERT");
        };
        Self::Mlm(Box::new(mlm::Mlm::new(parameters, &bert.config, settings.dropout, kind)))
    }

    /// The model that translates; none for one that does not.
    pub fn model(&self) -> Option<&Seq2Seq> {
        match self {
            Self::Translation(translation) => Some(&translation.model),
            Self::Ctc(ctc) => Some(&ctc.model),
            Self::Mlm(_) => None,
        }
    }

    /// The loss of a micro-batch, which must be of this objective's sort.
    pub fn loss(&self, batch: &MicroBatch, device: Device, pass: &Pass) -> Loss {
        pass.needs(Block::Outside);
        match (self, batch) {
            (Self::Translation(translation), MicroBatch::Pair(batch)) => {
                translation.loss(batch, device, pass)
            }
            (Self::Ctc(ctc), MicroBatch::Ctc(batch)) => ctc.loss(batch, device, pass),
            (Self::Mlm(mlm), MicroBatch::Passage(batch)) => mlm.loss(batch, device, pass),
            _ => panic!("a micro-batch of another objective"),
        }
    }
}

impl Examples {
    /// All samples' lengths, as batches count them.
    pub fn lengths(&self) -> Vec<Lengths> {
        match self {
            Self::Pair(examples) => examples.corpus.lengths(),
            Self::Ctc(examples) => examples.lengths(),
            Self::Passage(examples) => examples.lengths(),
        }
    }

    /// The micro-batch of these samples.
    ///
    /// # Errors
    /// A damaged cache.
    pub fn batch(&self, samples: &[u32], draw: Draw) -> Result<MicroBatch, CacheError> {
        Ok(match self {
            Self::Pair(examples) => MicroBatch::Pair(examples.batch(samples, draw)?),
            Self::Ctc(examples) => MicroBatch::Ctc(examples.batch(samples, draw)?),
            Self::Passage(examples) => MicroBatch::Passage(examples.batch(samples, draw)?),
        })
    }
}

/// Rows of ids and which of them are real: `[B, T]` i64 and `[B, T]` bool.
pub fn rows(padded: &Padded, device: Device) -> (Tensor, Tensor) {
    let shape = [padded.rows as i64, padded.columns as i64];
    let ids = to_device(&padded.ids, device).view(shape);
    let lengths = to_device(&padded.lengths, device).unsqueeze(1);
    let real = Tensor::arange(shape[1], (Kind::Int64, device)).unsqueeze(0).less_tensor(&lengths);
    (ids, real)
}
