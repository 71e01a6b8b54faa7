//! A description of the model of a run, for its report.

use std::path::Path;

use crate::pretrained::Side;
use crate::schema::model::{Encoder, Layers, Model, Objective, PretrainedDecoder, Train};
use crate::schema::transformer::Transformer;

/// Its parts, each with what it is.
pub fn of(model: &Model) -> Vec<(String, String)> {
    let encoder = match &model.encoder {
        Encoder::Bert(encoder) => {
            let mut text = match (&encoder.pretrained, &encoder.new) {
                (Some(path), _) => format!("BERT {}, {}", name(path), trained(encoder.train)),
                (None, Some(new)) => {
                    format!("a new BERT, {} layers, {} wide", new.layers, new.hidden)
                }
                (None, None) => "BERT".into(),
            };
            if let Some(adapters) = &encoder.adapters {
                let layers = layers(&adapters.layers);
                text += &format!(", adapters {} wide in {layers}", adapters.dim);
            }
            text
        }
        Encoder::Transformer(shape) => transformer(shape),
    };
    let mut parts = vec![("encoder".to_owned(), encoder)];
    if let Some(decoder) = &model.decoder {
        let text = match Side::of(decoder) {
            Side::Pretrained(kind, settings) => pretrained(kind.name, settings),
            Side::Transformer(shape) => transformer(shape),
        };
        parts.push(("decoder".to_owned(), text));
    }
    let objective = match &model.objective {
        Objective::Masked(masked) if masked.correction.is_some() => {
            "conditional masked language modelling with length prediction and correction"
        }
        Objective::Masked(_) => "conditional masked language modelling with length prediction",
        Objective::Autoregressive(_) => "autoregressive, with a causal decoder",
        Objective::Ctc(ctc) if ctc.glancing.is_some() => {
            "connectionist temporal classification, with glancing"
        }
        Objective::Ctc(_) => "connectionist temporal classification",
        Objective::Mlm(mlm) if mlm.conditional => {
            "masked language modelling of targets, conditional on their sources"
        }
        Objective::Mlm(_) => "masked language modelling",
    };
    let objective = match model.soft_labels() {
        Some(labels) => format!(
            "{objective}, with soft labels of BERT {} (weight {}, temperature {})",
            name(labels.bert()),
            labels.weight,
            labels.temperature
        ),
        None => objective.to_owned(),
    };
    parts.push(("objective".to_owned(), objective));
    if let Some(init) = &model.init {
        parts.push(("start".to_owned(), format!("the trained weights of {}", init.display())));
    }
    parts
}

fn pretrained(kind: &str, decoder: &PretrainedDecoder) -> String {
    let mut text = format!("{kind} {}, {}", name(&decoder.pretrained), trained(decoder.train));
    if let Some(cross) = &decoder.cross_attention {
        let layers = layers(&cross.layers);
        text += &format!(", cross-attention with {} heads in {layers}", cross.heads);
        if cross.feed_forward > 0 {
            text += &format!(" and a feed-forward layer {} wide", cross.feed_forward);
        }
    }
    text
}

fn transformer(shape: &Transformer) -> String {
    let Transformer { layers, hidden, heads, feed_forward, .. } = shape;
    let mut text = format!(
        "Transformer, {layers} layers, {hidden} wide, {heads} heads, feed-forward {feed_forward}"
    );
    for (_, beside) in shape.besides() {
        text += &format!(", {} BERT {}", beside.relation, name(&beside.pretrained));
    }
    text
}

/// The last part of a path.
fn name(path: &str) -> String {
    let last = Path::new(path).file_name();
    last.map_or(path.to_owned(), |name| name.to_string_lossy().into_owned())
}

fn trained(train: Train) -> &'static str {
    match train {
        Train::Adapters | Train::Frozen => "frozen",
        Train::All => "trained on",
        Train::Scratch => "trained from random weights",
    }
}

fn layers(layers: &Layers) -> String {
    match layers {
        Layers::All => "all layers".into(),
        Layers::Top(count) => format!("the last {count} layers"),
        Layers::List(list) => {
            let list: Vec<String> = list.iter().map(usize::to_string).collect();
            format!("layers {}", list.join(", "))
        }
    }
}
