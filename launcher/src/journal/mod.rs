//! The records of a run: its state (state.json) and what happened (events.jsonl).
//!
//! Neither stops a run: if one cannot be written, for example on a full disk, that is reported once.
//! [`failure`] is what went wrong in a group of workers, [`ending`] how a Slurm job ended, [`ledger`] where
//! the time went, [`figures`] what a preflight measured.

pub(crate) mod ending;
pub(crate) mod failure;
pub(crate) mod figures;
pub(crate) mod ledger;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tandem_cluster::run::atomic;
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::io_error::{IoContext, IoError};
use tandem_cluster::run::records::{DataReport, Memory};

use crate::journal::ending::Ending;
use crate::journal::failure::Failure;
use crate::journal::figures::Figures;
use crate::journal::ledger::Ledger;

/// The interval at which state.json is written when only numbers have changed.
const INTERVAL: Duration = Duration::from_secs(1);
/// The largest number of points of the curve that are kept.
const CURVE_POINTS: usize = 1000;
/// The largest number of job endings that are kept.
const ENDINGS: usize = 20;
/// The largest number of warnings that are kept.
const NOTICES: usize = 50;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// Prepared, but not started.
    #[default]
    Prepared,
    /// Its workers are running.
    Running,
    /// Stopped; it can be resumed.
    Stopped,
    Failed,
    /// It has finished.
    Done,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// A teacher makes training data.
    Data,
    /// Training.
    #[default]
    Train,
    /// Averaging checkpoints and scoring the finished model.
    Evaluate,
    /// Everything is done.
    Finished,
}

/// The state of a run: state.json.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    pub status: Status,
    pub stage: Stage,
    /// The run that is trained before this one.
    pub needed: Option<Needed>,
    /// The newest attempt.
    pub attempt: u64,
    /// The number of restarts after failures.
    pub restarts: u64,
    /// Finished optimizer steps.
    pub step: u64,
    /// Optimizer steps of the whole run.
    pub steps: u64,
    /// The last known training loss.
    pub loss: Option<f64>,
    /// Target tokens a second.
    pub tokens_per_second: Option<f64>,
    /// Mean seconds of a step, over those before the newest report.
    pub step_seconds: Option<f64>,
    /// When the newest report of a step came, in seconds since 1970.
    pub stepped: Option<f64>,
    /// What the newest preflight measured.
    pub preflight: Vec<Figures>,
    /// The ranks of the newest group that trains, as far as they have connected.
    pub ranks: BTreeMap<usize, Rank>,
    /// Seconds until the last step.
    pub seconds_left: Option<f64>,
    /// Trained parameters, as the workers count them.
    pub trained: Option<u64>,
    /// Frozen parameters, as the workers count them.
    pub frozen: Option<u64>,
    /// Seconds spent training, over all attempts.
    pub training_seconds: f64,
    /// Where the time went.
    pub ledger: Ledger,
    /// The newest published checkpoint.
    pub latest: Option<u64>,
    /// The steps whose checkpoints were due and could not be written.
    pub unsaved: BTreeSet<u64>,
    /// The best checkpoint.
    pub best: Option<u64>,
    /// What each evaluation on `data.valid` measured, by step and name.
    pub valid: BTreeMap<u64, BTreeMap<String, f64>>,
    /// What the finished model measures on `data.test`, by name.
    pub test: BTreeMap<String, f64>,
    /// The newest failure.
    pub failure: Option<Failure>,
    /// Training loss by step, thinned out.
    pub curve: Vec<(u64, f64)>,
    /// Each group of workers that trained.
    pub attempts: Vec<Attempt>,
    /// The report on the lines of each split.
    pub data: Vec<DataReport>,
    /// Warnings.
    pub notices: Vec<String>,
    /// The Slurm jobs that ended before the run did.
    pub job_endings: Vec<Ending>,
    /// When this was written, in seconds since 1970.
    pub updated: f64,
}

/// A run that is trained before the one that needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Needed {
    /// The config's key that names it.
    pub key: String,
    /// Its folder.
    pub run: PathBuf,
}

/// A rank that trains.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rank {
    /// Where it is.
    pub host: String,
    /// What it computes on.
    pub device: String,
    /// What it has reported of itself last.
    pub pace: Option<Pace>,
    /// How many times as long as the others' median it takes for a micro-batch; none before all ranks
    /// have reported the same step.
    pub slowdown: Option<f64>,
    /// Whether it has been slow for some time.
    pub is_straggler: bool,
}

