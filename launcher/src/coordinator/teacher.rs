//! Training data that another model makes before training begins: sequence-level distillation
//! (Kim and Rush 2016) and back-translation (Sennrich et al. 2016); and the BERT whose soft labels a
//! run learns from (Chen et al. 2020), with which its own workers label the data.
//!
//! A teacher is trained first where its run file is given ([`dependency`]). Then this run's workers have
//! it translate ([`translations`]), and what it wrote becomes the pairs in the run's folder, in the order
//! of the text.

use std::collections::HashSet;
use std::fs;

use anyhow::Context;
use serde_json::json;
use tandem_cluster::run::atomic;
use tandem_cluster::run::records::Translation;
use tandem_cluster::run::store::{ADAPTERS, Checkpoint};
use tandem_cluster::run::synthetic::{self, Record};
use tandem_cluster::run::task::{self, Input, Task, TooLong};

use super::{Coordinator, Halt};
use super::{dependency, translations};
use crate::journal::Stage;
use crate::prepare::dependency::Dependency;
use crate::prepare::distillation::{
    DistillationJob, DistillationStats, SCORES, jobs, teacher_checkpoint,
};
use crate::score::{self, Scoring};

/// Has all teachers make their pairs, as far as that is not done yet.
pub(super) fn teach(coordinator: &mut Coordinator) -> Result<(), Halt> {
    for job in jobs(&coordinator.config) {
        // What was trained on it already decides what it is; see data.allow_changed.
        let is_trained = coordinator.is_trained()?;
        let made = synthetic::verified(&job.folder);
        if made.is_some_and(|made| is_trained || job.input.hash().is_ok_and(|now| now == made.text))
        {
            continue;
        }
        coordinator.journal.state.stage = Stage::Data;
        coordinator.journal.save();
        let teacher = dependency::trained(coordinator, job.key, Dependency::find(&job.teacher)?)?;
        let checkpoint = teacher_checkpoint(&teacher)?;
        make(coordinator, &job, &teacher, &checkpoint)?;
    }
    Ok(())
}

/// Has the teacher translate, and makes pairs of the translations.
fn make(
    coordinator: &mut Coordinator,
    job: &DistillationJob,
    teacher: &Dependency,
    checkpoint: &Checkpoint,
) -> Result<(), Halt> {
    let task = task_of(job, teacher, checkpoint)?;
    if Task::read(&job.folder).is_ok_and(|other| other.key != task.key) {
        coordinator.progress.say(&format!(
            "note: {} has translations of another teacher, text or decoding: starting over",
            job.folder.display()
        ));
        fs::remove_dir_all(&job.folder)?;
    }
    let unwritable = || format!("cannot write into {}", job.folder.display());
    task.write(&job.folder).with_context(unwritable)?;
    let source = job.input.hash().context("cannot read the text that is to be translated")?;
    let translations = translations::of(coordinator, job.key, &job.folder, &task)?;
    let scoring = Scoring::from(&coordinator.config.evaluation);
    let stats = figures(job, teacher, &translations, scoring);
    let text = serde_json::to_string_pretty(&stats)? + "\n";
    atomic::write(&job.folder.join(SCORES), &text)?;
    let weights = checkpoint.manifest().files.get(ADAPTERS);
    let record = Record {
        key: task.key,
        text: source,
        sha256: String::new(),
        teacher: teacher.run.path().to_owned(),
        weights: weights.map_or_else(String::new, |file| file.sha256.clone()),
    };
    let pairs = translations.into_iter().map(&job.pair);
    let record = synthetic::write(&job.folder, pairs, record).with_context(unwritable)?;
    for path in task::scaffold(&job.folder) {
        // Only space is lost if they stay.
        let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
    }
    coordinator.progress.say(&format!("{}: {}", job.key, summary(&stats)));
    coordinator.journal.event("made", json!({ "key": job.key, "sha256": record.sha256 }));
    Ok(())
}

fn task_of(
    job: &DistillationJob,
    teacher: &Dependency,
    checkpoint: &Checkpoint,
) -> anyhow::Result<Task> {
    let task = Task {
        model: teacher.run.path().to_owned(),
        config: None,
        checkpoint: checkpoint.folder().to_owned(),
        decoding: job.decoding(teacher)?,
        input: job.input.clone(),
        too_long: TooLong::Skip,
        chunk: job.chunk,
        key: String::new(),
    };
    let manifest = checkpoint.manifest();
    let config = &teacher.config;
    let settings = json!({
        "weights": manifest.files.get(ADAPTERS),
        "bases": manifest.bases,
        "model": config.model,
        "precision": config.training.precision,
        "max_length": config.data.max_length,
    });
    let key = task.hash(&settings).context("cannot read the text that is to be translated")?;
    Ok(Task { key, ..task })
}

fn figures(
    job: &DistillationJob,
    teacher: &Dependency,
    translations: &[Translation],
    scoring: Scoring,
) -> DistillationStats {
    let has_references = matches!(job.input, Input::Sources(_));
    let words = |text: &dyn Fn(&Translation) -> &str| -> usize {
        translations.iter().map(|t| text(t).split_whitespace().count()).sum()
    };
    let other = match has_references {
        true => words(&|t| &t.reference),
        false => words(&|t| &t.source),
    };
    DistillationStats {
        key: job.key.into(),
        teacher: teacher.run.path().to_owned(),
        sentences: translations.len(),
        ratio: match job.input {
            Input::Choice { ratio, .. } => Some(ratio),
            Input::Sources(_) | Input::Lines(_) => None,
        },
        empty: translations.iter().filter(|t| t.hypothesis.is_empty()).count(),
        duplicates: duplicates(translations.iter().map(|t| &*t.hypothesis)),
        reference_duplicates: has_references
            .then(|| duplicates(translations.iter().map(|t| &*t.reference))),
        length_ratio: words(&|t| &t.hypothesis) as f64 / other.max(1) as f64,
        scores: has_references.then(|| score::corpus(translations, scoring)),
    }
}

/// How many texts, empty ones aside, have been there before.
fn duplicates<'a>(texts: impl Iterator<Item = &'a str>) -> usize {
    let mut seen = HashSet::new();
    texts.filter(|text| !text.is_empty() && !seen.insert(*text)).count()
}

/// A one-line summary of the synthetic data.
fn summary(stats: &DistillationStats) -> String {
    let bleu = stats
        .scores
        .as_ref()
        .map_or(String::new(), |scores| format!(", teacher BLEU {:.2}", scores.bleu_13a.score));
    format!(
        "{} sentences{bleu}, length ratio {:.3}, {} duplicates, {} empty",
        stats.sentences, stats.length_ratio, stats.duplicates, stats.empty
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_are_counted_from_the_second_on() {
        assert_eq!(duplicates(["a", "b", "a", "", "", "a"].into_iter()), 2);
    }
}
