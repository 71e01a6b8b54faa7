//! How the launcher ends: exit codes are part of its interface.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It did what it was asked to.
    Done,
    /// It failed; trying again may help.
    Failed,
    /// The command line, the config or the data is wrong; nothing was trained.
    Usage,
    /// A checkpoint is written and the run wants to go on later (EX_TEMPFAIL).
    Stopped,
    /// It failed, and would fail again.
    DoNotRetry,
    /// It was asked to stop and did not in time.
    Deadline,
    /// Ctrl-C was pressed twice.
    Interrupted,
}

impl Exit {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Stopped => 75,
            Self::DoNotRetry => 93,
            Self::Deadline => 124,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// What was asked for cannot be done as asked; the error of commands that end with 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);
