//! Why a job ends, and the file in which Slurm says so.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Why Slurm ends a job before it has ended itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Its time is up, or will be soon.
    TimeLimit,
    /// Another job took its nodes.
    Preemption,
    /// One of its nodes is gone.
    NodeFailure,
    /// Somebody put it back into the queue.
    Requeue,
    /// Somebody cancelled it.
    Cancel,
    /// Slurm does not end it: something else stopped the launcher, such as `timeout`.
    Signal,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TimeLimit => "its time limit",
            Self::Preemption => "preemption",
            Self::NodeFailure => "the failure of a node",
            Self::Requeue => "scontrol requeue",
            Self::Cancel => "scancel",
            Self::Signal => "a signal that Slurm did not send",
        })
    }
}

/// The file that takes a job's standard error, and how long it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    path: PathBuf,
    length: u64,
}

impl Output {
    pub(super) fn find(path: &str) -> Self {
        let length = std::fs::metadata(path).map_or(0, |found| found.len());
        Self { path: path.into(), length }
    }

    /// What was written since.
    pub(super) fn news(&self) -> String {
        let mut bytes = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.length))?;
            file.read_to_end(&mut bytes)
        });
        read.map(|_| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}
