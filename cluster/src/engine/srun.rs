//! One worker per rank on the nodes of the Slurm allocation, started by srun.

use std::process::Command;

use super::Job;
use crate::slurm;
use crate::topology::Topology;

pub(super) fn command_line(topology: &Topology, job: &Job) -> Vec<String> {
    // A node's name for each rank: the one form that fits any number of ranks on any node.
    let nodes: Vec<&str> = topology
        .hosts
        .iter()
        .flat_map(|share| std::iter::repeat_n(share.host.as_str(), share.ranks))
        .collect();
    let (ranks, nodes) = (topology.ranks.to_string(), nodes.join(","));
    let mut line: Vec<String> = [
        "srun",
        "--ntasks",
        &ranks,
        "--distribution=arbitrary",
        "--nodelist",
        &nodes,
        // The job's CPUs and GPUs belong to the launcher's own step, too, and to all workers.
        "--overlap",
        "--overcommit",
        "--cpu-bind=none",
        "--mpi=pmix",
        // The other ranks cannot continue without one that has failed.
        "--kill-on-bad-exit=1",
    ]
    .map(String::from)
    .into();
    line.push(job.program.to_string_lossy().into_owned());
    line.extend(job.arguments.iter().cloned());
    line
}

/// Options come from the command line alone: the variables of the job would add their own, such as
/// its number of tasks for each node. Which job it is has to be said, though.
pub(super) fn prepare(command: &mut Command) {
    slurm::with_job_number_alone(command);
}
