//! Outputs, losses and gradients of a Transformer, against PyTorch's own layers, and of a BERT with
//! a causal mask, against transformers; tests/golden/transformer/make.py made the golden, and
//! tests/golden/bert_fused/make.py that of a Transformer fused with a BERT, tests/golden/gpt2/make.py
//! that of a GPT-2 behind a BERT, tests/golden/roberta/make.py that of a RoBERTa behind an XLM-R, tests/golden/ct_nmt/make.py that of CT-NMT.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};
use tandem_config::RunConfig;
use tandem_config::composition::Composition;
use tandem_config::schema::model::{Ctc as CtcConfig, Objective};
use tandem_trainer::data::ctc::{CtcBatch, Glance};
use tandem_trainer::data::example::{Padded, PairBatch, Replaced};
use tandem_trainer::model::parameters::Weights;
use tandem_trainer::model::{Batch, Parameters, Pass, Positions, Seq2Seq};
use tandem_trainer::objective::Translation;
use tandem_trainer::objective::ctc::Ctc;
use tandem_trainer::objective::loss::{cross_entropy, length_nll};
use tch::{Device, Kind, Tensor};

use crate::support::{
    CLS, SOURCE_WORDS, Tiny, bert, bert_encoder, ct_nmt, fused, gpt2, parts, tiny, transformer,
};

pub(crate) const TARGET_WORDS: usize = 19;
const LENGTH_LOSS: f64 = 0.3;

pub(crate) fn autoregressive() -> Value {
    json!({ "autoregressive": { "label_smoothing": 0.1 } })
}

pub(crate) fn masked() -> Value {
    json!({ "masked": { "length_classes": 11 } })
}

pub(crate) struct Golden {
    tensors: HashMap<String, Tensor>,
    weights: Weights,
}

impl Golden {
    pub(crate) fn open(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("../tests/golden/{name}/golden.safetensors"));
        let tensors = Tensor::read_safetensors(&path).expect("the golden").into_iter().collect();
        Self { tensors, weights: Weights::read(&path).expect("the golden") }
    }

    pub(crate) fn get(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("the golden has no `{name}`"))
    }

    /// The model with the golden's weights, whose names begin with `prefix`.
    pub(crate) fn load(&self, parameters: &Parameters, prefix: &str) {
        parameters.load(&parameters.weights, &self.weights, prefix).expect("the golden's weights");
    }

    /// The batch in which the decoder sees `input` and predicts the tokens that `chosen` marks.
    fn batch(&self, input: &Tensor, chosen: &Tensor) -> Batch {
        let (source, target) = (self.get("source"), self.get("target"));
        let positions = chosen.view([-1]).nonzero().view([-1]);
        let target_real = target.ne(0);
        Batch {
            source: source.shallow_clone(),
            source_real: source.ne(0),
            decoder_input: input.shallow_clone(),
            lengths: target_real.sum_dim_intlist(1, false, Kind::Int64),
            target_real,
            labels: target.view([-1]).index_select(0, &positions),
            positions,
        }
    }

    /// That batch as it comes out of a corpus.
    fn pairs(&self, input: &Tensor, chosen: &Tensor) -> PairBatch {
        let batch = self.batch(input, chosen);
        let flat = |ids: &Tensor| Vec::<i64>::try_from(ids.view([-1])).expect("ids");
        let rows = batch.source.size()[0];
        let padded = |ids: &Tensor, is_real: &Tensor| Padded {
            ids: flat(ids),
            rows: rows as usize,
            columns: ids.size()[1] as usize,
            lengths: flat(&is_real.sum_dim_intlist(1, false, Kind::Int64)),
        };
        PairBatch {
            source: padded(&batch.source, &batch.source_real),
            decoder_input: padded(input, &batch.target_real),
            target: padded(self.get("target"), &batch.target_real),
            loss_positions: flat(&batch.positions),
            labels: flat(&batch.labels),
            soft: None,
            replaced: None,
            samples: (0..rows as u32).collect(),
        }
    }

    fn rows(&self, name: &str) -> Vec<Vec<f64>> {
        Vec::try_from(self.get(name).to_kind(Kind::Double)).expect("rows")
    }

    /// The pairs as CTC's micro-batch; the second target does not fit into its 8 positions.
    fn ctc_batch(&self, glance: Option<Glance>) -> CtcBatch {
        let source = self.get("source");
        let flat = |ids: &Tensor| Vec::<i64>::try_from(ids.view([-1])).expect("ids");
        let lengths = flat(&source.ne(0).sum_dim_intlist(1, false, Kind::Int64));
        let columns = source.size()[1] as usize;
        assert_eq!(self.rows("ctc.targets")[0], [5., 5., 7., 9., 5.]);
        let masks: Vec<Vec<u32>> =
            lengths.iter().map(|&length| vec![4; 2 * length as usize]).collect();
        CtcBatch {
            source: Padded { ids: flat(source), rows: 3, columns, lengths },
            decoder_input: Padded::new(&masks, 0),
            words: Padded::new(&[vec![5, 7, 9], vec![3], vec![11]], 0),
            classes: Padded::new(&[vec![1, 1, 2, 3, 1], vec![1; 5], vec![1]], 0),
            fits: vec![true, false, true],
            glance,
            samples: vec![0, 1, 2],
        }
    }

    pub(crate) fn check_gradients(&self, parameters: &Parameters, prefix: &str) {
        for (name, parameter) in parameters.names.iter().zip(&parameters.trained) {
            let Some(expected) = self.tensors.get(&format!("{prefix}{name}")) else {
                panic!("the golden has no gradient of {name}");
            };
            close(name, &parameter.grad(), expected);
        }
    }
}

