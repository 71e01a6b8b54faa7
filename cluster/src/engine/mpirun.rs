//! One worker per rank on this machine or several, started by Open MPI's mpirun.

use std::process::Command;

use super::Job;
use crate::slurm;
use crate::topology::Topology;

/// By default a host that loses its power, or its cable, is never missed. With these its silence
/// ends the group after 5 + 3 * 1 seconds.
const KEEPALIVE: [(&str, &str); 3] = [
    ("oob_tcp_keepalive_time", "5"),
    ("oob_tcp_keepalive_intvl", "1"),
    ("oob_tcp_keepalive_probes", "3"),
];

pub(super) fn command_line(topology: &Topology, job: &Job) -> Vec<String> {
    let ranks = topology.ranks.to_string();
    // Open MPI counts cores, not hardware threads, so that two workers can be one too many on a
    // machine with two CPUs; and it would bind each worker, with all its threads, to one core.
    let mut line: Vec<String> =
        ["mpirun", "-n", &ranks, "--oversubscribe", "--bind-to", "none"].map(String::from).into();
    if topology.remote_host().is_some() {
        let hosts = topology.hosts.iter().map(|share| format!("{}:{}", share.host, share.ranks));
        line.extend(["--host".into(), hosts.collect::<Vec<_>>().join(",")]);
        for (name, value) in KEEPALIVE {
            line.extend(["--mca".into(), name.into(), value.into()]);
        }
    }
    // Its own settings it hands on by itself.
    for (name, _) in job.environment.iter().filter(|(name, _)| !name.starts_with("OMPI_MCA_")) {
        // By name alone: command lines can be read by everybody on the machine.
        line.extend(["-x".into(), name.clone()]);
    }
    line.push(job.program.to_string_lossy().into_owned());
    line.extend(job.arguments.iter().cloned());
    line
}

/// mpirun refuses to work for root, as in containers, unless two variables allow it. In a Slurm job it starts
/// its daemons by srun, which would wait for ever for what the launcher's own step has.
pub(super) fn prepare(command: &mut Command, topology: &Topology) {
    if topology.remote_host().is_none() {
        // There is nothing to ask of Slurm, whose programs may be missing, and whose job may be over.
        slurm::with_job_number_alone(command);
    }
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.env("SLURM_OVERLAP", "1");
}
