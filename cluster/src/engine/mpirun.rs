//! One worker per rank on this machine, started by Open MPI's mpirun.

use std::process::Command;

use super::Job;
use crate::topology::Topology;

pub(super) fn command_line(topology: &Topology, job: &Job) -> Vec<String> {
    let ranks = topology.ranks.to_string();
    // Open MPI counts cores, not hardware threads, so that two workers can be one too many on a
    // machine with two CPUs; and it would bind each worker, with all its threads, to one core.
    let mut line: Vec<String> =
        ["mpirun", "-n", &ranks, "--oversubscribe", "--bind-to", "none"].map(String::from).into();
    for (name, _) in &job.environment {
        // By name alone: command lines can be read by everybody on the machine.
        line.extend(["-x".into(), name.clone()]);
    }
    line.push(job.program.to_string_lossy().into_owned());
    line.extend(job.arguments.iter().cloned());
    line
}

/// mpirun refuses to work for root, as in containers, unless told twice.
pub(super) fn prepare(command: &mut Command) {
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
}
