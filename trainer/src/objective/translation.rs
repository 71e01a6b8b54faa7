//! Translation: the cross-entropy of predicted target tokens, with a length prediction where the
//! encoder has one.
//!
//! Which tokens are predicted, and what the decoder sees instead, is the batch's affair: chosen
//! ones from the rest (conditional masked language modelling, Ghazvininejad et al. 2019), perhaps with
//! some of the rest replaced by what the model predicts, to be corrected (Huang et al. 2022); or all
//! from those before them (autoregressive, with teacher forcing).

use tandem_config::composition::Composition;
use tandem_config::schema::model::{Model, Objective};
use tandem_config::schema::soft_labels::SoftLabels as SoftLabelsConfig;
use tch::{Device, Kind, Tensor, no_grad};

use super::{Loss, Losses, Sums, rows};
use crate::data::example::{PairBatch, Replaced};
use crate::device::transfer::to_device;
use crate::model::{Batch, Encoded, Parameters, Pass, Seq2Seq};
use crate::objective::loss::{
    CrossEntropy, SoftLabels, cross_entropy, distilled_cross_entropy, length_nll,
};

/// A translation model and its loss.
#[derive(Debug)]
pub struct Translation {
    /// The model.
    pub model: Seq2Seq,
    length_loss: f64,
    label_smoothing: f64,
    distillation: f64,
    soft_labels: Option<SoftLabelsConfig>,
    /// What the loss of a corrected token is multiplied by.
    correction: f64,
}

impl Translation {
    /// None for a model that does not translate. `cls` is the source's `[CLS]`.
    pub fn new(
        model: &Model,
        composition: &Composition,
        cls: i64,
        parameters: &Parameters,
        kind: Kind,
    ) -> Option<Self> {
        let (length_loss, label_smoothing, correction) = match &model.objective {
            Objective::Masked(config) => {
                let correction = config.correction.as_ref();
                let correction = correction.map_or(0.0, |config| config.weight / config.share);
                (config.length_loss, config.label_smoothing, correction)
            }
            Objective::Autoregressive(config) => (0.0, config.label_smoothing, 0.0),
            Objective::Ctc(_) | Objective::Mlm(_) => return None,
        };
        let beside = composition.beside.as_ref();
        let distillation = beside.map_or(0.0, |beside| beside.settings.distillation);
        let soft_labels = model.soft_labels().cloned();
        let model = Seq2Seq::new(composition, cls, parameters, kind)?;
        let plain = Self::over(model, length_loss, label_smoothing);
        Some(Self { distillation, soft_labels, correction, ..plain })
    }

    /// The loss of a model that exists already.
    pub fn over(model: Seq2Seq, length_loss: f64, label_smoothing: f64) -> Self {
        Self {
            model,
            length_loss,
            label_smoothing,
            distillation: 0.0,
            soft_labels: None,
            correction: 0.0,
        }
    }