/// How fast a rank is, and how big.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pace {
    /// Up to which step.
    pub step: u64,
    /// Seconds of waiting for a micro-batch.
    pub data: f64,
    /// Seconds of computing it.
    pub compute: f64,
    /// What the rank held then.
    pub memory: Memory,
}

impl Pace {
    /// Seconds for a micro-batch.
    pub(crate) fn total(self) -> f64 {
        self.data + self.compute
    }
}

/// One group of workers that trained.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attempt {
    /// The step of the checkpoint from which it resumed, or 0.
    pub from: u64,
    /// The last step that it reached.
    pub to: u64,
    /// How it ended.
    pub end: String,
}

impl State {
    /// Adds a point to the curve; every second point of a long curve is dropped.
    pub(crate) fn add_loss(&mut self, step: u64, loss: f64) {
        if loss.is_finite() && self.curve.last().is_none_or(|(last, _)| *last < step) {
            self.curve.push((step, loss));
        }
        if self.curve.len() > CURVE_POINTS {
            let mut index = 0;
            self.curve.retain(|_| {
                index += 1;
                index % 2 == 0
            });
        }
    }

    /// Goes back to `step`: the steps after it will be made again.
    pub(crate) fn rewind(&mut self, step: u64) {
        self.step = step;
        self.valid.retain(|evaluated, _| *evaluated <= step);
        self.curve.retain(|(measured, _)| *measured <= step);
    }

    /// Keeps a warning, unless there are many.
    pub(crate) fn add_notice(&mut self, text: &str) {
        if self.notices.len() < NOTICES && !self.notices.iter().any(|known| known == text) {
            self.notices.push(text.to_owned());
        }
    }

    /// Keeps how a job ended, which is reported more than once.
    pub(crate) fn add_ending(&mut self, ending: Ending) {
        if self.job_endings.last() != Some(&ending) {
            self.job_endings.push(ending);
        }
        let superfluous = self.job_endings.len().saturating_sub(ENDINGS);
        self.job_endings.drain(..superfluous);
    }

    /// Keeps a report about data; a later one on the same split replaces it.
    pub(crate) fn add_data(&mut self, report: DataReport) {
        self.data.retain(|known| known.split != report.split);
        self.data.push(report);
    }
}

/// Why the state of a run cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The file has a format that neither this version nor an older one writes.
    #[error(
        "{} cannot be read: {source}; use the version of Tandem that wrote it, or start over with \
         `--restart`",
        path.display()
    )]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Writes state and events of a run.
#[derive(Debug)]
pub(crate) struct Journal {
    run: RunFolder,
    pub state: State,
    written: Option<Instant>,
    warned: bool,
    warning: Option<String>,
}

impl Journal {
    /// The journal of a run, continued if there is one.
    ///
    /// # Errors
    /// A state that cannot be read.
    pub(crate) fn open(run: RunFolder) -> Result<Self, StateError> {
        let state = load_state(&run)?.unwrap_or_default();
        Ok(Self { run, state, written: None, warned: false, warning: None })
    }

    /// Writes the state now.
    pub(crate) fn save(&mut self) {
        self.state.updated = now();
        self.written = Some(Instant::now());
        let text = serde_json::to_string_pretty(&self.state).unwrap_or_default();
        let written = atomic::write(&self.run.state(), &(text + "\n"));
        self.note(written.map_err(|error| error.to_string()));
    }

    /// Writes the state unless it was written less than a second ago.
    pub(crate) fn save_sometimes(&mut self) {
        if self.written.is_none_or(|written| written.elapsed() >= INTERVAL) {
            self.save();
        }
    }

    /// Notes an event.
    pub(crate) fn event(&mut self, name: &str, details: Value) {
        let mut line = json!({ "time": now(), "event": name, "attempt": self.state.attempt });
        if let (Value::Object(line), Value::Object(details)) = (&mut line, details) {
            line.extend(details);
        }
        let written = self.run.append(&self.run.events(), &line.to_string());
        self.note(written.map_err(|error| error.to_string()));
    }

    /// Returns the warning that something could not be written, once.
    pub(crate) fn warning(&mut self) -> Option<String> {
        self.warning.take()
    }

