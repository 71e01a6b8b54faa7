//! What does not go together inside a Transformer.

use super::Report;
use crate::model::{Decoder, Encoder};
use crate::run::RunConfig;
use crate::transformer::Transformer;

/// Reports every conflict.
pub fn check(run: &RunConfig, report: &mut Report) {
    if let Encoder::Transformer(transformer) = &run.model.encoder {
        heads(transformer, "model.encoder.transformer", report);
    }
    if let Some(Decoder::Transformer(transformer)) = &run.model.decoder {
        heads(transformer, "model.decoder.transformer", report);
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
