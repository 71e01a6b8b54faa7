//! What a run will need in memory and on disk, before it starts.
//!
//! Weights, gradients, optimizer state and checkpoints are exact. Activations are an estimate: what
//! PyTorch keeps for the backward pass at the largest micro-batch.
//!
//! Letters: N sentences, T tokens of each, D width, F feed-forward width, H heads, V vocabulary.

use crate::composition::{Beside, Composition};
use crate::parameters::limits::{LABELLING_TOKENS, logit_rows};
use crate::parameters::reduction::buffers;
use crate::parameters::{self, Parameter, frozen_count, trained_count};
use crate::pretrained::bert::Bert;
use crate::pretrained::network::{Network, Shape};
use crate::schema::cluster::Reduction;
use crate::schema::model::{Objective, Train, joined};
use crate::schema::run::RunConfig;
use crate::schema::training::Precision;

/// Bytes of an f32.
const F32: u64 = 4;

/// Bytes of main memory that a rank takes before it has a model: libtorch, its threads, and the programs
/// that it compiles for products. Measured on x86-64.
pub const PROGRAM: u64 = 220 << 20;

/// Bytes that a run will need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Frozen weights, per rank: 4 bytes each, or 2 in bf16.
    pub frozen: u64,
    /// Trained weights, Adam's two moments, and as many buffers of gradients as a rank holds, per
    /// rank: 4 bytes each, 4 times in all with one buffer.
    pub trained: u64,
    /// The BERT that labels the pairs before the first step and is gone then: its weights, and the
    /// activations of one layer and its logits at a time, per rank; an estimate.
    pub labels: u64,
    /// Activations of the largest micro-batch, per rank; an estimate.
    pub activations: u64,
    /// One checkpoint: trained weights and Adam's two moments, 3 times 4 bytes each.
    pub checkpoint: u64,
    /// All checkpoints that are kept at once at most, and the one being written.
    pub disk: u64,
}

impl Estimate {
    /// Memory of one rank, at its most.
    pub fn memory(&self) -> u64 {
        self.frozen + self.trained + self.activations.max(self.labels)
    }
}

/// What a run's needs follow from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Its model.
    pub composition: &'a Composition,
    /// The model's tensors, as of [`crate::parameters::model`].
    pub parameters: &'a [Parameter],
    /// The BERT that labels its pairs, as of [`crate::load::labelling_bert`].
    pub labels: Option<&'a Bert>,
    /// Its number of ranks.
    pub ranks: usize,
}

/// Estimates what a run needs.
pub fn estimate(run: &RunConfig, inputs: Inputs) -> Estimate {
    let Inputs { composition, parameters, .. } = inputs;
    let number = match run.training.precision {
        Precision::F32 | Precision::Tf32 => F32,
        Precision::Bf16 => F32 / 2,
    };
    let trained = trained_count(parameters) as u64;
    let checkpoint = 3 * F32 * trained;
    Estimate {
        frozen: number * frozen_count(parameters) as u64,
        trained: (3 + gradient_buffers(run, inputs.ranks)) * F32 * trained,
        labels: inputs.labels.map_or(0, |bert| labels(bert, number)),
        activations: activations(run, composition, number),
        checkpoint,
        disk: checkpoint * (kept(run) + 1),
    }
}

/// Buffers of gradients that the rank with the most of them holds.
fn gradient_buffers(run: &RunConfig, ranks: usize) -> u64 {
    match run.cluster.reduction {
        Reduction::Plain => 1,
        Reduction::Reproducible => buffers(run.training.micro_batches, ranks) as u64,
    }
}

/// What the BERT that labels the pairs needs while it does.
fn labels(bert: &Bert, number: u64) -> u64 {
    let weights = parameters::mlm(bert, Train::Frozen);
    let weights = (frozen_count(&weights) + trained_count(&weights)) as u64;
    let layer = Shape { layers: 1, ..bert.shape() };
    let length = layer.positions as u64;
    let tokens = LABELLING_TOKENS as u64;
    let vocabulary = bert.vocab_size() as u64;
    number * (weights + layer.activations(tokens, length))
        + F32 * tokens.min(logit_rows(vocabulary)) * vocabulary
}

