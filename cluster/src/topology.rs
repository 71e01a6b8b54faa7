//! Where a run's ranks go: how many, on what, with how many threads, started by what.

mod find;

use serde::Serialize;

use crate::process;

pub use find::TopologyError;

/// What the ranks compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// The CPUs.
    Cpu,
    /// One GPU each.
    Cuda,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

/// What starts the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// One process, without MPI.
    Solo,
    /// Open MPI's mpirun.
    Mpirun,
    /// Slurm's srun.
    Srun,
}

/// A host, and how many ranks it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The host.
    pub host: String,
    /// Its ranks, which follow those of the hosts before it.
    pub ranks: usize,
}

/// Where a run's ranks go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Topology {
    /// Number of ranks.
    pub ranks: usize,
    /// What each computes on.
    pub device: Device,
    /// CPU threads of each.
    pub threads: usize,
    /// What starts them.
    pub engine: EngineKind,
    /// The hosts that have any.
    pub hosts: Vec<Share>,
}

impl Topology {
    /// What carries tensors between the ranks, if there are several.
    pub fn collective(&self) -> Option<&'static str> {
        match (self.engine, self.device) {
            (EngineKind::Solo, _) => None,
            (EngineKind::Mpirun | EngineKind::Srun, Device::Cpu) => Some("MPI"),
            (EngineKind::Mpirun | EngineKind::Srun, Device::Cuda) => Some("NCCL"),
        }
    }

    /// A host other than this machine, if any has ranks.
    pub fn remote_host(&self) -> Option<&str> {
        let here = process::host_name();
        self.hosts.iter().map(|share| share.host.as_str()).find(|host| *host != here)
    }

    /// The most ranks that any host has.
    pub fn ranks_per_host(&self) -> usize {
        self.hosts.iter().map(|share| share.ranks).max().unwrap_or(0)
    }

    /// `n1`, or `n1 (4) and n2 (3)`; of more than four hosts the first and the last.
    pub fn hosts_in_words(&self) -> String {
        let share = |share: &Share| format!("{} ({})", share.host, share.ranks);
        match self.hosts.as_slice() {
            [] => "no host".into(),
            [only] => only.host.clone(),
            [first, between @ .., last] if between.len() > 2 => {
                format!("{} hosts, {} to {}", self.hosts.len(), share(first), share(last))
            }
            [before @ .., last] => {
                let before: Vec<String> = before.iter().map(share).collect();
                format!("{} and {}", before.join(", "), share(last))
            }
        }
    }
}
