//! The model that is compared: a small AB-Net of random weights, with a batch of its own.

use anyhow::Context;
use tandem_config::composition::Composition;
use tandem_config::parameters::{self, Init, Parameter};
use tandem_config::pretrained::bert::{Bert, BertConfig};
use tandem_config::schema::cluster::{GradientDtype, Reduction};
use tandem_config::schema::decoding::MaskPredict;
use tandem_config::schema::model::{CrossAttention, EncoderAdapters, Layers};
use tandem_config::schema::training::Optimizer;
use tch::{Device, Kind, Tensor, no_grad};

use crate::data::example::{Padded, PairBatch};
use crate::device::precision::Kinds;
use crate::inference::mask_predict::translate;
use crate::inference::{Sources, TargetIds};
use crate::model::{Parameters, Pass, Seq2Seq};
use crate::objective::{Sums, Translation, rows};
use crate::optim::{Adam, runs};
use crate::parallel::solo::Solo;
use crate::parallel::{Reducer, reducer};
use crate::random::{Purpose, stream};
use crate::training::update::Updates;

/// Of weights and ids.
const SEED: u64 = 1;
const VOCABULARY: usize = 1000;
const POSITIONS: usize = 64;
const LENGTH_CLASSES: usize = 40;
const IDS: TargetIds = TargetIds { pad: 0, mask: 4, first: 2, end: 3 };
/// The ids below are special.
const FIRST_WORD: u64 = 5;
/// Tokens of each sentence of the batch, on either side.
const LENGTHS: [(usize, usize); 6] = [(3, 5), (17, 20), (9, 7), (28, 30), (2, 2), (12, 11)];
/// Sentences that are translated, the batch's first.
const DECODED: usize = 4;
const LEARNING_RATE: f64 = 1e-3;

/// The model on one device, in one precision, ready for its first step.
pub(crate) struct Subject {
    device: Device,
    pub(super) parameters: Parameters,
    objective: Translation,
    batch: PairBatch,
    updates: Updates,
}

/// What is compared, in main memory.
pub(crate) struct Numbers {
    /// `H_E` of real source tokens, and 0 of the others: `[B, S, D]`, f32.
    pub encoder_output: Tensor,
    /// `[B, classes]`, f32; row 0 is −∞.
    pub length_log_probs: Tensor,
    /// The translations' ids.
    pub decoded: Vec<Vec<u32>>,
    /// The loss before each step, of a target token.
    pub losses: Vec<f64>,
    /// The gradient of each step, of the whole batch's loss: `[N]`, f32.
    pub gradients: Vec<Tensor>,
    /// The trained parameters' names with their places in a gradient.
    pub names: Vec<(String, std::ops::Range<usize>)>,
}

impl Subject {
    /// The model with its first weights, which are the same everywhere.
    ///
    /// # Errors
    /// None that a list of parameters without files has.
    pub(crate) fn new(device: Device, kinds: Kinds) -> anyhow::Result<Self> {
        let ab_net = ab_net();
        let parameters = Parameters::new(&list(&ab_net), &[], SEED, kinds.frozen, device)?;
        let model = Seq2Seq::new(&ab_net, IDS.first, &parameters, kinds.compute);
        let objective = Translation::over(model.context("AB-Net has a decoder")?, 0.1, 0.1);
        let settings = reducer::Settings {
            reduction: Reduction::Plain,
            dtype: GradientDtype::F32,
            shards: 1,
            sums: Sums::COUNT,
            bucket_elements: 1 << 16,
            into_forward: false,
        };
        let reducer = Reducer::new(Box::new(Solo), &parameters, &settings);
        let adam = Adam::new(&Optimizer::default(), &parameters.weights);
        let updates = Updates::new(adam, reducer, &parameters);
        Ok(Self { device, parameters, objective, batch: batch(), updates })
    }

    /// All that is compared; takes so many steps of training.
    ///
    /// # Errors
    /// None that a single rank has.
    pub(crate) fn numbers(mut self, steps: usize) -> anyhow::Result<Numbers> {
        let (ids, real) = rows(&self.batch.source, self.device);
        let encoder = &self.objective.model.encoder;
        let encoded = no_grad(|| encoder.forward(&ids, &real, &Pass::eval()));
        let encoder_output = here(&(encoded.memory * real.unsqueeze(-1)));
        let length_log_probs = here(&encoded.length_log_probs.context("no length prediction")?);
        let decoded = self.decoded();
        let names = self.names();
        let (mut losses, mut gradients) = (Vec::new(), Vec::new());
        for _ in 0..steps {
            losses.push(self.backward());
            gradients.push(here(&self.updates.reducer.gradients()));
            self.update()?;
        }
        Ok(Numbers { encoder_output, length_log_probs, decoded, losses, gradients, names })
    }

    /// A whole training step.
    ///
    /// # Errors
    /// None that a single rank has.
    pub(crate) fn step(&mut self) -> anyhow::Result<()> {
        self.backward();
        self.update()
    }

