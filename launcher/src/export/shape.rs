//! config.json: what modeling_tandem.py builds the model from.

use serde_json::{Value, json};
use tandem_config::RunConfig;
use tandem_config::pretrained::bases::{Base, Bases, BertBase, TransformerBase};
use tandem_config::pretrained::bert::BertConfig;
use tandem_config::pretrained::gpt2::Gpt2Config;
use tandem_config::schema::model::{CrossAttention, Decoder, Encoder, Layers, Objective};
use tandem_config::schema::transformer::Positions;

use super::tokenizers::Special;

/// The longest source in tokens, with the `[SEP]` at its end.
pub fn longest(run: &RunConfig, bases: &Bases) -> usize {
    // A BERT beside the encoder reads [CLS] before the sentence.
    let beside = bases.fused.as_ref().map(|bert| bert.config.positions().saturating_sub(1));
    let model = bases.encoder.positions().min(beside.unwrap_or(usize::MAX));
    run.data.max_length.unwrap_or(usize::MAX).min(model)
}

/// The text of config.json, as JSON.
///
/// # Panics
/// If the bases are of another config.
pub fn config(run: &RunConfig, bases: &Bases, source: Special, target: Special) -> Value {
    let length_classes = match &run.model.objective {
        Objective::Masked(masked) => Some(masked.length_classes),
        Objective::Autoregressive(_) | Objective::Mlm(_) => None,
    };
    json!({
        "model_type": "tandem",
        "architectures": ["TandemModel"],
        "auto_map": {
            "AutoConfig": "modeling_tandem.TandemConfig",
            "AutoModel": "modeling_tandem.TandemModel",
        },
        "dtype": "float32",
        "source": encoder(run, bases),
        "target": decoder(run, bases),
        "beside": bases.fused.as_ref().map(|bert| beside(run, bert)),
        "length_classes": length_classes,
        "decoding": run.decoding,
        "max_source_length": longest(run, bases),
        "source_tokens": source,
        "target_tokens": target,
    })
}

fn encoder(run: &RunConfig, bases: &Bases) -> Value {
    match (&run.model.encoder, &bases.encoder) {
        (Encoder::Bert(side), Base::Bert(base)) => {
            let count = base.config.num_hidden_layers;
            let adapters = side.adapters.as_ref().map(|adapters| {
                json!({ "dim": adapters.dim, "layers": indices(&adapters.layers, count) })
            });
            with(bert(&base.config), &[("adapters", json!(adapters))])
        }
        (_, Base::Transformer(base)) => transformer(base),
        _ => panic!("the encoder's base is of another run"),
    }
}

fn decoder(run: &RunConfig, bases: &Bases) -> Value {
    match (&run.model.decoder, &bases.decoder) {
        (Some(Decoder::Bert(side)), Some(Base::Bert(base))) => {
            let adapters = adapters(side.cross_attention.as_ref(), base.config.num_hidden_layers);
            with(bert(&base.config), &[("cross_attention", adapters)])
        }
        (Some(Decoder::Gpt2(side)), Some(Base::Gpt2(base))) => {
            let adapters = adapters(side.cross_attention.as_ref(), base.config.n_layer);
            with(gpt2(&base.config), &[("cross_attention", adapters)])
        }
        (_, Some(Base::Transformer(base))) => transformer(base),
        _ => panic!("the decoder's base is of another run"),
    }
}

/// The BERT beside the encoder: what reads it where it is fused has its state of `[CLS]`, too.
fn beside(run: &RunConfig, base: &BertBase) -> Value {
    with(bert(&base.config), &[("keeps_cls", json!(run.model.ct_nmt().is_none()))])
}

fn bert(bert: &BertConfig) -> Value {
    json!({
        "kind": "bert",
        "vocab_size": bert.vocab_size,
        "hidden_size": bert.hidden_size,
        "num_layers": bert.num_hidden_layers,
        "num_heads": bert.num_attention_heads,
        "intermediate_size": bert.intermediate_size,
        "num_positions": bert.positions(),
        "first_position": bert.first_position,
        "type_vocab_size": bert.type_vocab_size,
        "layer_norm_eps": bert.layer_norm_eps,
    })
}

fn gpt2(gpt2: &Gpt2Config) -> Value {
    json!({
        "kind": "gpt2",
        "vocab_size": gpt2.vocab_size,
        "hidden_size": gpt2.n_embd,
        "num_layers": gpt2.n_layer,
        "num_heads": gpt2.n_head,
        "intermediate_size": gpt2.inner(),
        "num_positions": gpt2.n_positions,
        "layer_norm_eps": gpt2.layer_norm_epsilon,
    })
}

fn transformer(base: &TransformerBase) -> Value {
    let config = &base.config;
    json!({
        "kind": "transformer",
        "vocab_size": base.vocab_size,
        "hidden_size": config.hidden,
        "num_layers": config.layers,
        "num_heads": config.heads,
        "intermediate_size": config.feed_forward,
        "num_positions": config.max_length,
        "learned_positions": config.positions == Positions::Learned,
        "is_fused": config.bert_fused.is_some(),
        "has_switch": config.ct_nmt.as_ref().is_some_and(|ct_nmt| ct_nmt.dynamic_switch),
    })
}

fn adapters(chosen: Option<&CrossAttention>, count: usize) -> Value {
    json!(chosen.map(|adapters| {
        json!({
            "heads": adapters.heads,
            "feed_forward": adapters.feed_forward,
            "layers": indices(&adapters.layers, count),
        })
    }))
}

fn indices(layers: &Layers, count: usize) -> Vec<usize> {
    (0..count).filter(|&layer| layers.contains(layer, count)).collect()
}

fn with(mut shape: Value, more: &[(&str, Value)]) -> Value {
    for (key, value) in more {
        shape[key] = value.clone();
    }
    shape
}
