//! What does not go together inside a Transformer.

use crate::load::inputs::Shapes;
use crate::load::report::Report;
use crate::schema::model::{Decoder, Objective, Vocabulary};
use crate::schema::run::RunConfig;
use crate::schema::transformer::{BertFused, CtNmt, Transformer};

/// Reports every conflict.
pub(super) fn check(run: &RunConfig, shapes: &Shapes, report: &mut Report) {
    let encoder = run.model.encoder.transformer();
    let decoder = run.model.decoder.as_ref().and_then(Decoder::transformer);
    let sides = [("encoder", encoder), ("decoder", decoder)];
    let sides = sides.map(|(side, transformer)| transformer.map(|shape| (side, shape)));
    for (side, transformer) in sides.into_iter().flatten() {
        heads(transformer, &format!("model.{side}.transformer"), report);
    }
    let mut fused = Vec::new();
    for (side, transformer) in sides.into_iter().flatten() {
        fused.extend(transformer.bert_fused.as_ref().map(|fused| (side, fused)));
    }
    bert_fused(&fused, encoder, report);
    if decoder.is_some_and(|decoder| decoder.ct_nmt.is_some()) {
        let message = "the BERT reads the source: leave this out, or give it to the encoder";
        report.conflict("model.decoder.transformer.ct_nmt", message.into());
    }
    if let Some(encoder) = encoder
        && let Some(own) = &encoder.ct_nmt
    {
        ct_nmt(own, encoder, shapes, report);
        if own.distillation > 0.0 && matches!(run.model.objective, Objective::Ctc(_)) {
            let message = format!(
                "found {}, but the ctc objective has no such part of the loss, must be 0",
                own.distillation
            );
            report.conflict("model.encoder.transformer.ct_nmt.distillation", message);
        }
        if let Some((side, _)) = fused.first() {
            let message = "the encoder has a BERT of ct_nmt already, leave one of the two out";
            report.conflict(&format!("model.{side}.transformer.bert_fused"), message.into());
        }
    }
}

/// The BERT reads the encoder's ids and is as wide; there is one BERT.
fn ct_nmt(
    CtNmt { pretrained, rate, .. }: &CtNmt,
    encoder: &Transformer,
    shapes: &Shapes,
    report: &mut Report,
) {
    let path = "model.encoder.transformer.ct_nmt";
    if !matches!(&encoder.vocabulary, Vocabulary::Bert(name) if name == pretrained) {
        let message = format!(
            "this BERT reads the encoder's ids, which must have `vocabulary: {{bert: {pretrained}}}`"
        );
        report.conflict(&format!("{path}.pretrained"), message);
    }
    if let Some(bert) = shapes.beside
        && bert.width != encoder.hidden
    {
        let message = format!(
            "found {}, must be {}: as wide as the BERT of ct_nmt",
            encoder.hidden, bert.width
        );
        report.conflict("model.encoder.transformer.hidden", message);
    }
    if let Some(rate) = rate
        && rate.end <= rate.peak
    {
        let message =
            format!("found {}, must be more than the peak's step {}", rate.end, rate.peak);
        report.conflict(&format!("{path}.rate.end"), message);
    }
}

/// The one BERT that all layers look at reads the encoder's ids.
fn bert_fused(sides: &[(&str, &BertFused)], encoder: Option<&Transformer>, report: &mut Report) {
    let mut first: Option<(&str, &str)> = None;
    for (side, BertFused { pretrained, .. }) in sides {
        let path = format!("model.{side}.transformer.bert_fused.pretrained");
        if let Some((other, name)) = first
            && name != pretrained
        {
            let message = format!("the {other} is fused with {name}, must be the same BERT");
            report.conflict(&path, message);
        }
        first = Some((side, pretrained));
        let reads_its_ids = encoder.is_some_and(
            |encoder| matches!(&encoder.vocabulary, Vocabulary::Bert(name) if name == pretrained),
        );
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
