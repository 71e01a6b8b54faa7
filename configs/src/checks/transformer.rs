//! What does not go together inside a Transformer.

use super::Report;
use crate::model::{Decoder, Encoder, Vocabulary};
use crate::run::RunConfig;
use crate::transformer::{BertFused, Transformer};

/// Reports every conflict.
pub fn check(run: &RunConfig, report: &mut Report) {
    if let Encoder::Transformer(transformer) = &run.model.encoder {
        heads(transformer, "model.encoder.transformer", report);
    }
    if let Some(Decoder::Transformer(transformer)) = &run.model.decoder {
        heads(transformer, "model.decoder.transformer", report);
    }
    bert_fused(run, report);
}

/// The one BERT that all layers look at reads the encoder's ids.
fn bert_fused(run: &RunConfig, report: &mut Report) {
    let mut first: Option<(&str, &str)> = None;
    for (side, BertFused { pretrained, .. }) in run.model.bert_fused() {
        let path = format!("model.{side}.transformer.bert_fused.pretrained");
        if let Some((other, name)) = first
            && name != pretrained
        {
            let message = format!("the {other} is fused with {name}, must be the same BERT");
            report.conflict(&path, message);
        }
        first = Some((side, pretrained));
        let reads_its_ids = match &run.model.encoder {
            Encoder::Transformer(encoder) => {
                matches!(&encoder.vocabulary, Vocabulary::Bert(name) if name == pretrained)
            }
            Encoder::Bert(_) => false,
        };
        if !reads_its_ids {
            let message = format!(
                "this BERT reads the encoder's ids, the encoder must be a Transformer with \
                 `vocabulary: {{bert: {pretrained}}}`"
            );
            report.conflict(&path, message);
        }
    }
}

/// Heads share the width out evenly.
fn heads(transformer: &Transformer, path: &str, report: &mut Report) {
    let Transformer { heads, hidden, .. } = transformer;
    if !hidden.is_multiple_of(*heads) {
        let message = format!("{heads} heads must divide hidden: {hidden}");
        report.conflict(&format!("{path}.heads"), message);
    }
}
