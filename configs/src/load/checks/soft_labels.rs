//! Whether a teacher's soft labels are there, and fit to the model that learns from them.

use crate::load::inputs::{opened, teacher, token_types};
use crate::load::report::Report;
use crate::pretrained::Side;
use crate::pretrained::bert::{self, BertFolder};
use crate::schema::model::Vocabulary;
use crate::schema::run::RunConfig;
use crate::schema::soft_labels::SoftLabels;
use crate::schema::transformer::Transformer;

/// The section of a run file.
const SECTION: &str = "model.objective.autoregressive.soft_labels";

/// The BERT that labels the data, which its run may be about to make.
fn input(labels: &SoftLabels, report: &mut Report) {
    let mut key = format!("{SECTION}.pretrained");
    if let Some(run) = &labels.teacher {
        key = format!("{SECTION}.teacher");
        teacher(run, &key, report);
        // What the run of a run file makes is judged by its objective, whether it is there or not.
        if run.is_file() || !run.exists() {
            return;
        }
    }
    // Without a name there is another problem, see the checks.
    let Some(name) = &labels.pretrained else { return };
    let Some(folder) = opened(name, &key, BertFolder::open, report) else { return };
    token_types(&folder, &key, report);
    if !folder.has_mlm_head() {
        let message = format!(
            "{} has no head that predicts words, must be the export of a run with the mlm \
             objective and `conditional: true`",
            folder.path.display()
        );
        report.conflict(&key, message);
    }
}

/// Both sides have the ids of the teacher, a BERT. Whether it is the same vocabulary only its files
/// tell, which the trainer compares.
pub(super) fn check(run: &RunConfig, report: &mut Report) {
    let Some(labels) = run.model.soft_labels() else { return };
    input(labels, report);
    if labels.pretrained.is_none() {
        match &labels.teacher {
            None => {
                let message = "found neither `pretrained` nor `teacher`, must have one of \
                               pretrained | teacher";
                report.conflict(SECTION, message.into());
            }
            Some(teacher) if teacher.is_file() => {
                let message = format!(
                    "{} does not say where its run lies, must be a run file",
                    teacher.display()
                );
                report.conflict(&format!("{SECTION}.teacher"), message);
            }
            // That it is not there has been said.
            Some(_) => {}
        }
    }
    if let Some(encoder) = run.model.encoder.transformer() {
        vocabulary(encoder, "model.encoder", report);
    }
    match run.model.decoder.as_ref().map(Side::of) {
        Some(Side::Transformer(decoder)) => vocabulary(decoder, "model.decoder", report),
        Some(Side::Pretrained(kind, _)) if kind.key != bert::KIND.key => {
            let message = format!(
                "a {} writes other ids than the BERT of soft_labels, must be {{transformer: ...}} \
                 or {{bert: ...}} with that BERT's vocabulary",
                kind.name
            );
            report.conflict(&format!("model.decoder.{}", kind.key), message);
        }
        Some(Side::Pretrained(..)) | None => {}
    }
}

fn vocabulary(side: &Transformer, key: &str, report: &mut Report) {
    if !matches!(side.vocabulary, Vocabulary::Bert(_)) {
        let message = "the BERT of soft_labels reads and labels its own ids, must be \
                       {bert: ...}: that BERT or another one with its vocabulary";
        report.conflict(&format!("{key}.transformer.vocabulary"), message.into());
    }
}
