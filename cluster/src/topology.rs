//! Where a run's ranks go: how many, on what, with how many threads, started by what.

use std::path::Path;

use serde::Serialize;
use tandem_config::cluster::{self, Bounds, Cluster, GradientDtype, Reduction, Workers};

use crate::process;

/// Settings that contradict each other or this machine.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TopologyError {
    /// GPUs were asked for.
    #[error("cluster.device is `cuda`, but this machine has no usable GPU ({source_of_count})")]
    NoGpu {
        /// How the number was found.
        source_of_count: &'static str,
    },
    /// One worker per GPU is the rule.
    #[error(
        "cluster.workers is {workers}, but there are {gpus} GPUs ({source_of_count}) and each \
         worker needs one; lower it or set `cluster.device: cpu`"
    )]
    TooManyWorkers {
        /// The setting.
        workers: usize,
        /// What there is.
        gpus: usize,
        /// How the number was found.
        source_of_count: &'static str,
    },
    /// There must be room for some.
    #[error(
        "cluster.workers.min is {min}, but there is room for {room} ({source_of_count}); lower it, \
         or wait until there is more"
    )]
    TooLittleRoom {
        /// The setting.
        min: usize,
        /// Workers that fit.
        room: usize,
        /// How the room was found.
        source_of_count: &'static str,
    },
    /// `solo` starts one worker.
    #[error("cluster.engine is `solo`, which starts one worker, but cluster.workers is {workers}")]
    SoloGroup {
        /// The setting.
        workers: usize,
    },
    /// Products of matrices depend on the threads, and so would the result on the workers.
    #[error(
        "cluster.reduction is `reproducible`, but with `cluster.threads: 0` the CPU threads of a \
         worker depend on the number of workers, and the result's last bits on the threads; set \
         cluster.threads to a number that is kept, such as {threads}"
    )]
    ThreadsVary {
        /// How many each worker would get now.
        threads: usize,
    },
    /// MPI adds no bf16.
    #[error(
        "cluster.gradient_dtype is `bf16`, but the workers compute on CPUs ({source_of_count}), \
         which sum gradients in f32; set it to `f32`"
    )]
    Bf16OnCpus {
        /// How the number of GPUs was found.
        source_of_count: &'static str,
    },
    /// There is no mpirun.
    #[error(
        "{workers} workers need Open MPI's mpirun, which is not in PATH; install openmpi-bin or \
         set `cluster.workers: 1`"
    )]
    NoMpirun {
        /// How many workers.
        workers: usize,
    },
}

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
    /// The machine.
    pub host: String,
}

/// What a machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// CPUs that this process may use.
    pub cpus: usize,
    /// GPUs that this process may use.
    pub gpus: usize,
    /// How the number of GPUs was found.
    pub source_of_count: &'static str,
    /// Whether mpirun can be found.
    pub mpirun: bool,
    /// Its name.
    pub host: String,
}

impl Machine {
    /// This machine, as far as this process may use it.
    pub fn this() -> Self {
        let installed = (0..64).filter(|i| Path::new(&format!("/dev/nvidia{i}")).exists()).count();
        let (gpus, source_of_count) = match std::env::var("CUDA_VISIBLE_DEVICES") {
            _ if installed == 0 => (0, "there is no /dev/nvidia0"),
            Ok(visible) => {
                let named = visible.split(',').filter(|name| !name.trim().is_empty()).count();
                (named.min(installed), "by CUDA_VISIBLE_DEVICES")
            }
            Err(_) => (installed, "by /dev/nvidia*"),
        };
        let paths = std::env::var_os("PATH").unwrap_or_default();
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            gpus,
            source_of_count,
            mpirun: std::env::split_paths(&paths).any(|path| path.join("mpirun").is_file()),
            host: process::host_name(),
        }
    }
}