/// Within 1e-5 of the largest value, plus 2e-6 for what is zero in theory.
pub(crate) fn close(name: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!(found.size(), expected.size(), "{name}");
    let finite = expected.isfinite();
    let error = ((found - expected).masked_fill(&finite.logical_not(), 0.0)).abs().max();
    let largest = expected.masked_fill(&finite.logical_not(), 0.0).abs().max();
    let (error, largest) = (error.double_value(&[]), largest.double_value(&[]));
    assert!(error <= 1e-5 * largest + 2e-6, "{name}: error {error}, largest {largest}");
}

/// The logits at every position, to be compared where there are tokens: `[B, T, V]`.
fn logits(model: &Seq2Seq, batch: &Batch) -> Tensor {
    let pass = Pass::eval();
    let (ids, real) = (&batch.decoder_input, &batch.target_real);
    let encoded = model.encoder.forward(&batch.source, &batch.source_real, &pass);
    let all = Tensor::arange(ids.numel() as i64, (Kind::Int64, ids.device()));
    let memory = model.decoder.memory(&encoded);
    let at = Positions::new(&all, ids);
    let hidden = model.decoder.forward(ids, real, &memory, &at, &pass);
    let size = ids.size();
    model.head.project(&model.head.transform(&hidden)).view([size[0], size[1], -1])
}

fn real(values: &Tensor, is_real: &Tensor) -> Tensor {
    values.masked_fill(&is_real.logical_not().unsqueeze(-1), 0.0)
}

/// Compares an autoregressive model with the golden's: logits, memory, loss, gradients.
pub(crate) fn check_autoregressive(golden: &Golden, tiny: &Tiny) {
    golden.load(&tiny.parameters, "weight.");
    let target_real = golden.get("target").ne(0);
    let batch = golden.batch(golden.get("autoregressive.input"), &target_real);
    let found = real(&logits(&tiny.model, &batch), &target_real);
    close("logits", &found, &real(golden.get("autoregressive.logits"), &target_real));

    let (encoded, transformed) = tiny.model.forward(&batch, &Pass::eval());
    let source_real = &batch.source_real;
    let expected = real(golden.get("autoregressive.memory"), source_real);
    close("memory", &real(&encoded.memory, source_real), &expected);
    assert!(encoded.length_log_probs.is_none());
    let words = cross_entropy(&tiny.model.head, &transformed, &batch.labels, 0.1);
    close("loss", &words.loss, golden.get("autoregressive.loss"));
    words.surrogate.backward();
    golden.check_gradients(&tiny.parameters, "autoregressive.gradient.");
}

