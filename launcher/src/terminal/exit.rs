//! The launcher's exit codes, which are part of its interface.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It succeeded.
    Done,
    /// It failed; trying again may help.
    Failed,
    /// The command line, the config or the data is invalid; nothing was trained.
    Usage,
    /// It stopped with a checkpoint and can be resumed (EX_TEMPFAIL).
    Stopped,
    /// It failed, and would fail again.
    DoNotRetry,
    /// It did not stop in time when asked to.
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

/// A request that cannot be fulfilled as given: the error of commands that exit with code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);