/// Most checkpoints kept at once: the last, which are also averaged, the best, those of every so
/// many steps, and one that an evaluation or a stop has written last.
fn kept(run: &RunConfig) -> u64 {
    let checkpoints = &run.checkpoints;
    let multiples = |every: u64| run.training.steps.checked_div(every).unwrap_or(0);
    let written = multiples(checkpoints.every) + multiples(run.evaluation.every) + 2;
    let last = checkpoints.keep_last.max(checkpoints.average) as u64;
    let marked = multiples(checkpoints.keep_every);
    (last + checkpoints.keep_best as u64 + marked + 1).min(written)
}

/// What is kept for the backward pass when a micro-batch is as full as it may be.
///
/// Longest sentences are the worst, since attention is quadratic in T.
fn activations(run: &RunConfig, composition: &Composition, number: u64) -> u64 {
    let source = composition.encoder.network();
    let target = composition.decoder.as_ref().map(|decoder| decoder.network());
    let positions = |network: &dyn Network| network.shape().positions;
    let positions = target.map_or(usize::MAX, positions).min(positions(source)) as u64;
    let tokens = run.training.max_tokens as u64;
    let row = |length| if run.model.joins_pairs() { joined(length, length) } else { length };
    // With CTC the decoder reads several tokens for each source token, and batches count its tokens.
    let upsampling = composition.upsampling.unwrap_or(1) as u64;
    let row = |length| upsampling * row(length) as u64;
    let length = run.data.max_length.map_or(positions, row).min(positions).min(tokens);

    let mut total = source.activations(tokens / upsampling, length / upsampling);
    let is_tuned = |beside: &&Beside| beside.train() == Train::All;
    if let Some(beside) = composition.beside.as_ref().filter(is_tuned) {
        total += beside.bert.activations(tokens / upsampling, length / upsampling);
    }
    if let Some(decoder) = &composition.decoder {
        let network = decoder.network();
        let (count, heads, feed_forward) = decoder.cross_attention();
        // Query, key, value, attended, sum, norm: 6 T·D; probabilities H·T·T; the feed-forward.
        let each = tokens * (6 * network.shape().width as u64 + 2 * feed_forward as u64)
            + 2 * tokens * length * heads as u64;
        let pass = network.activations(tokens, length) + count as u64 * each;
        total += pass * decoder_passes(&run.model.objective);
    }
    // Logits and their log-softmax at the predicted positions, in f32: half of the positions on
    // average with `masked`, and never more than all; so many at once as the trainer takes.
    let vocabulary = target.unwrap_or(source).vocab_size() as u64;
    let predicted = match &run.model.objective {
        Objective::Masked(_) | Objective::Autoregressive(_) | Objective::Ctc(_) => tokens,
        Objective::Mlm(mlm) => (tokens as f64 * mlm.predicted).ceil() as u64,
    };
    total * number + 2 * F32 * predicted.min(logit_rows(vocabulary)) * vocabulary
}

