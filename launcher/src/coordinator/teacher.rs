//! Training data that another model makes before training begins: sequence-level distillation
//! (Kim and Rush 2016) and back-translation (Sennrich et al. 2016); and the BERT whose soft labels a
//! run learns from (Chen et al. 2020), with which its own workers label the data.
//!
//! A teacher is trained first where its run file is given, as a run of its own. Then, for pairs, this
//! run's workers have it translate ([`translations`]), and what it wrote becomes the pairs in the run's
//! folder, in the order of the text.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tandem_cluster::run::folder::{RunFolder, RunFolderError};
use tandem_cluster::run::store::{ADAPTERS, Checkpoint};
use tandem_cluster::run::synthetic::{self, Pair, Record};
use tandem_cluster::run::task::{Input, Task, TooLong};
use tandem_config::RunConfig;
use tandem_config::load_trained;
use tandem_config::schema::decoding::Decoding;
use tandem_config::schema::model::Objective;

use super::journal::{Stage, State, Status, read_state};
use super::life::{Coordinator, Halt};
use super::translations;
use crate::coordinator::launch::launch;
use crate::prepare;
use crate::score::{self, Scores, Scoring, Translation};
use crate::terminal::exit::{Exit, Refused};

/// How often a teacher that another launcher has is looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The key of a run that makes the BERT of soft labels.
const SOFT_LABELS: &str = "model.objective.autoregressive.soft_labels.teacher";
/// What is told of the pairs that a teacher made.
const SCORES: &str = "scores.json";
/// What is not needed once the pairs are there.
const SCAFFOLD: [&str; 3] = ["shards", "cache", "chosen.txt"];

/// What a teacher is to make.
struct Lesson {
    /// Its key in the config.
    key: &'static str,
    teacher: PathBuf,
    beam: Option<usize>,
    shard: usize,
    input: Input,
    /// Where the pairs go.
    folder: PathBuf,
    /// How a pair is made of a translation.
    pair: Box<dyn Fn(Translation) -> Pair>,
}

/// The figures of what a teacher made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Taught {
    /// The config's key that asked for it.
    pub key: String,
    /// The teacher's run.
    pub teacher: PathBuf,
    /// Sentences translated.
    pub sentences: usize,
    /// At most so many of them were wanted for each pair of `data.train`; none where those pairs
    /// themselves were translated.
    #[serde(default)]
    pub ratio: Option<f64>,
    /// Sentences without a translation, such as those too long for the teacher. They are not
    /// trained on.
    pub empty: usize,
    /// Translations that an earlier sentence has too.
    pub duplicates: usize,
    /// References that an earlier sentence has too; none where there are no references.
    pub reference_duplicates: Option<usize>,
    /// Words of the translations for each word of the references, or of the text that was
    /// translated where there are none.
    pub length_ratio: f64,
    /// The translations against the references; none where there are none.
    pub scores: Option<Scores>,
}

fn lessons(config: &RunConfig) -> Vec<Lesson> {
    let run = RunFolder::new(config.run.path());
    let mut lessons = Vec::new();
    if let Some(distillation) = &config.data.distillation {
        lessons.push(Lesson {
            key: "data.distillation",
            teacher: distillation.teacher.clone(),
            beam: distillation.beam,
            shard: distillation.shard,
            input: Input::Sources(config.data.train.clone()),
            folder: run.distilled(),
            pair: Box::new(|translation| Pair {
                source: translation.source,
                target: translation.hypothesis,
            }),
        });
    }
    if let Some(back_translation) = &config.data.back_translation {
        let tag = match &back_translation.tag {
            Some(tag) => format!("{tag} "),
            None => String::new(),
        };
        lessons.push(Lesson {
            key: "data.back_translation",
            teacher: back_translation.teacher.clone(),
            beam: back_translation.beam,
            shard: back_translation.shard,
            input: Input::Choice {
                path: back_translation.text.clone(),
                ratio: back_translation.ratio,
                of: config.data.train.clone(),
            },
            folder: run.back_translated(),
            // A pair without a source is left out when it is read, so it gets no tag.
            pair: Box::new(move |translation| Pair {
                source: match translation.hypothesis.is_empty() {
                    true => String::new(),
                    false => tag.clone() + &translation.hypothesis,
                },
                target: translation.source,
            }),
        });
    }
    lessons
}

/// A teacher, trained or not.
struct Teacher {
    run: RunFolder,
    config: RunConfig,
    /// Whether it is launched first.
    is_run_file: bool,
}

impl Teacher {
    fn find(path: &Path) -> Result<Self, Refused> {
        let is_run_file = !path.is_dir();
        let (run, config) = if is_run_file {
            let config = prepare::load(path, &[])?;
            (RunFolder::new(config.run.path()), config)
        } else {
            let run = RunFolder::new(path.to_owned());
            let config = load_trained(&run.config()).map_err(|error| Refused(error.to_string()))?;
            (run, config)
        };
        Ok(Self { run, config, is_run_file })
    }

