//! Slurm: the allocation of this process, and what the controller reports about the job.

mod allocation;
mod cause;
mod host_list;
mod job;
mod nodes;
mod record;
mod step;
mod time;

pub use allocation::{Allocation, Node, SlurmError};
pub use cause::{Cause, Output};
pub(crate) use job::with_job_number_alone;
pub use job::{Job, UNKNOWN_JOB};
pub use nodes::{address_of, lost_nodes};
pub use record::Record;
pub use time::{Clock, duration};

use std::io;
use std::process::Command;
use std::time::Duration;

use crate::process;

/// How long Slurm's controller may take to answer; a busy one takes seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs one of Slurm's programs and returns its output.
///
/// # Errors
/// It cannot be started, does not answer in time, or refuses.
pub fn ask(command: &mut Command) -> io::Result<String> {
    let output = process::output_within(command, ANSWER_TIMEOUT)?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
