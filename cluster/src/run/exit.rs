//! Exit codes of launcher and worker. Those of the launcher are part of its interface, and the
//! coordinator acts on those of its workers.

use std::process::ExitCode;

use crate::process::PANIC_EXIT_CODE;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It did what it was asked to.
    Done,
    /// It failed; trying again may help.
    Failed,
    /// The command line, the config or the data is wrong; nothing was trained.
    Usage,
    /// It stopped when it was asked to, in training with a checkpoint, and can be resumed
    /// (EX_TEMPFAIL).
    Stopped,
    /// It failed, and would fail again.
    DoNotRetry,
    /// It panicked.
    Panicked,
    /// It was asked to stop and did not in time.
    Deadline,
    /// Ctrl-C was pressed twice.
    Interrupted,
}

impl Exit {
    const ALL: [Self; 8] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Stopped,
        Self::DoNotRetry,
        Self::Panicked,
        Self::Deadline,
        Self::Interrupted,
    ];

    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Stopped => 75,
            Self::DoNotRetry => 93,
            Self::Panicked => PANIC_EXIT_CODE,
            Self::Deadline => 124,
            Self::Interrupted => 130,
        }
    }

    /// What an exit code means; none for codes that are not ours.
    pub fn from_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|exit| i32::from(exit.code()) == code)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
