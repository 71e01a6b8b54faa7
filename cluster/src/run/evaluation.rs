//! The folder of an evaluation: each rank's translations first, then all of them with their scores.

use std::path::{Path, PathBuf};

/// An evaluation's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvaluationFolder {
    path: PathBuf,
}

impl EvaluationFolder {
    /// The folder at `path`, which need not exist.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One rank's share of the translations, a [`Translation`](super::records::Translation) a line.
    pub fn part(&self, rank: usize) -> PathBuf {
        self.path.join(format!("rank-{rank}.jsonl"))
    }

    /// All translations in the order of the split, a line each.
    pub fn translations(&self) -> PathBuf {
        self.path.join("translations.jsonl")
    }

    /// The scores.
    pub fn scores(&self) -> PathBuf {
        self.path.join("scores.json")
    }

    /// How long a sentence takes, a [`Latency`](super::records::Latency).
    pub fn latency(&self) -> PathBuf {
        self.path.join("latency.json")
    }
}