/// Compares a masked model with length prediction with the golden's.
pub(crate) fn check_masked(golden: &Golden, tiny: &Tiny) {
    golden.load(&tiny.parameters, "weight.");
    let chosen = golden.get("masked.chosen").ne(0);
    let batch = golden.batch(golden.get("masked.input"), &chosen);
    let target_real = &batch.target_real;
    let found = real(&logits(&tiny.model, &batch), target_real);
    close("logits", &found, &real(golden.get("masked.logits"), target_real));

    let (encoded, transformed) = tiny.model.forward(&batch, &Pass::eval());
    let source_real = &batch.source_real;
    let expected = real(golden.get("masked.memory"), source_real);
    close("memory", &real(&encoded.memory, source_real), &expected);
    let lengths = encoded.length_log_probs.expect("a length prediction");
    close("lengths", &lengths, golden.get("masked.length_log_probs"));
    let words = cross_entropy(&tiny.model.head, &transformed, &batch.labels, 0.1);
    let length = length_nll(&lengths, &batch.lengths) * LENGTH_LOSS;
    close("loss", &(&words.loss + &length), golden.get("masked.loss"));
    (words.surrogate + length).backward();
    golden.check_gradients(&tiny.parameters, "masked.gradient.");
}

/// A masked model that corrects its own predictions.
pub(crate) fn correcting() -> Value {
    let correction = json!({ "share": 0.5, "weight": 0.7 });
    json!({ "masked": {
        "length_classes": 11, "length_loss": LENGTH_LOSS, "correction": correction,
    } })
}

/// Compares a masked model that corrects its own predictions with the golden's.
pub(crate) fn check_correction(
    golden: &Golden,
    (run, composition, parameters): (RunConfig, Composition, Parameters),
) {
    golden.load(&parameters, "weight.");
    let translation = Translation::new(&run.model, &composition, CLS, &parameters, Kind::Float);
    let translation = translation.expect("a translation");
    let input = golden.get("masked.input");
    let mut pairs = golden.pairs(input, &golden.get("masked.chosen").ne(0));
    let replaced = golden.pairs(input, &golden.get("correction.replaced").ne(0));
    let PairBatch { loss_positions: positions, labels, .. } = replaced;
    assert_eq!(positions.len(), 2);
    pairs.replaced = Some(Replaced { positions, labels, mask: 4 });
    let loss = translation.loss(&pairs, Device::Cpu, &Pass::eval());
    let found = Tensor::from(loss.sums().loss as f32);
    close("loss", &found, golden.get("correction.loss"));
    loss.surrogate.backward();
    golden.check_gradients(&parameters, "correction.gradient.");
}

/// Compares a model that predicts blanks with the golden's, without and with glancing.
pub(crate) fn check_ctc(
    golden: &Golden,
    (run, composition, parameters): (RunConfig, Composition, Parameters),
) {
    assert_eq!(run.model.objective, Objective::Ctc(CtcConfig::default()));
    golden.load(&parameters, "weight.");
    let ctc = Ctc::new(&composition, CLS, &parameters, Kind::Float).expect("blanks");
    let glance = Glance { ratio: 0.5, draws: golden.rows("glancing.draws") };
    for (objective, glance) in [("ctc", None), ("glancing", Some(glance))] {
        let loss = ctc.loss(&golden.ctc_batch(glance), Device::Cpu, &Pass::eval());
        let sums = loss.sums();
        close("loss", &Tensor::from(sums.loss as f32), golden.get(&format!("{objective}.loss")));
        assert_eq!(sums.denominator, 6.0, "the tokens of the targets that fit");
        loss.surrogate.backward();
        golden.check_gradients(&parameters, &format!("{objective}.gradient."));
        for parameter in &parameters.trained {
            let _ = parameter.grad().zero_();
        }
    }
}

#[test]
fn an_autoregressive_transformer_is_pytorchs() {
    let (source, target) =
        (transformer(SOURCE_WORDS, "sinusoidal"), transformer(TARGET_WORDS, "learned"));
    let tiny = tiny(source, target, autoregressive(), 0, 1);
    check_autoregressive(&Golden::open("transformer"), &tiny);
}

#[test]
fn a_masked_transformer_with_length_prediction_is_pytorchs() {
    let (source, target) =
        (transformer(SOURCE_WORDS, "sinusoidal"), transformer(TARGET_WORDS, "learned"));
    check_masked(&Golden::open("transformer"), &tiny(source, target, masked(), 0, 1));
}

#[test]
fn transformers_fused_with_a_bert_are_pytorchs() {
    let golden = Golden::open("bert_fused");
    let (source, target) =
        (|| fused(SOURCE_WORDS, "sinusoidal"), || fused(TARGET_WORDS, "learned"));
    check_autoregressive(&golden, &tiny(source(), target(), autoregressive(), 0, 1));
    check_masked(&golden, &tiny(source(), target(), masked(), 0, 1));
}

#[test]
fn a_gpt2_behind_a_bert_is_transformers() {
    let tiny = tiny(bert_encoder(), gpt2(), autoregressive(), 0, 1);
    check_autoregressive(&Golden::open("gpt2"), &tiny);
}