    /// The run whose BERT labels the pairs of `config`, if it is one's.
    fn of_soft_labels(config: &RunConfig) -> Result<Option<Self>, Refused> {
        let Some(labels) = config.model.soft_labels() else { return Ok(None) };
        let Some(path) = &labels.teacher else { return Ok(None) };
        let teacher = Self::find(path)?;
        if !teacher.config.model.joins_pairs() {
            return Err(Refused(format!(
                "{SOFT_LABELS}: {} reads no pairs, must have the mlm objective with `conditional: \
                 true`",
                path.display()
            )));
        }
        let export = teacher.run.export();
        if export != Path::new(labels.bert()) {
            return Err(Refused(format!(
                "{SOFT_LABELS}: {} makes the BERT {}, and `pretrained` is {}: leave `pretrained` out",
                path.display(),
                export.display(),
                labels.bert()
            )));
        }
        Ok(Some(teacher))
    }

    /// Whether it is still to be launched.
    fn is_missing(&self) -> bool {
        let is_done = |state: State| state.stage == Stage::Finished && state.status == Status::Done;
        self.is_run_file && !read_state(&self.run).is_some_and(is_done)
    }

    /// How it translates.
    fn decoding(&self, lesson: &Lesson) -> Result<Decoding, Refused> {
        let (key, teacher) = (lesson.key, lesson.teacher.display());
        if let Objective::Mlm(_) = self.config.model.objective {
            return Err(Refused(format!(
                "{key}.teacher: {teacher} has the mlm objective and does not translate"
            )));
        }
        match (self.config.decoding.clone(), lesson.beam) {
            (decoding, None) => Ok(decoding),
            (Decoding::BeamSearch(search), Some(width)) => {
                Ok(Decoding::BeamSearch(tandem_config::schema::decoding::BeamSearch {
                    width,
                    ..search
                }))
            }
            (Decoding::MaskPredict(_), Some(_)) => Err(Refused(format!(
                "{key}.beam: the teacher {teacher} has the masked objective and is not searched \
                 by beams, leave it out"
            ))),
        }
    }

    fn checkpoint(&self) -> anyhow::Result<Checkpoint> {
        self.run.model("average").with_context(|| {
            let path = self.run.path().display();
            format!(
                "{path} is not a finished run: launch it first, or give its run file as teacher"
            )
        })
    }
}

/// Whether all teachers, and theirs, can do what they are to; before anything starts.
///
/// # Errors
/// The first one that cannot.
pub fn check(config: &RunConfig) -> Result<(), Refused> {
    fn check_below(config: &RunConfig, above: &mut Vec<PathBuf>) -> Result<(), Refused> {
        above.push(config.run.path());
        Teacher::of_soft_labels(config)?;
        for lesson in lessons(config) {
            let teacher = Teacher::find(&lesson.teacher)?;
            teacher.decoding(&lesson)?;
            if above.iter().any(|run| run == teacher.run.path()) {
                return Err(Refused(format!(
                    "{}.teacher: {} would be its own teacher, must be another run",
                    lesson.key,
                    teacher.run.path().display()
                )));
            }
            if teacher.is_run_file {
                check_below(&teacher.config, above)?;
            }
        }
        above.pop();
        Ok(())
    }
    check_below(config, &mut Vec::new())
}

/// What a launch would do about teachers, a line each.
pub fn notes(config: &RunConfig) -> Vec<String> {
    let note = |lesson: Lesson| {
        let (key, teacher) = (lesson.key, lesson.teacher.display());
        match (synthetic::verified(&lesson.folder).is_some(), lesson.teacher.is_dir()) {
            (true, _) => format!("{key}: made already, in {}", lesson.folder.display()),
            (false, true) => {
                format!("{key}: {teacher} translates first, if it has not for another run")
            }
            (false, false) => {
                format!("{key}: {teacher} is launched first, then translates, if it has not before")
            }
        }
    };
    let missing = Teacher::of_soft_labels(config).ok().flatten().filter(Teacher::is_missing);
    let labels = missing.map(|teacher| {
        format!("{SOFT_LABELS}: {} is launched first", teacher.run.path().display())
    });
    labels.into_iter().chain(lessons(config).into_iter().map(note)).collect()
}

/// The figures of what teachers have made for a run.
pub fn taught(config: &RunConfig) -> Vec<Taught> {
    let read = |lesson: Lesson| {
        serde_json::from_str(&fs::read_to_string(lesson.folder.join(SCORES)).ok()?).ok()
    };
    lessons(config).into_iter().filter_map(read).collect()
}

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
    for lesson in lessons(&coordinator.config) {
        // What was trained on it already decides what it is; see data.allow_changed.
        let is_trained = !coordinator.run.store().steps()?.is_empty();
        let made = synthetic::verified(&lesson.folder);
        if made
            .is_some_and(|made| is_trained || lesson.input.hash().is_ok_and(|now| now == made.text))
        {
            continue;
        }
        coordinator.journal.state.stage = Stage::Data;
        coordinator.journal.save();
        let (teacher, checkpoint) = trained(coordinator, &lesson)?;
        make(coordinator, &lesson, &teacher, &checkpoint)?;
    }
    coordinator.journal.state.stage = Stage::Train;
    Ok(())
}