    /// `Σ smoothed nll of the predicted tokens + length_loss · Σ nll of the lengths`; with correction
    /// (CMLMC), `weight / share · Σ smoothed nll of the replaced tokens` more; with asymptotic
    /// distillation (CT-NMT), a share of it is the encoder's distance to the BERT's output; with a
    /// batch's soft labels (BERT-Distilled), a share of the words' loss is the cross-entropy of those.
    ///
    /// The released code of CT-NMT averages words over target tokens, and distances over source
    /// tokens, of a worker's batch. Here the step divides by target tokens, so distances are averaged
    /// over the micro-batch's source tokens, and counted once for each of its target tokens.
    pub fn loss(&self, batch: &PairBatch, device: Device, pass: &Pass) -> Loss {
        let tensors = tensors(batch, device);
        let (encoded, transformed) = self.model.forward(&tensors, pass);
        let (head, labels, smoothing) = (&self.model.head, &tensors.labels, self.label_smoothing);
        let words = match self.soft_labels(batch, device) {
            Some(soft) => distilled_cross_entropy(head, &transformed, labels, smoothing, &soft),
            None => cross_entropy(head, &transformed, labels, smoothing),
        };
        let counts = Sums {
            predicted: batch.labels.len() as f64,
            sentences: batch.samples.len() as f64,
            denominator: batch.target.tokens() as f64,
            source_tokens: batch.source.tokens() as f64,
            tokens: (batch.source.tokens() + batch.target.tokens()) as f64,
            ..Sums::default()
        };
        // Sums are as exact as if they were added up in main memory.
        let exact = |loss: &Tensor| loss.detach().to_kind(Kind::Double);
        let mut surrogate = words.surrogate;
        let mut losses = Losses::new(exact(&words.loss), words.nll);
        losses.soft_nll = Some(words.soft_nll);
        if let Some(replaced) = &batch.replaced {
            let words = self.corrected(replaced, &tensors, &encoded, pass);
            losses.loss += exact(&words.loss) * self.correction;
            surrogate += words.surrogate * self.correction;
        }
        if let Some(log_probs) = &encoded.length_log_probs {
            let nll = length_nll(log_probs, &tensors.lengths);
            losses.loss += exact(&nll) * self.length_loss;
            losses.length_nll = Some(nll.detach());
            surrogate += nll * self.length_loss;
        }
        if let Some(bert) = encoded.bert.as_ref().filter(|_| self.distillation > 0.0) {
            let distance = distance(&encoded.memory, &bert.hidden, &tensors.source_real);
            let share = 1.0 - self.distillation;
            let weight = self.distillation * counts.denominator / counts.source_tokens.max(1.0);
            losses.loss = losses.loss * share + exact(&distance) * weight;
            losses.distillation = Some(distance.detach());
            surrogate = surrogate * share + distance * weight;
        }
        Loss { surrogate, losses, counts }
    }

    /// The loss of predicting what tokens should be that the model itself predicted from masks alone.
    fn corrected(
        &self,
        replaced: &Replaced,
        batch: &Batch,
        encoded: &Encoded,
        pass: &Pass,
    ) -> CrossEntropy {
        let (model, real) = (&self.model, &batch.target_real);
        let on_device = |values: &[i64]| to_device(values, real.device());
        let (positions, labels) = (on_device(&replaced.positions), on_device(&replaced.labels));
        let predicted = no_grad(|| {
            let masks = batch.decoder_input.masked_fill(real, replaced.mask);
            let pass = pass.without_dropout();
            model.head.best(&model.decode(&masks, real, &positions, encoded, &pass))
        });
        let input = batch.decoder_input.view([-1]).index_copy(0, &positions, &predicted);
        let input = input.view_as(&batch.decoder_input);
        let states = model.decode(&input, real, &positions, encoded, pass);
        cross_entropy(&model.head, &states, &labels, self.label_smoothing)
    }

    /// The soft labels that a batch has.
    fn soft_labels(&self, batch: &PairBatch, device: Device) -> Option<SoftLabels> {
        let (config, rows) = (self.soft_labels.as_ref()?, batch.soft.as_ref()?);
        let shape = [batch.labels.len() as i64, -1];
        let logits = to_device(&rows.logits, device).view(shape);
        Some(SoftLabels {
            ids: to_device(&rows.ids, device).view(shape),
            probabilities: (logits / config.temperature).softmax(-1, Kind::Float),
            weight: config.weight,
        })
    }
}

/// `Σ |encoder − BERT|²` over real source tokens; the BERT is the teacher and gets no gradient:
/// `[B, S, D]` twice and `[B, S]` to a scalar in f32.
fn distance(memory: &Tensor, bert: &Tensor, is_real: &Tensor) -> Tensor {
    let difference = (memory - bert.detach()).to_kind(Kind::Float);
    let squares = difference.square().sum_dim_intlist([-1i64].as_slice(), false, Kind::Float); // [B, S]
    (squares * is_real.to_kind(Kind::Float)).sum(Kind::Float)
}

/// A micro-batch as tensors.
fn tensors(batch: &PairBatch, device: Device) -> Batch {
    let (source, source_real) = rows(&batch.source, device);
    let (decoder_input, target_real) = rows(&batch.decoder_input, device);
    let on_device = |values: &[i64]| to_device(values, device);
    Batch {
        source,
        source_real,
        decoder_input,
        target_real,
        positions: on_device(&batch.loss_positions),
        labels: on_device(&batch.labels),
        lengths: on_device(&batch.target.lengths),
    }
}
