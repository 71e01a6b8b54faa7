//! Masked language modelling on one language: BERT's own pre-training (Devlin et al. 2019),
//! without sentence pairs.

use tandem_config::bases::{Base, Bases};
use tandem_config::model::{Encoder as EncoderConfig, Model};
use tch::{Device, Kind, Tensor};

use super::{Loss, Sums, rows};
use crate::data::example::MlmBatch;
use crate::loss::cross_entropy;
use crate::model::bert::BertDropout;
use crate::model::{Encoder, LmHead, Parameters, Pass, Positions};

/// A BERT with its MLM head.
#[derive(Debug)]
pub struct Mlm {
    encoder: Encoder,
    head: LmHead,
}

impl Mlm {
    /// The model over `parameters`; computes in `kind`.
    ///
    /// # Panics
    /// If the config passed no validation: an encoder that is no BERT.
    pub fn new(model: &Model, bases: &Bases, parameters: &Parameters, kind: Kind) -> Self {
        let (EncoderConfig::Bert(config), Base::Bert(base)) = (&model.encoder, &bases.encoder)
        else {
            panic!("validation asks for a BERT")
        };
        let bert = &base.config;
        let scope = parameters.scope("encoder");
        let dropout = BertDropout::new(bert, config.dropout);
        Self {
            encoder: Encoder::bert(&scope, bert, None, dropout, kind),
            head: LmHead::bert(&scope, bert),
        }
    }

    /// `Σ nll` of the predicted tokens.
    pub fn loss(&self, batch: &MlmBatch, device: Device, pass: &Pass) -> Loss {
        let (ids, real) = rows(&batch.input, device);
        let positions = Tensor::from_slice(&batch.loss_positions).to_device(device);
        let labels = Tensor::from_slice(&batch.labels).to_device(device);
        let at = Positions::new(&positions, &ids);
        let predicted = self.encoder.predict(&ids, &real, &at, pass); // [N, D]
        let words = cross_entropy(&self.head, &self.head.transform(&predicted), &labels, 0.0);
        let nll = words.nll.double_value(&[]);
        let predicted = batch.labels.len() as f64;
        let sums = Sums {
            loss: nll,
            nll,
            predicted,
            denominator: predicted,
            sentences: batch.samples.len() as f64,
            tokens: batch.input.tokens() as f64,
            ..Sums::default()
        };
        Loss { surrogate: words.surrogate, sums }
    }
}
