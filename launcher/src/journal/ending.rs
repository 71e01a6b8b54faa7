//! How a Slurm job ended, and what resumes the run.

use serde::{Deserialize, Serialize};
use tandem_cluster::slurm::Cause;

/// The end of a job whose run is not finished.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ending {
    /// The number of the job.
    pub job: String,
    /// How often Slurm had started it again.
    pub restarts: u64,
    /// Why the job ended, if Slurm said so.
    pub cause: Option<Cause>,
    /// What resumes the run.
    pub next: Next,
    /// The newest checkpoint before the one that is written now.
    pub latest: Option<u64>,
    /// The number of steps that the job had made by then, if known.
    #[serde(default)]
    pub steps: Option<u64>,
    /// When this became known, in seconds since 1970.
    pub time: f64,
}

/// What resumes a run after its job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Next {
    /// Another job, which waits for the end of this one.
    Chained {
        /// Its number.
        job: String,
    },
    /// The same job, which requeues itself at the end.
    Requeue,
    /// The same job, which Slurm starts again.
    BySlurm,
    /// Nothing, unless somebody launches it again.
    Nothing {
        /// Why no job resumes it.
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
