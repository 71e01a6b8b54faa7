//! config.json: what modeling_tandem.py builds the model from.

use serde_json::{Value, json};
use tandem_config::RunConfig;
use tandem_config::composition::{Beside, Composition, Decoder, Encoder, TransformerBase};
use tandem_config::pretrained::PretrainedModel;
use tandem_config::pretrained::bert::BertConfig;
use tandem_config::pretrained::gpt2::Gpt2Config;
use tandem_config::schema::model::{CrossAttention, Layers};
use tandem_config::schema::transformer::Positions;

use super::tokenizers::Special;

/// The text of config.json, as JSON.
pub(super) fn config(
    run: &RunConfig,
    composition: &Composition,
    source: Special,
    target: Special,
) -> Value {
    json!({
        "model_type": "tandem",
        "architectures": ["TandemModel"],
        "auto_map": {
            "AutoConfig": "modeling_tandem.TandemConfig",
            "AutoModel": "modeling_tandem.TandemModel",
        },
        "dtype": "float32",
        "source": encoder(&composition.encoder),
        "target": composition.decoder.as_ref().map(decoder),
        "beside": composition.beside.as_ref().map(beside),
        "length_classes": composition.length_classes,
        "decoding": run.decoding,
        "max_source_length": composition.max_lengths(run).0,
        "upsampling": composition.upsampling,
        "source_tokens": source,
        "target_tokens": target,
    })
}

fn encoder(encoder: &Encoder) -> Value {
    match encoder {
        Encoder::Bert(model, settings) => {
            let count = model.config.num_hidden_layers;
            let adapters = settings.adapters.as_ref().map(|adapters| {
                json!({ "dim": adapters.dim, "layers": indices(&adapters.layers, count) })
            });
            with(bert(&model.config), &[("adapters", json!(adapters))])
        }
        Encoder::Transformer(base) => transformer(base),
    }
}

fn decoder(decoder: &Decoder) -> Value {
    match decoder {
        Decoder::Pretrained(model, settings) => {
            let adapters = adapters(settings.cross_attention.as_ref(), model.shape().layers);
            let shape = match model {
                PretrainedModel::Bert(model) => bert(&model.config),
                PretrainedModel::Gpt2(model) => gpt2(&model.config),
            };
            with(shape, &[("cross_attention", adapters)])
        }
        Decoder::Transformer(base) => transformer(base),
    }
}

/// The BERT beside the encoder: what reads it where it is fused has its state of `[CLS]`, too.
fn beside(beside: &Beside) -> Value {
    with(bert(&beside.bert.config), &[("keeps_cls", json!(beside.settings.keeps_cls))])
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
