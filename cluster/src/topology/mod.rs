//! Where a run's ranks go: how many, on what, with how many threads, started by what.

mod find;

use std::env;

use serde::Serialize;

use crate::hosts::network;

pub use find::TopologyError;

/// What the ranks compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// The CPUs.
    Cpu,
    /// GPUs.
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

/// The oldest NCCL that lets ranks share a GPU: major and minor version.
pub const OLDEST_SHARING_NCCL: (u32, u32) = (2, 30);
/// What NCCL has to be told where ranks share a GPU. It refuses such ranks otherwise, has no multicast
/// (NVLS) for them, and the kernels of all ranks of a GPU must be on it at once to wait for each other.
const SHARING: [(&str, &str); 3] =
    [("NCCL_MULTI_RANK_GPU_ENABLE", "1"), ("NCCL_NVLS_ENABLE", "0"), ("NCCL_MAX_CTAS", "2")];

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
    /// The most that share a GPU; 1 on CPUs.
    pub workers_per_gpu: usize,
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

    /// Whether ranks may meet on a GPU.
    pub fn shares_gpus(&self) -> bool {
        self.device == Device::Cuda && self.ranks > 1 && self.workers_per_gpu > 1
    }

    /// The variables that NCCL needs on every rank where ranks share GPUs, and none elsewhere.
    /// What this process has of them goes before Tandem's own values.
    pub fn sharing_environment(&self) -> Vec<(String, String)> {
        self.sharing_variables(|name| env::var(name).ok())
    }

    fn sharing_variables(&self, set: impl Fn(&str) -> Option<String>) -> Vec<(String, String)> {
        // The user's values are passed on, not left out: mpirun takes no others to another host.
        let variable = |(name, value): (&str, &str)| {
            (name.to_owned(), set(name).unwrap_or_else(|| value.to_owned()))
        };
        if self.shares_gpus() { SHARING.map(variable).into() } else { Vec::new() }
    }

    /// The names of the hosts.
    pub fn host_names(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(|share| share.host.as_str())
    }

    /// A host other than this machine, if any has ranks.
    pub fn remote_host(&self) -> Option<&str> {
        let here = network::ours(self.host_names());
        self.host_names().find(|host| !here.contains(host))
    }

    /// The most ranks that any host has.
    pub fn ranks_per_host(&self) -> usize {
        self.hosts.iter().map(|share| share.ranks).max().unwrap_or(0)
    }

    /// The fewest GPUs with which any host has room for its ranks.
    pub fn gpus_per_host(&self) -> usize {
        self.ranks_per_host().div_ceil(self.workers_per_gpu)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(ranks: usize, device: Device, workers_per_gpu: usize) -> Topology {
        let hosts = vec![Share { host: "here".into(), ranks }];
        let engine = EngineKind::Mpirun;
        Topology { ranks, device, workers_per_gpu, threads: 1, engine, hosts }
    }

    #[test]
    fn ranks_that_share_gpus_have_variables_for_nccl() {
        let said = |topology: &Topology, set: &[(&str, &str)]| {
            let value = |name: &str| {
                let (_, value) = set.iter().find(|(known, _)| *known == name)?;
                Some((*value).to_owned())
            };
            let variables = topology.sharing_variables(value);
            let variables = variables.iter().map(|(name, value)| format!("{name}={value}"));
            variables.collect::<Vec<_>>().join(" ")
        };
        let shared = topology(2, Device::Cuda, 2);
        assert_eq!(
            said(&shared, &[]),
            "NCCL_MULTI_RANK_GPU_ENABLE=1 NCCL_NVLS_ENABLE=0 NCCL_MAX_CTAS=2"
        );
        assert_eq!(
            said(&shared, &[("NCCL_MAX_CTAS", "4"), ("NCCL_DEBUG", "INFO")]),
            "NCCL_MULTI_RANK_GPU_ENABLE=1 NCCL_NVLS_ENABLE=0 NCCL_MAX_CTAS=4"
        );
        for alone in [
            topology(2, Device::Cuda, 1),
            topology(1, Device::Cuda, 2),
            topology(2, Device::Cpu, 2),
        ] {
            assert_eq!(said(&alone, &[]), "", "{alone:?}");
        }
    }
}
