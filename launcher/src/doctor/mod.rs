//! Whether this machine, and a run on it, would work: found out before anything starts.
//!
//! [`Site`] is what there is; a check is a function of it that finds at most one thing, so that each can be
//! tested without breaking a machine. [`gpu_test`] makes GPUs work.

mod environment;
mod files;
pub(crate) mod gpu_test;
mod gpus;
mod limits;
mod network;
mod programs;
pub(crate) mod site;

use serde::Serialize;

pub(crate) use limits::refuse_low_limits;
pub(crate) use site::Site;

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    /// A run would work, but not as well as it could.
    Warn,
    /// A run would fail.
    Fail,
}

/// What a check has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    level: Level,
    what: String,
    remedy: String,
}

/// What a check has found, with the check's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

type Check = fn(&Site) -> Option<Trouble>;

/// Every check, in the order in which a person would mend things.
pub(crate) const CHECKS: &[(&str, Check)] = &[
    ("config", files::config),
    ("worker", programs::worker),
    ("glibc", programs::glibc),
    ("libraries", programs::libraries),
    ("other-libtorch", environment::other_libtorch),
    ("mpirun", programs::mpirun),
    ("mpi-version", programs::mpi_version),
    ("inside-mpirun", environment::inside_mpirun),
    ("mpi-components", environment::mpi_components),
    ("mpi-interfaces", network::mpi_interfaces),
    ("topology", programs::topology),
    ("cpus", programs::cpus),
    ("vector-instructions", programs::vector_instructions),
    ("visible-devices", gpus::visible_devices),
    ("driver", gpus::driver),
    ("driver-version", gpus::driver_version),
    ("cuda", gpus::cuda),
    ("nccl", gpus::nccl),
    ("nccl-interface", network::nccl_interface),
    ("nccl-variables", environment::nccl_variables),
    ("threads-variable", environment::threads_variable),
    ("temporary-folder", environment::temporary_folder),
    ("slurm-tasks", environment::slurm_tasks),
    ("slurm-gpus", environment::slurm_gpus),
    ("slurm-end", environment::slurm_end),
    ("host-name", network::host_name),
    ("loopback", network::loopback),
    ("hosts", network::hosts),
    ("interfaces", network::other_interfaces),
    ("proxy", network::proxy),
    ("hub", files::hub),
    ("open-files", limits::open_files),
    ("processes", limits::processes),
    ("core-files", limits::core_files),
    ("locked-memory", limits::locked_memory),
    ("memory", limits::memory),
    ("shared-memory", limits::shared_memory),
    ("shared-memory-leftovers", files::shared_memory_leftovers),
    ("run-folder", files::run_folder),
    ("space", files::space),
    ("clock", files::clock),
    ("lock", files::lock),
    ("killed-launcher", files::killed_launcher),
];

/// What all checks find.
pub(crate) fn examine(site: &Site) -> Vec<Finding> {
    let finding = |&(name, check): &(&'static str, Check)| {
        let Trouble { level, what, remedy } = check(site)?;
        Some(Finding { check: name, level, what, remedy })
    };
    CHECKS.iter().filter_map(finding).collect()
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let level = match self.level {
            Level::Warn => "warning",
            Level::Fail => "failure",
        };
        write!(f, "{level}  {}: {}\n         {}", self.check, self.what, self.remedy)
    }
}

fn fail(what: impl Into<String>, remedy: impl Into<String>) -> Option<Trouble> {
    Some(Trouble { level: Level::Fail, what: what.into(), remedy: remedy.into() })
}

fn warn(what: impl Into<String>, remedy: impl Into<String>) -> Option<Trouble> {
    Some(Trouble { level: Level::Warn, what: what.into(), remedy: remedy.into() })
}

#[cfg(test)]
mod tests;