impl Topology {
    /// What carries tensors between the ranks, if there are several.
    pub fn collective(&self) -> Option<&'static str> {
        match (self.engine, self.device) {
            (EngineKind::Solo, _) => None,
            (EngineKind::Mpirun, Device::Cpu) => Some("MPI"),
            (EngineKind::Mpirun, Device::Cuda) => Some("NCCL"),
        }
    }

    /// Where the ranks of a run with these settings go on `machine`.
    ///
    /// # Errors
    /// Settings that contradict each other or the machine.
    pub fn find(settings: &Cluster, machine: &Machine) -> Result<Self, TopologyError> {
        let Machine { cpus, gpus, source_of_count, .. } = *machine;
        let device = match settings.device {
            cluster::Device::Cuda if gpus == 0 => {
                return Err(TopologyError::NoGpu { source_of_count });
            }
            cluster::Device::Auto if gpus == 0 => Device::Cpu,
            cluster::Device::Cpu => Device::Cpu,
            cluster::Device::Cuda | cluster::Device::Auto => Device::Cuda,
        };
        if device == Device::Cpu && settings.gradient_dtype == GradientDtype::Bf16 {
            return Err(TopologyError::Bf16OnCpus { source_of_count });
        }
        let (room, source_of_count) = match device {
            Device::Cpu => (cpus / settings.threads.max(1), "CPUs by cluster.threads"),
            Device::Cuda => (gpus, source_of_count),
        };
        let ranks = match (settings.workers, device, settings.engine) {
            (Workers::Within(Bounds { min, .. }), ..) if room < min => {
                return Err(TopologyError::TooLittleRoom { min, room, source_of_count });
            }
            (Workers::Within(Bounds { max, .. }), ..) => room.min(max),
            (Workers::Number(0), _, cluster::Engine::Solo)
            | (Workers::Number(0), Device::Cpu, _) => 1,
            (Workers::Number(0), Device::Cuda, _) => gpus,
            (Workers::Number(workers), Device::Cuda, _) if workers > gpus => {
                return Err(TopologyError::TooManyWorkers { workers, gpus, source_of_count });
            }
            (Workers::Number(workers), ..) => workers,
        };
        let engine = match settings.engine {
            cluster::Engine::Solo if ranks > 1 => {
                return Err(TopologyError::SoloGroup { workers: ranks });
            }
            cluster::Engine::Solo => EngineKind::Solo,
            cluster::Engine::Auto if ranks == 1 => EngineKind::Solo,
            cluster::Engine::Auto | cluster::Engine::Mpirun => EngineKind::Mpirun,
        };
        if engine == EngineKind::Mpirun && !machine.mpirun {
            return Err(TopologyError::NoMpirun { workers: ranks });
        }
        let threads = match settings.threads {
            0 => (cpus / ranks).max(1),
            threads => threads,
        };
        let must_be_kept = device == Device::Cpu && settings.reduction == Reduction::Reproducible;
        if must_be_kept && settings.threads == 0 {
            return Err(TopologyError::ThreadsVary { threads });
        }
        Ok(Self { ranks, device, threads, engine, host: machine.host.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(settings: Cluster, cpus: usize, gpus: usize) -> Result<Topology, TopologyError> {
        let host = "here".into();
        let source_of_count = "by decree";
        Topology::find(&settings, &Machine { cpus, gpus, source_of_count, mpirun: true, host })
    }

    fn workers(workers: usize) -> Cluster {
        Cluster { workers: Workers::Number(workers), ..Cluster::default() }
    }

    fn within(min: usize, max: usize) -> Cluster {
        Cluster { workers: Workers::Within(Bounds { min, max }), ..Cluster::default() }
    }

    #[test]
    fn without_settings_the_machine_decides() {
        let cpu = find(workers(0), 8, 0).unwrap();
        assert_eq!((cpu.ranks, cpu.device, cpu.threads), (1, Device::Cpu, 8));
        assert_eq!(cpu.engine, EngineKind::Solo);
        let gpu = find(workers(0), 64, 8).unwrap();
        assert_eq!((gpu.ranks, gpu.device, gpu.threads), (8, Device::Cuda, 8));
        assert_eq!(gpu.engine, EngineKind::Mpirun);
    }

    #[test]
    fn cpus_are_shared_out_and_never_run_out() {
        assert_eq!(find(workers(2), 8, 0).unwrap().threads, 4);
        assert_eq!(find(workers(4), 2, 0).unwrap().threads, 1);
        assert_eq!(find(Cluster { threads: 3, ..workers(2) }, 2, 0).unwrap().threads, 3);
    }

    #[test]
    fn bounds_leave_the_number_to_the_room_there_is() {
        assert_eq!(find(within(1, 8), 64, 4).unwrap().ranks, 4);
        assert_eq!(find(within(1, 8), 6, 0).unwrap().ranks, 6);
        assert_eq!(find(within(1, 4), 6, 0).unwrap().ranks, 4);
        let shares = Cluster { threads: 4, ..within(2, 8) };
        assert_eq!(find(shares.clone(), 14, 0).unwrap().ranks, 3);
        let error = find(shares, 7, 0).unwrap_err().to_string();
        assert!(error.contains("min is 2") && error.contains("room for 1 (CPUs by"), "{error}");
        let error = find(within(5, 8), 64, 4).unwrap_err().to_string();
        assert!(error.contains("room for 4 (by decree)"), "{error}");
    }

    #[test]
    fn contradictions_name_both_sides() {
        let cuda = Cluster { device: cluster::Device::Cuda, ..workers(3) };
        let error = find(cuda.clone(), 8, 0).unwrap_err().to_string();
        assert!(error.contains("`cuda`") && error.contains("by decree"), "{error}");
        let error = find(cuda, 8, 2).unwrap_err().to_string();
        assert!(error.contains("workers is 3") && error.contains("2 GPUs"), "{error}");
        let bf16 = Cluster { gradient_dtype: GradientDtype::Bf16, ..workers(2) };
        let error = find(bf16.clone(), 8, 0).unwrap_err().to_string();
        assert!(error.contains("`bf16`") && error.contains("by decree"), "{error}");
        assert_eq!(find(bf16, 8, 2).unwrap().collective(), Some("NCCL"));
        let solo = Cluster { engine: cluster::Engine::Solo, ..workers(2) };
        let error = find(solo, 8, 0).unwrap_err().to_string();
        assert!(error.contains("`solo`") && error.contains("workers is 2"), "{error}");
        let machine = Machine { mpirun: false, ..Machine::this() };
        let cpu = Cluster { device: cluster::Device::Cpu, ..workers(2) };
        assert_eq!(Topology::find(&cpu, &machine), Err(TopologyError::NoMpirun { workers: 2 }));
    }

    #[test]
    fn reproducible_sums_on_cpus_need_a_number_of_threads() {
        let reproducible = Cluster { reduction: Reduction::Reproducible, ..workers(2) };
        let error = find(reproducible.clone(), 8, 0).unwrap_err();
        assert_eq!(error, TopologyError::ThreadsVary { threads: 4 });
        assert!(find(Cluster { threads: 1, ..reproducible.clone() }, 8, 0).is_ok());
        assert!(find(reproducible, 8, 2).is_ok(), "GPUs do not care");
    }

    #[test]
    fn one_worker_can_be_started_by_mpirun() {
        let one = Cluster { engine: cluster::Engine::Mpirun, ..workers(1) };
        assert_eq!(find(one, 2, 0).unwrap().engine, EngineKind::Mpirun);
    }
}
