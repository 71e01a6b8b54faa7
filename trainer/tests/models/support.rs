//! Tiny models.

use serde_json::{Value, json};
use tandem_config::RunConfig;
use tandem_config::bases::{Base, Bases, BertBase, TransformerBase};
use tandem_config::bert::BertConfig;
use tandem_config::model::{Decoder, Encoder, Vocabulary};
use tandem_config::parameters;
use tandem_config::transformer::Transformer;
use tandem_trainer::model::{Parameters, Seq2Seq};
use tch::{Device, Kind};

/// A model and its tensors.
pub struct Tiny {
    pub parameters: Parameters,
    pub model: Seq2Seq,
}

/// A Transformer's config with `words` entries, 8 wide.
pub fn transformer(words: usize, positions: &str) -> Value {
    json!({ "transformer": {
        "layers": 2, "hidden": 8, "heads": 2, "feed_forward": 12, "dropout": 0.0,
        "positions": positions, "max_length": 32,
        "vocabulary": { "learn": { "size": words, "lowercase": false } },
    } })
}

/// A BERT that writes, with cross-attention behind the layers of `list`; 8 wide.
pub fn bert(list: &[usize]) -> Value {
    json!({ "bert": {
        "pretrained": "nowhere", "train": "scratch", "dropout": 0.0,
        "cross_attention": { "heads": 2, "layers": { "list": list }, "dropout": 0.0 },
    } })
}

/// A model of random weights; a BERT has `bert_words` entries.
pub fn tiny(
    encoder: Value,
    decoder: Value,
    objective: Value,
    bert_words: usize,
    seed: u64,
) -> Tiny {
    let run: RunConfig = serde_json::from_value(json!({
        "run": { "name": "tiny" },
        "data": { "train": { "tsv": { "path": "x", "source": 1, "target": 2 } } },
        "model": { "encoder": encoder, "decoder": decoder, "objective": objective },
        "training": { "steps": 1, "max_tokens": 99, "micro_batches": 1,
                      "schedule": { "constant": { "rate": 1.0 } } },
    }))
    .expect("a config");
    let Encoder::Transformer(source) = &run.model.encoder else { panic!("the encoders here") };
    let decoder = match run.model.decoder.as_ref().expect("a decoder") {
        Decoder::Transformer(target) => of(target),
        Decoder::Bert(_) => {
            let config: BertConfig = serde_json::from_value(json!({
                "vocab_size": bert_words, "hidden_size": 8, "num_hidden_layers": 2,
                "num_attention_heads": 2, "intermediate_size": 12,
                "max_position_embeddings": 32,
            }))
            .expect("a config");
            Base::Bert(BertBase { config, folder: None })
        }
    };
    let bases = Bases { encoder: of(source), decoder: Some(decoder) };
    let list = parameters::model(&run, &bases);
    let kind = Kind::Float;
    let parameters =
        Parameters::new(&list, None, None, seed, kind, Device::Cpu).expect("parameters");
    let model = Seq2Seq::new(&run.model, &bases, &parameters, kind);
    Tiny { parameters, model }
}

fn of(config: &Transformer) -> Base {
    let Vocabulary::Learn { size, .. } = &config.vocabulary else { panic!("those here") };
    let (config, vocab_size) = (config.clone(), *size);
    Base::Transformer(TransformerBase { config, vocab_size, vocabulary: None })
}