#[test]
fn a_roberta_behind_an_xlm_r_is_transformers() {
    let golden = Golden::open("roberta");
    let folder = |side: &str| {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/golden/roberta/{side}"))
    };
    let of = |objective: Value| {
        let source = json!({ "bert": { "pretrained": folder("source"), "train": "all" } });
        let target = json!({ "bert": {
            "pretrained": folder("target"), "train": "all",
            "cross_attention": { "heads": 2, "dropout": 0.0 },
        } });
        tiny(source, target, objective, 0, 1)
    };
    for (objective, check) in
        [(autoregressive(), check_autoregressive as fn(&Golden, &Tiny)), (masked(), check_masked)]
    {
        let tiny = of(objective);
        // The folders' weights came under BERT's names.
        let mut compared = 0;
        for (name, view) in tiny.parameters.views(&tiny.parameters.weights) {
            if name.contains(".bert.") || name.contains(".cls.") {
                assert_eq!(&view, golden.get(&format!("weight.{name}")), "{name}");
                compared += 1;
            }
        }
        assert_eq!(compared, 2 * (5 + 2 * 16) + 5);
        check(&golden, &tiny);
    }
}

#[test]
fn an_encoder_trained_together_with_a_bert_is_pytorchs() {
    let golden = Golden::open("ct_nmt");
    let target = transformer(TARGET_WORDS, "learned");
    let (run, bases, parameters) = parts(ct_nmt(), target, autoregressive(), 0, 1);
    golden.load(&parameters, "weight.");
    let translation =
        Translation::new(&run.model, &bases, CLS, &parameters, Kind::Float).expect("a translation");
    let target_real = golden.get("target").ne(0);
    let input = golden.get("autoregressive.input");
    let batch = golden.batch(input, &target_real);
    let found = real(&logits(&translation.model, &batch), &target_real);
    close("logits", &found, &real(golden.get("autoregressive.logits"), &target_real));
    let source_real = &batch.source_real;
    let encoded = translation.model.encoder.forward(&batch.source, source_real, &Pass::eval());
    let expected = real(golden.get("autoregressive.memory"), source_real);
    close("memory", &real(&encoded.memory, source_real), &expected);

    let pairs = golden.pairs(input, &target_real);
    let loss = translation.loss(&pairs, Device::Cpu, &Pass::eval());
    // What a step of this batch alone divides by.
    let denominator = loss.counts.denominator;
    let found = Tensor::from((loss.sums().loss / denominator) as f32);
    close("loss", &found, golden.get("autoregressive.loss"));
    (loss.surrogate / denominator).backward();
    golden.check_gradients(&parameters, "autoregressive.gradient.");
}

#[test]
fn a_bert_with_a_causal_mask_is_transformers() {
    let golden = Golden::open("transformer");
    // Without cross-attention: transformers' own would be another.
    let source = transformer(SOURCE_WORDS, "sinusoidal");
    let tiny = tiny(source, bert(&[]), autoregressive(), TARGET_WORDS, 1);
    let decoder: Vec<(&str, Tensor)> = tiny
        .parameters
        .views(&tiny.parameters.weights)
        .filter(|(name, _)| name.starts_with("decoder."))
        .collect();
    assert_eq!(decoder.len(), 5 + 2 * 16 + 5);
    for (name, mut view) in decoder {
        let stored = golden.get(&format!("bert.weight.{name}"));
        tch::no_grad(|| view.copy_(stored));
    }
    let target_real = golden.get("target").ne(0);
    let batch = golden.batch(golden.get("autoregressive.input"), &target_real);
    let found = real(&logits(&tiny.model, &batch), &target_real);
    close("logits", &found, &real(golden.get("bert.logits"), &target_real));
    let (_, transformed) = tiny.model.forward(&batch, &Pass::eval());
    let words = cross_entropy(&tiny.model.head, &transformed, &batch.labels, 0.1);
    close("loss", &words.loss, golden.get("bert.loss"));
    words.surrogate.backward();
    let mut compared = 0;
    for (name, parameter) in tiny.parameters.names.iter().zip(&tiny.parameters.trained) {
        if name.starts_with("decoder.") {
            close(name, &parameter.grad(), golden.get(&format!("bert.gradient.{name}")));
            compared += 1;
        }
    }
    assert_eq!(compared, 5 + 2 * 16 + 5);
}
