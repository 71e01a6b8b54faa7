//! Tiny models.

use std::path::Path;

use serde_json::{Value, json};
use tandem_config::RunConfig;
use tandem_config::composition::{self, Beside, Composition, TransformerBase};
use tandem_config::parameters;
use tandem_config::pretrained::bert::{Bert, BertConfig};
use tandem_config::pretrained::{PretrainedModel, Side};
use tandem_config::schema::model::{Encoder, Vocabulary};
use tandem_config::schema::transformer::Transformer;
use tandem_trainer::inference::Sources;
use tandem_trainer::model::parameters::Weights;
use tandem_trainer::model::{Parameters, Seq2Seq};
use tch::{Device, Kind, Tensor, no_grad};

/// Entries of the vocabulary that a fused BERT reads.
pub(crate) const SOURCE_WORDS: usize = 23;

/// What a BERT beside an encoder reads before a sentence.
pub(crate) const CLS: i64 = 2;

/// A model and its tensors.
pub(crate) struct Tiny {
    pub parameters: Parameters,
    pub model: Seq2Seq,
}

/// A Transformer's config with `words` entries, 8 wide.
pub(crate) fn transformer(words: usize, positions: &str) -> Value {
    json!({ "transformer": {
        "layers": 2, "hidden": 8, "heads": 2, "feed_forward": 12, "dropout": 0.0,
        "positions": positions, "max_length": 32,
        "vocabulary": { "learn": { "size": words, "lowercase": false } },
    } })
}

/// A Transformer's config, fused with a BERT that is 12 wide and has `SOURCE_WORDS` entries.
pub(crate) fn fused(words: usize, positions: &str) -> Value {
    let mut config = transformer(words, positions);
    config["transformer"]["bert_fused"] = json!({ "pretrained": "nowhere" });
    config
}

/// A Transformer's config, trained together with a BERT that has `SOURCE_WORDS` entries.
pub(crate) fn ct_nmt() -> Value {
    let mut config = transformer(SOURCE_WORDS, "sinusoidal");
    config["transformer"]["ct_nmt"] = json!({ "pretrained": "nowhere", "distillation": 0.3 });
    config
}

/// A BERT that reads, 8 wide, with `SOURCE_WORDS` entries.
pub(crate) fn bert_encoder() -> Value {
    json!({ "bert": { "pretrained": "nowhere", "train": "scratch", "dropout": 0.0 } })
}

/// A BERT that reads, with adapters that are 5 wide behind its layers.
pub(crate) fn adapted_bert_encoder() -> Value {
    let mut config = bert_encoder();
    config["bert"]["adapters"] = json!({ "dim": 5 });
    config
}

/// The golden's GPT-2, with cross-attention inside both layers; 8 wide.
pub(crate) fn gpt2() -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/gpt2/folder");
    json!({ "gpt2": {
        "pretrained": folder, "dropout": 0.0, "cross_attention": { "heads": 2, "dropout": 0.0 },
    } })
}

/// A BERT that writes, with cross-attention behind the layers of `list`; 8 wide.
pub(crate) fn bert(list: &[usize]) -> Value {
    json!({ "bert": {
        "pretrained": "nowhere", "train": "scratch", "dropout": 0.0,
        "cross_attention": { "heads": 2, "layers": { "list": list }, "dropout": 0.0 },
    } })
}

/// A model of random weights; a BERT has `bert_words` entries.
pub(crate) fn tiny(
    encoder: Value,
    decoder: Value,
    objective: Value,
    bert_words: usize,
    seed: u64,
) -> Tiny {
    of_parts(parts(encoder, decoder, objective, bert_words, seed))
}

/// A model of random weights behind a BERT with adapters that is 12 wide.
pub(crate) fn behind_a_wide_bert(decoder: Value, objective: Value, bert_words: usize) -> Tiny {
    of_parts(parts_behind_a_wide_bert(decoder, objective, bert_words))
}

/// What such a model is made of.
pub(crate) fn parts_behind_a_wide_bert(
    decoder: Value,
    objective: Value,
    bert_words: usize,
) -> (RunConfig, Composition, Parameters) {
    parts_of_width(12, adapted_bert_encoder(), decoder, objective, bert_words, 1)
}

fn of_parts((_, composition, parameters): (RunConfig, Composition, Parameters)) -> Tiny {
    let model = Seq2Seq::new(&composition, CLS, &parameters, Kind::Float).expect("a decoder");
    Tiny { parameters, model }
}