    fn note(&mut self, written: Result<(), String>) {
        match written {
            Ok(()) => self.warned = false,
            Err(error) if !self.warned => {
                self.warned = true;
                self.warning = Some(format!("{error}; the run continues"));
            }
            Err(_) => {}
        }
    }
}

/// Reads the state of a run; none if it was never launched.
///
/// # Errors
/// A state that cannot be read.
pub(crate) fn load_state(run: &RunFolder) -> Result<Option<State>, StateError> {
    let path = run.state();
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found.tried("read", &path)?,
    };
    serde_json::from_str(&text).map(Some).map_err(|source| StateError::Unknown { path, source })
}

/// Reads the state of a run, if there is one that can be read.
pub(crate) fn read_state(run: &RunFolder) -> Option<State> {
    load_state(run).ok().flatten()
}

/// Seconds since 1970.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn a_journal_is_continued() {
        let folder = TempDir::new().unwrap();
        let run = RunFolder::new(folder.path().to_owned());
        let mut journal = Journal::open(run.clone()).unwrap();
        journal.state.step = 7;
        journal.state.valid.insert(5, BTreeMap::from([("bleu".into(), 12.5)]));
        journal.save();
        journal.event("published", json!({ "step": 7 }));
        let again = Journal::open(run.clone()).unwrap();
        assert_eq!(again.state, journal.state);
        let events = std::fs::read_to_string(run.events()).unwrap();
        let event: Value = serde_json::from_str(events.trim()).unwrap();
        assert_eq!((&event["event"], &event["step"]), (&json!("published"), &json!(7)));
    }

    #[test]
    fn a_curve_is_thinned_out_and_rewound() {
        let mut state = State::default();
        for step in 1..=CURVE_POINTS as u64 + 1 {
            state.add_loss(step, 1.0);
        }
        assert_eq!(state.curve.len(), CURVE_POINTS / 2);
        assert_eq!(state.curve[1].0, 4);
        state.add_loss(3, 9.0);
        state.add_loss(2000, f64::NAN);
        assert_eq!(state.curve.last().unwrap().0, CURVE_POINTS as u64, "neither is a new point");
        state.rewind(4);
        assert_eq!(state.curve, [(2, 1.0), (4, 1.0)]);
    }

    #[test]
    fn a_splits_data_is_reported_once() {
        let mut state = State::default();
        let report =
            |split: &str, read| DataReport { split: split.into(), read, ..DataReport::default() };
        for report in [report("train", 1), report("valid", 0), report("train", 2)] {
            state.add_data(report);
        }
        assert_eq!(state.data, [report("valid", 0), report("train", 2)]);
    }

    #[test]
    fn an_older_versions_state_is_read_and_an_unknown_one_refused() {
        let folder = TempDir::new().unwrap();
        let run = RunFolder::new(folder.path().to_owned());
        assert_eq!(load_state(&run).unwrap(), None);
        let old = json!({ "step": 7, "stage": "train", "data": [{
            "split": "train", "files": ["a.tsv"], "read": 3, "kept": 2, "dropped": 1, "cut": 0,
            "source_tokens": 7, "target_tokens": 8,
            "problems": { "empty": { "count": 1, "examples": [{ "line": 2, "text": "a | " }] } },
        }] });
        fs::write(run.state(), old.to_string()).unwrap();
        let state = load_state(&run).unwrap().unwrap();
        assert_eq!((state.step, state.data[0].dropped, state.data[0].bad()), (7, 1, 1));
        fs::write(run.state(), r#"{"stage":"dreaming"}"#).unwrap();
        let error = Journal::open(run).unwrap_err().to_string();
        assert!(
            error.contains("state.json cannot be read") && error.contains("--restart"),
            "{error}"
        );
    }

    #[test]
    fn what_cannot_be_written_is_told_once() {
        let folder = TempDir::new().unwrap();
        let run = RunFolder::new(folder.path().to_owned());
        std::os::unix::fs::symlink("/dev/full", run.events()).unwrap();
        let mut journal = Journal::open(run).unwrap();
        journal.event("a", json!({}));
        journal.event("b", json!({}));
        let warning = journal.warning().unwrap();
        assert!(
            warning.contains("events.jsonl") && warning.contains("the run continues"),
            "{warning}"
        );
        assert_eq!(journal.warning(), None);
    }
}
