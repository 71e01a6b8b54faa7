//! One worker as a child process, without MPI.

use super::Job;

pub(super) fn command_line(job: &Job) -> Vec<String> {
    let program = job.program.to_string_lossy().into_owned();
    [program].into_iter().chain(job.arguments.iter().cloned()).collect()
}
