//! Slurm: what it has given this process, and what it says of the job.

mod allocation;
mod host_list;
mod job;

pub use allocation::{Allocation, Node, SlurmError};
pub(crate) use job::without_job;
pub use job::{Cause, Job, Output, Record};

use std::io;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long Slurm's controller may take to answer; a busy one takes seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often an answer is looked for.
const LOOK: Duration = Duration::from_millis(5);

/// Runs one of Slurm's programs and answers what it prints.
fn ask(command: &mut Command) -> io::Result<String> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            let program = command.get_program().to_string_lossy().into_owned();
            let words = format!("{program} did not answer within {} s", PATIENCE.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, words));
        }
        std::thread::sleep(LOOK);
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