    /// Leaves the batch's gradient in the reducer; the loss of a target token.
    fn backward(&mut self) -> f64 {
        let loss = self.objective.loss(&self.batch, self.device, &Pass::eval());
        self.updates.reducer.begin(0, &loss.losses.with(loss.counts, Kind::Float));
        loss.surrogate.backward();
        self.updates.reducer.send_rest();
        let sums = loss.sums();
        sums.loss / sums.denominator
    }

    fn update(&mut self) -> anyhow::Result<()> {
        let sums = self.updates.reducer.sums()?;
        self.updates.begin(&self.parameters, &sums, 0.0, |_| LEARNING_RATE)?;
        Ok(self.updates.finish(&self.parameters)?)
    }

    fn decoded(&self) -> Vec<Vec<u32>> {
        let (ids, real) = rows(&self.batch.source, self.device);
        let first = |rows: Tensor| rows.narrow(0, 0, DECODED as i64);
        let sources = Sources { ids: first(ids), real: first(real), lengths: None };
        let config = MaskPredict { iterations: 4, length_candidates: 2, ..MaskPredict::default() };
        let model = &self.objective.model;
        let found = translate(model, &config, IDS, POSITIONS, &sources, &mut || true);
        found.unwrap_or_default().into_iter().map(|translation| translation.ids).collect()
    }

    fn names(&self) -> Vec<(String, std::ops::Range<usize>)> {
        let (names, leaves) = (self.parameters.names.iter(), &self.parameters.trained);
        let mut start = 0;
        let place = |(name, leaf): (&String, &Tensor)| {
            let range = start..start + leaf.numel();
            start = range.end;
            (name.clone(), range)
        };
        names.zip(leaves).map(place).collect()
    }
}

/// The weights after Adam's steps with these gradients: `[N]`, f32.
///
/// # Errors
/// None that a list of parameters without files has.
pub(crate) fn replayed(device: Device, gradients: &[Tensor]) -> anyhow::Result<Tensor> {
    let parameters = Parameters::new(&list(&ab_net()), &[], SEED, Kind::Float, device)?;
    let mut adam = Adam::new(&Optimizer::default(), &parameters.weights);
    let runs = runs(&parameters);
    let skipped = Tensor::zeros([], (Kind::Float, device));
    for gradient in gradients {
        let gradient = gradient.to_device(device);
        adam.begin(&skipped);
        runs.iter()
            .for_each(|run| adam.update(&parameters, run, &gradient, LEARNING_RATE, &skipped));
    }
    Ok(here(&parameters.weights))
}

/// A copy in main memory, in f32.
fn here(tensor: &Tensor) -> Tensor {
    tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).copy()
}

fn ab_net() -> Composition {
    let bert = BertConfig {
        vocab_size: VOCABULARY,
        hidden_size: 128,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        intermediate_size: 256,
        hidden_act: "gelu".into(),
        hidden_dropout_prob: 0.0,
        attention_probs_dropout_prob: 0.0,
        max_position_embeddings: POSITIONS,
        first_position: 0,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
    };
    let adapters = EncoderAdapters { dim: 64, layers: Layers::All };
    let cross_attention =
        CrossAttention { heads: 4, feed_forward: 64, layers: Layers::All, dropout: 0.0 };
    let berts = (Bert::new(bert.clone()), Bert::new(bert));
    Composition::ab_net(berts, adapters, cross_attention, LENGTH_CLASSES, None)
}

/// Frozen BERTs and trained adapters, all of them of random weights that are large enough for no part
/// of the model to vanish beside another.
fn list(ab_net: &Composition) -> Vec<Parameter> {
    let mut list = parameters::model(ab_net);
    for parameter in &mut list {
        let is_berts = [".bert.", ".cls."].iter().any(|part| parameter.name.contains(part));
        parameter.trained = !is_berts;
        if matches!(parameter.init, Init::Normal(_) | Init::Zeros) {
            parameter.init = Init::Normal(0.1);
        }
    }
    list
}

/// Sentences of random words, every other one of the targets' masked.
fn batch() -> PairBatch {
    let mut random = stream(SEED, Purpose::TargetCorruption, &[]);
    let mut sentence = |length: usize| -> Vec<u32> {
        let words = VOCABULARY as u64 - FIRST_WORD;
        (0..length).map(|_| (FIRST_WORD + random.below(words)) as u32).collect()
    };
    let sources = LENGTHS.map(|(length, _)| sentence(length));
    let targets = LENGTHS.map(|(_, length)| sentence(length));
    let pad = IDS.pad as u32;
    let target = Padded::new(&targets, pad);
    let (mut inputs, mut loss_positions, mut labels) = (targets.clone(), Vec::new(), Vec::new());
    for (row, input) in inputs.iter_mut().enumerate() {
        for place in (row % 2..input.len()).step_by(2) {
            loss_positions.push((row * target.columns + place) as i64);
            labels.push(i64::from(input[place]));
            input[place] = IDS.mask as u32;
        }
    }
    PairBatch {
        source: Padded::new(&sources, pad),
        decoder_input: Padded::new(&inputs, pad),
        target,
        loss_positions,
        labels,
        soft: None,
        replaced: None,
        samples: (0..LENGTHS.len() as u32).collect(),
    }
}
