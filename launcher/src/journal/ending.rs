//! How a job ended, and what goes on instead of it.

use serde::{Deserialize, Serialize};
use tandem_cluster::slurm::Cause;

/// The end of a job before that of its run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ending {
    /// Its number.
    pub job: String,
    /// How often Slurm had started it again.
    pub restarts: u64,
    /// Why it ended, if Slurm said.
    pub cause: Option<Cause>,
    /// How the run goes on.
    pub next: Next,
    /// The newest checkpoint before the one that is written now.
    pub latest: Option<u64>,
    /// How many steps it had made by then, if that is known.
    #[serde(default)]
    pub steps: Option<u64>,
    /// When this became known, in seconds since 1970.
    pub time: f64,
}

/// How a run goes on after its job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    /// In another job, which waits for the end of this one.
    Chained {
        /// Its number.
        job: String,
    },
    /// In the same job, which puts itself back into the queue at the end.
    Requeue,
    /// In the same job, which Slurm starts again.
    BySlurm,
    /// Not by itself.
    Nothing {
        /// Why not.
        reason: String,
    },
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { job, cause, next, .. } = self;
        match cause {
            Some(cause) => write!(f, "job {job} ends by {cause}; ")?,
            None => write!(f, "job {job} ends; ")?,
        }
        match next {
            Next::Chained { job } => write!(f, "job {job} resumes the run afterwards"),
            Next::Requeue => write!(f, "it is requeued and resumes the run then"),
            Next::BySlurm => write!(f, "Slurm starts it again, and it resumes the run then"),
            Next::Nothing { reason } => write!(f, "no job resumes the run: {reason}"),
        }
    }
}
