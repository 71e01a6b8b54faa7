//! The coordinator: a run from its first worker to its report.
//!
//! - [`group`] runs one group of workers; [`members`] knows where its ranks are and which one is
//!   overdue, [`preflight`] which host is slow or broken before anything is loaded; [`engine_log`] finds in
//!   the output of mpirun or srun what went wrong.
//! - [`attempts`] is what follows from the end of a group, for which [`restarts`] decides what is done
//!   about a failure.
//! - [`lifecycle`] is the order of the stages: [`dependency`] before training, which trains the runs that
//!   this one needs, and [`teacher`], for which [`translations`] are made or found; [`training`], where
//!   [`evaluation`] merges and scores what the ranks translated, [`stragglers`] finds slow ranks and [`gaps`]
//!   the checkpoints that must be trained again; [`finish`] after it; [`summary`] is what the report says.
//! - [`session`]: groups of workers for `tandem translate`, `tandem evaluate` and `tandem serve`;
//!   [`trained`] has them score a model.

pub(crate) mod attempts;
pub(crate) mod dependency;
pub(crate) mod engine_log;
pub(crate) mod evaluation;
pub(crate) mod finish;
pub(crate) mod gaps;
pub(crate) mod group;
pub(crate) mod lifecycle;
pub(crate) mod members;
pub(crate) mod preflight;
pub(crate) mod restarts;
pub(crate) mod session;
pub(crate) mod stragglers;
pub(crate) mod summary;
pub(crate) mod teacher;
pub(crate) mod trained;
pub(crate) mod training;
pub(crate) mod translations;

use std::path::PathBuf;

use tandem_cluster::run::folder::RunFolder;
use tandem_config::RunConfig;

use crate::journal::Journal;
use crate::terminal::exit::Exit;
use crate::terminal::interrupts::Interrupts;
use crate::terminal::progress::Progress;
use group::Workers;

/// Launches a run with this worker program, resuming it where it was interrupted.
pub(crate) type Launch = fn(RunConfig, PathBuf, Interrupts) -> anyhow::Result<Exit>;

/// A run that is ready to be started.
pub(crate) struct Coordinator {
    /// Its folder, locked by this process.
    pub run: RunFolder,
    /// What it is.
    pub config: RunConfig,
    pub workers: Workers,
    /// What people see.
    pub progress: Progress,
    /// Where the run stands.
    pub journal: Journal,
    /// Launches a run that this one needs.
    pub launch: Launch,
}

/// Why a stage goes no further.
enum Halt {
    /// The run ends for now.
    Exit(Exit),
    /// Something that workers have no part in.
    Error(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}