/// A model with fewer near-ties than random weights give.
pub(crate) fn sharpened(tiny: Tiny, factor: f64) -> Tiny {
    no_grad(|| {
        for mut weights in tiny.parameters.trained.iter().map(Tensor::shallow_clone) {
            let _ = weights.g_mul_scalar_(factor);
        }
    });
    tiny
}

/// Sources of these lengths, padded.
pub(crate) fn sources(lengths: &[i64]) -> Sources {
    let longest = lengths.iter().copied().max().unwrap_or(1);
    let lengths = Tensor::from_slice(lengths).unsqueeze(1);
    let place = Tensor::arange(longest, (Kind::Int64, Device::Cpu)).unsqueeze(0);
    let real = place.less_tensor(&lengths);
    // Ids from 1 to 8 that depend on the sentence's length and the place alone.
    let ids: Tensor = (&place * 5 + &lengths * 3).remainder(8) + 1;
    Sources { ids: ids * real.to_kind(Kind::Int64), real, lengths: None }
}

/// What a model of random weights is made of; a BERT has `bert_words` entries.
pub(crate) fn parts(
    encoder: Value,
    decoder: Value,
    objective: Value,
    bert_words: usize,
    seed: u64,
) -> (RunConfig, Composition, Parameters) {
    parts_of_width(8, encoder, decoder, objective, bert_words, seed)
}

/// The same; a BERT that reads is `width` wide.
fn parts_of_width(
    width: usize,
    encoder: Value,
    decoder: Value,
    objective: Value,
    bert_words: usize,
    seed: u64,
) -> (RunConfig, Composition, Parameters) {
    let run: RunConfig = serde_json::from_value(json!({
        "run": { "name": "tiny" },
        "data": { "train": { "tsv": { "path": "x", "source": 1, "target": 2 } } },
        "model": { "encoder": encoder, "decoder": decoder, "objective": objective },
        "training": { "steps": 1, "max_tokens": 99, "micro_batches": 1,
                      "schedule": { "constant": { "rate": 1.0 } } },
    }))
    .expect("a config");
    let open = |path: &str| Bert::open(Path::new(path)).expect("a BERT");
    let is_there = |path: &str| Path::new(path).is_dir();
    let encoder = match &run.model.encoder {
        Encoder::Transformer(source) => composition::Encoder::Transformer(of(source)),
        Encoder::Bert(settings) => {
            let there = settings.pretrained.as_deref().filter(|path| is_there(path));
            let bert = there.map_or_else(|| bert_base(SOURCE_WORDS, width), open);
            composition::Encoder::Bert(bert, settings.clone())
        }
    };
    let decoder = match Side::of(run.model.decoder.as_ref().expect("a decoder")) {
        Side::Transformer(target) => composition::Decoder::Transformer(of(target)),
        Side::Pretrained(kind, settings) => {
            let model = match is_there(&settings.pretrained) {
                true => (kind.open)(Path::new(&settings.pretrained)).expect("a model"),
                false => PretrainedModel::Bert(bert_base(bert_words, 8)),
            };
            composition::Decoder::Pretrained(model, settings.clone())
        }
    };
    let beside = run.model.besides().into_iter().next().map(|(_, settings)| {
        // An encoder that is trained together with a BERT is as wide as that.
        let width = if settings.keeps_cls { 12 } else { 8 };
        Beside { bert: bert_base(SOURCE_WORDS, width), settings }
    });
    let composition = Composition::new(encoder, Some(decoder), beside, &run.model.objective);
    let list = parameters::model(&composition);
    let pretrained: Vec<_> = composition
        .folders()
        .map(|(side, folder)| {
            (side, Weights::read(&folder.join("model.safetensors")).expect("weights"))
        })
        .collect();
    let kind = Kind::Float;
    let parameters =
        Parameters::new(&list, &pretrained, seed, kind, Device::Cpu).expect("parameters");
    (run, composition, parameters)
}

/// A BERT that is nowhere: it starts from random weights, and all of them are trained.
fn bert_base(words: usize, width: usize) -> Bert {
    let config: BertConfig = serde_json::from_value(json!({
        "vocab_size": words, "hidden_size": width, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 12, "max_position_embeddings": 32,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }))
    .expect("a config");
    Bert::new(config)
}

fn of(config: &Transformer) -> TransformerBase {
    let Vocabulary::Learn { size, .. } = &config.vocabulary else { panic!("those here") };
    let (config, vocab_size) = (config.clone(), *size);
    TransformerBase { config, vocab_size, vocabulary: None }
}