/// The teacher, trained now if need be.
fn trained(coordinator: &mut Coordinator, lesson: &Lesson) -> Result<(Teacher, Checkpoint), Halt> {
    let mut teacher = Teacher::find(&lesson.teacher)?;
    if teacher.is_run_file {
        let run = teacher.run.clone();
        train(coordinator, lesson.key, teacher)?;
        teacher = Teacher::find(run.path())?;
    }
    let checkpoint = teacher.checkpoint()?;
    Ok((teacher, checkpoint))
}

/// Launches a teacher, which goes on where it ended. Another launcher that works on it is waited for, as
/// that of another student.
fn train(coordinator: &mut Coordinator, key: &str, teacher: Teacher) -> Result<(), Halt> {
    let run = teacher.run.path().display();
    coordinator.progress.say(&format!("{key}: the teacher {run} first"));
    let mut waits = false;
    loop {
        let (program, interrupts) = (coordinator.program.clone(), coordinator.interrupts.clone());
        let error = match launch(teacher.config.clone(), false, program, interrupts) {
            Ok(Exit::Done) => return Ok(()),
            Ok(exit) => return Err(Halt::Exit(exit)),
            Err(error) => error,
        };
        let Some(RunFolderError::Locked { holder, .. }) = error.downcast_ref() else {
            return Err(error.into());
        };
        if coordinator.interrupts.stop_requested() {
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
    lesson: &Lesson,
    teacher: &Teacher,
    checkpoint: &Checkpoint,
) -> Result<(), Halt> {
    let task = task(lesson, teacher, checkpoint)?;
    if Task::read(&lesson.folder).is_ok_and(|other| other.key != task.key) {
        coordinator.progress.say(&format!(
            "note: {} has translations of another teacher, text or decoding: starting over",
            lesson.folder.display()
        ));
        fs::remove_dir_all(&lesson.folder)?;
    }
    let unwritable = || format!("cannot write into {}", lesson.folder.display());
    task.write(&lesson.folder).with_context(unwritable)?;
    let source = lesson.input.hash().context("cannot read the text that is to be translated")?;
    let translations = translations::of(coordinator, lesson.key, &lesson.folder, &task)?;
    let scoring = Scoring::from(&coordinator.config.evaluation);
    let taught = figures(lesson, teacher, &translations, scoring);
    let text = serde_json::to_string_pretty(&taught)? + "\n";
    fs::write(lesson.folder.join(SCORES), text).with_context(unwritable)?;
    let weights = checkpoint.manifest().files.get(ADAPTERS);
    let record = Record {
        key: task.key,
        text: source,
        sha256: String::new(),
        teacher: teacher.run.path().to_owned(),
        weights: weights.map_or_else(String::new, |file| file.sha256.clone()),
    };
    let pairs = translations.into_iter().map(&lesson.pair);
    let record = synthetic::write(&lesson.folder, pairs, record).with_context(unwritable)?;
    for name in SCAFFOLD {
        let path = lesson.folder.join(name);
        // Only space is lost if they stay.
        let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
    }
    coordinator.progress.say(&format!("{}: {}", lesson.key, summary(&taught)));
    coordinator.journal.event("made", json!({ "key": lesson.key, "sha256": record.sha256 }));
    Ok(())
}

fn task(lesson: &Lesson, teacher: &Teacher, checkpoint: &Checkpoint) -> anyhow::Result<Task> {
    let task = Task {
        model: teacher.run.path().to_owned(),
        config: None,
        checkpoint: checkpoint.folder().to_owned(),
        decoding: teacher.decoding(lesson)?,
        input: lesson.input.clone(),
        too_long: TooLong::Skip,
        shard: lesson.shard,
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
    lesson: &Lesson,
    teacher: &Teacher,
    translations: &[Translation],
    scoring: Scoring,
) -> Taught {
    let has_references = matches!(lesson.input, Input::Sources(_));
    let words = |text: &dyn Fn(&Translation) -> &str| -> usize {
        translations.iter().map(|t| text(t).split_whitespace().count()).sum()
    };
    let other = match has_references {
        true => words(&|t| &t.reference),
        false => words(&|t| &t.source),
    };
    Taught {
        key: lesson.key.into(),
        teacher: teacher.run.path().to_owned(),
        sentences: translations.len(),
        ratio: match lesson.input {
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

/// What was made, in one line.
fn summary(taught: &Taught) -> String {
    let bleu = taught
        .scores
        .as_ref()
        .map_or(String::new(), |scores| format!(", teacher BLEU {:.2}", scores.bleu_13a.score));
    format!(
        "{} sentences{bleu}, length ratio {:.3}, {} duplicates, {} empty",
        taught.sentences, taught.length_ratio, taught.duplicates, taught.empty
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
