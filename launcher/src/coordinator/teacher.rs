//! Training data that another model makes before training begins: sequence-level distillation
//! (Kim and Rush 2016) and back-translation (Sennrich et al. 2016); and the BERT whose soft labels a
//! run learns from (Chen et al. 2020), with which its own workers label the data.
//!
//! A teacher is trained first where its run file is given, as a run of its own. Then, for pairs, this
//! run's workers have it translate ([`translations`]), and what it wrote becomes the pairs in the run's
//! folder, in the order of the text.

use std::collections::HashSet;
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use tandem_cluster::run::atomic;
use tandem_cluster::run::folder::RunFolderError;
use tandem_cluster::run::records::Translation;
use tandem_cluster::run::store::{ADAPTERS, Checkpoint};
use tandem_cluster::run::synthetic::{self, Record};
use tandem_cluster::run::task::{self, Input, Task, TooLong};

use super::translations;
use super::{Coordinator, Halt};
use crate::journal::Stage;
use crate::prepare::distillation::{
    DistillationJob, DistillationStats, SCORES, SOFT_LABELS, Teacher, jobs,
};
use crate::score::{self, Scoring};
use crate::terminal::exit::Exit;

/// How often a teacher that another launcher has is looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Has all teachers trained, and make their pairs, as far as that is not done yet.
pub(super) fn teach(coordinator: &mut Coordinator) -> Result<(), Halt> {
    if !matches!(coordinator.journal.state.stage, Stage::Train | Stage::Data) {
        return Ok(());
    }
    if let Some(teacher) = Teacher::of_soft_labels(&coordinator.config)?
        && teacher.is_missing()
    {
        train(coordinator, SOFT_LABELS, teacher)?;
    }
    for job in jobs(&coordinator.config) {
        // What was trained on it already decides what it is; see data.allow_changed.
        let is_trained = !coordinator.run.store().steps()?.is_empty();
        let made = synthetic::verified(&job.folder);
        if made.is_some_and(|made| is_trained || job.input.hash().is_ok_and(|now| now == made.text))
        {
            continue;
        }
        coordinator.journal.state.stage = Stage::Data;
        coordinator.journal.save();
        let (teacher, checkpoint) = trained(coordinator, &job)?;
        make(coordinator, &job, &teacher, &checkpoint)?;
    }
    coordinator.journal.state.stage = Stage::Train;
    Ok(())
}

/// The teacher, trained now if need be.
fn trained(
    coordinator: &mut Coordinator,
    job: &DistillationJob,
) -> Result<(Teacher, Checkpoint), Halt> {
    let mut teacher = Teacher::find(&job.teacher)?;
    if teacher.is_run_file {
        let run = teacher.run.clone();
        train(coordinator, job.key, teacher)?;
        teacher = Teacher::find(run.path())?;
    }
    let checkpoint = teacher.checkpoint()?;
    Ok((teacher, checkpoint))
}

/// Launches a teacher, which resumes if it was interrupted. If another launcher is training it, such as
/// that of another student, this waits.
fn train(coordinator: &mut Coordinator, key: &str, teacher: Teacher) -> Result<(), Halt> {
    let run = teacher.run.path().display();
    coordinator.progress.say(&format!("{key}: the teacher {run} first"));
    let mut waits = false;
    loop {
        let (program, interrupts) =
            (coordinator.workers.program.clone(), coordinator.workers.interrupts.clone());
        let error = match (coordinator.launch)(teacher.config.clone(), program, interrupts) {
            Ok(Exit::Done) => return Ok(()),
            Ok(exit) => return Err(Halt::Exit(exit)),
            Err(error) => error,
        };
        let Some(RunFolderError::Locked { holder, .. }) = error.downcast_ref() else {
            return Err(error.into());
        };
        if coordinator.workers.interrupts.stop_requested() {
            return Err(Halt::Exit(Exit::Stopped));
        }
        if !std::mem::replace(&mut waits, true) {
            coordinator
                .progress
                .say(&format!("{key}: waiting for {holder}, which has the teacher"));
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Has the teacher translate, and makes pairs of the translations.
fn make(
    coordinator: &mut Coordinator,
    job: &DistillationJob,
    teacher: &Teacher,
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
    teacher: &Teacher,
    checkpoint: &Checkpoint,
) -> anyhow::Result<Task> {
    let task = Task {
        model: teacher.run.path().to_owned(),
        config: None,
        checkpoint: checkpoint.folder().to_owned(),
        decoding: teacher.decoding(job)?,
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
    teacher: &Teacher,
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
