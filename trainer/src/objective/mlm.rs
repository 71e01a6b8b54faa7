//! Masked language modelling: BERT's own pre-training on one language (Devlin et al. 2019), without
//! sentence pairs; or, conditional on a source, of targets (C-MLM, Chen et al. 2020).

use tandem_config::pretrained::bert::BertConfig;
use tch::{Device, Kind, Tensor, no_grad};

use super::{Loss, Losses, Sums, rows};
use crate::data::example::MlmBatch;
use crate::device::transfer::to_device;
use crate::model::networks::bert;
use crate::model::{Encoder, LmHead, Parameters, Pass, Positions};
use crate::objective::loss::cross_entropy;

/// A BERT with its MLM head.
#[derive(Debug)]
pub struct Mlm {
    encoder: Encoder,
    head: LmHead,
}

impl Mlm {
    /// The BERT over `parameters`; `dropout` as config.json says if it is none. Computes in `kind`.
    pub fn new(
        parameters: &Parameters,
        config: &BertConfig,
        dropout: Option<f64>,
        kind: Kind,
    ) -> Self {
        let scope = parameters.scope("encoder");
        Self {
            encoder: bert::encoder(&scope, config, None, dropout, kind),
            head: bert::head(&scope, config),
        }
    }

    /// `Σ nll` of the predicted tokens.
    pub fn loss(&self, batch: &MlmBatch, device: Device, pass: &Pass) -> Loss {
        let labels = to_device(&batch.labels, device);
        let transformed = self.transformed(batch, device, pass);
        let words = cross_entropy(&self.head, &transformed, &labels, 0.0);
        let predicted = batch.labels.len() as f64;
        let counts = Sums {
            predicted,
            denominator: predicted,
            sentences: batch.samples.len() as f64,
            tokens: batch.input.tokens() as f64,
            ..Sums::default()
        };
        let losses = Losses::new(words.nll.shallow_clone(), words.nll);
        Loss { surrogate: words.surrogate, losses, counts }
    }

    /// The `top` most probable of the vocabulary's first `words` at each predicted position, with
    /// their logits: `[N, top]`, i64 and f32.
    pub fn most_probable(
        &self,
        batch: &MlmBatch,
        top: usize,
        words: usize,
        device: Device,
    ) -> (Tensor, Tensor) {
        no_grad(|| {
            let transformed = self.transformed(batch, device, &Pass::eval());
            let (mut ids, mut logits) = (Vec::new(), Vec::new());
            for (start, count) in self.head.chunks(transformed.size()[0]) {
                let all = self.head.project(&transformed.narrow(0, start, count));
                let all = all.narrow(1, 0, words as i64);
                let (of_chunk, chosen) = all.topk(top as i64, -1, true, true);
                ids.push(chosen);
                logits.push(of_chunk);
            }
            (Tensor::cat(&ids, 0), Tensor::cat(&logits, 0))
        })
    }

    /// States at the predicted positions, ready for [`LmHead::project`]: `[N, D]`.
    fn transformed(&self, batch: &MlmBatch, device: Device, pass: &Pass) -> Tensor {
        let (ids, real) = rows(&batch.input, device);
        let positions = to_device(&batch.loss_positions, device);
        let at = Positions::new(&positions, &ids);
        let types = batch.second.as_ref().map(|second| {
            let second = to_device(second, device).unsqueeze(1); // [B, 1]
            let places = Tensor::arange(ids.size()[1], (Kind::Int64, device)).unsqueeze(0);
            places.greater_equal_tensor(&second).to_kind(Kind::Int64) // [B, T]
        });
        let predicted = self.encoder.predict(&ids, &real, types.as_ref(), &at, pass); // [N, D]
        self.head.transform(&predicted)
    }
}
