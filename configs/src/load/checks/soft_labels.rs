//! Whether a teacher's soft labels fit to the model that learns from them.

use super::Report;
use crate::schema::model::{Decoder, Encoder, Vocabulary};
use crate::schema::run::RunConfig;
use crate::schema::transformer::Transformer;

/// Both sides have the ids of the teacher, a BERT. Whether it is the same vocabulary only its files
/// tell, which the trainer compares.
pub fn check(run: &RunConfig, report: &mut Report) {
    let Some(labels) = run.model.soft_labels() else { return };
    if labels.pretrained.is_none() {
        let key = "model.objective.autoregressive.soft_labels";
        match &labels.teacher {
            None => {
                let message = "found neither `pretrained` nor `teacher`, must have one of \
                               pretrained | teacher";
                report.conflict(key, message.into());
            }
            Some(teacher) if teacher.is_file() => {
                let message = format!(
                    "{} does not say where its run lies, must be a run file",
                    teacher.display()
                );
                report.conflict(&format!("{key}.teacher"), message);
            }
            // That it is not there has been said.
            Some(_) => {}
        }
    }
    if let Encoder::Transformer(encoder) = &run.model.encoder {
        vocabulary(encoder, "model.encoder", report);
    }
    match &run.model.decoder {
        Some(Decoder::Transformer(decoder)) => vocabulary(decoder, "model.decoder", report),
        Some(Decoder::Gpt2(_)) => {
            let message = "a GPT-2 writes other ids than the BERT of soft_labels, must be \
                           {transformer: ...} or {bert: ...} with that BERT's vocabulary";
            report.conflict("model.decoder.gpt2", message.into());
        }
        Some(Decoder::Bert(_)) | None => {}
    }
}

fn vocabulary(side: &Transformer, key: &str, report: &mut Report) {
    if !matches!(side.vocabulary, Vocabulary::Bert(_)) {
        let message = "the BERT of soft_labels reads and labels its own ids, must be \
                       {bert: ...}: that BERT or another one with its vocabulary";
        report.conflict(&format!("{key}.transformer.vocabulary"), message.into());
    }
}