/// Passes over the decoder with gradients.
fn decoder_passes(objective: &Objective) -> u64 {
    match objective {
        Objective::Masked(masked) if masked.correction.is_some() => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::composition::Encoder;
    use crate::pretrained::bert::BertConfig;
    use crate::schema::model;

    /// 1 layer of width 4, feed-forward 8, 2 heads; 10 entries, 6 positions.
    fn tiny() -> (RunConfig, Composition) {
        let run: RunConfig = serde_yaml_value(
            "{run: {name: tiny}, data: {train: {tsv: {path: x, source: 1, target: 2}}}, model: \
             {encoder: {bert: {pretrained: x, train: all}}, objective: {mlm: {predicted: 0.5}}}, \
             training: {steps: 100, max_tokens: 12, micro_batches: 1, schedule: {constant: \
             {rate: 1}}}, checkpoints: {every: 10, keep_last: 3, keep_best: 2, keep_every: 50, \
             average: 1}}",
        );
        let config: BertConfig = serde_yaml_value(
            "{vocab_size: 10, hidden_size: 4, num_hidden_layers: 1, num_attention_heads: 2, \
             intermediate_size: 8, max_position_embeddings: 6}",
        );
        let model::Encoder::Bert(settings) = run.model.encoder.clone() else { panic!("a BERT") };
        let composition = Composition {
            encoder: Encoder::Bert(Bert::new(config), settings),
            decoder: None,
            beside: None,
            is_causal: false,
            length_classes: None,
            upsampling: None,
        };
        (run, composition)
    }

    fn serde_yaml_value<T: serde::de::DeserializeOwned>(text: &str) -> T {
        let value: serde_json::Value = serde_yaml::from_str(text).unwrap();
        serde_json::from_value(value).unwrap()
    }

    /// What one rank needs for this model.
    fn estimate(run: &RunConfig, composition: &Composition, parameters: &[Parameter]) -> Estimate {
        super::estimate(run, Inputs { composition, parameters, labels: None, ranks: 1 })
    }

    #[test]
    fn weights_and_checkpoints_are_exact() {
        let (run, composition) = tiny();
        let mut parameters = parameters::model(&composition);
        for parameter in &mut parameters[..3] {
            parameter.trained = false;
        }
        let estimate = estimate(&run, &composition, &parameters);
        // Word, position and token type embeddings: (10 + 6 + 2) · 4 numbers.
        assert_eq!(estimate.frozen, 72 * 4);
        // Norm 8; attention 4 · 20 + 8; feed-forward 40 + 36 + 8; head 20 + 8 + 10.
        assert_eq!(estimate.trained, 218 * 16);
        assert_eq!(estimate.checkpoint, 218 * 12);
        // 3 last, 2 best, those of steps 50 and 100, an extra one, and the one being written.
        assert_eq!(estimate.disk, 218 * 12 * 9);
        assert_eq!(estimate.memory(), estimate.frozen + estimate.trained + estimate.activations);
    }

    #[test]
    fn a_reproducible_sum_needs_more_buffers_of_gradients() {
        let (mut run, composition) = tiny();
        run.cluster.reduction = Reduction::Reproducible;
        run.training.micro_batches = 8;
        let parameters = parameters::model(&composition);
        let trained = |ranks| {
            let inputs =
                Inputs { composition: &composition, parameters: &parameters, labels: None, ranks };
            super::estimate(&run, inputs).trained
        };
        // Three buffers for eight micro-batches, two for the first of three ranks, one for two.
        let count = trained_count(&parameters) as u64;
        assert_eq!([1, 3, 4].map(trained), [24, 20, 16].map(|bytes| bytes * count));
    }

    #[test]
    fn the_bert_that_labels_takes_the_place_of_activations() {
        let (run, composition) = tiny();
        let Encoder::Bert(bert, _) = &composition.encoder else { panic!("a BERT") };
        let inputs =
            Inputs { composition: &composition, parameters: &[], labels: Some(bert), ranks: 1 };
        let estimate = super::estimate(&run, inputs);
        // 290 weights; 4000 tokens · (11 · 4 + 2 · 8) + 2 · 2 heads · 4000 · 6 numbers; logits.
        assert_eq!(estimate.labels, 4 * (290 + 4000 * 60 + 4 * 4000 * 6) + 4 * 4000 * 10);
        assert!(estimate.labels > estimate.activations);
        assert_eq!(estimate.memory(), estimate.labels);
    }

    #[test]
    fn bf16_halves_the_frozen_weights() {
        let (mut run, composition) = tiny();
        let mut parameters = parameters::model(&composition);
        parameters[0].trained = false;
        let f32 = estimate(&run, &composition, &parameters);
        run.training.precision = Precision::Bf16;
        let bf16 = estimate(&run, &composition, &parameters);
        assert_eq!((f32.frozen, bf16.frozen), (160, 80));
        assert_eq!(f32.trained, bf16.trained);
        assert!(bf16.activations < f32.activations);
    }

    #[test]
    fn activations_by_the_formula() {
        let (run, composition) = tiny();
        let estimate = estimate(&run, &composition, &[]);
        // 12 tokens · (11 · 4 + 2 · 8) + 2 · 2 heads · 12 · 6 = 1008 numbers; logits of 6 positions.
        assert_eq!(estimate.activations, 1008 * 4 + 2 * 4 * 6 * 10);
    }

    #[test]
    fn no_more_logits_are_counted_than_are_held() {
        let (mut run, mut composition) = tiny();
        run.training.max_tokens = 1000;
        let mut activations = |vocab_size| {
            let Encoder::Bert(bert, _) = &mut composition.encoder else { panic!("a BERT") };
            bert.config.vocab_size = vocab_size;
            estimate(&run, &composition, &[]).activations
        };
        let without = activations(1000) - 2 * 4 * 500 * 1000;
        // 500 positions are predicted; 16 Mi elements are 163 rows of 100 Ki words.
        assert_eq!(activations(100 << 10) - without, 2 * 4 * (163 * (100 << 10)));
        assert_eq!(activations(4 << 20) - without, 2 * 4 * (16 * (4 << 20)));
    }
}
