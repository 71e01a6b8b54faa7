//! Processes and devices.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Processes and devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// What starts the workers.
    pub engine: Engine,
    /// Number of workers, `workers_per_gpu` per GPU or one per CPU share.
    pub workers: Workers,
    /// The most workers that share a GPU, each with a model of its own; several need NCCL 2.30 or newer.
    /// On CPUs it means nothing.
    #[schemars(range(min = 1))]
    pub workers_per_gpu: usize,
    /// A file with the hosts, as `NAME slots=COUNT` lines, relative to this file; without it Slurm's
    /// nodes, else this machine.
    pub hostfile: Option<PathBuf>,
    /// What the workers compute on.
    pub device: Device,
    /// CPU threads per worker; 0 shares the CPUs out evenly.
    pub threads: usize,
    /// In which order gradients are summed.
    pub reduction: Reduction,
    /// What gradients are rounded to on their way between workers.
    pub gradient_dtype: GradientDtype,
    /// Gradients are summed in buckets of so many MiB.
    #[schemars(range(min = 0.001))]
    pub bucket_mib: f64,
    /// Whether the hosts are measured and compared before anything is loaded.
    pub preflight: Preflight,
    /// After a failure the run resumes from its newest good checkpoint, so many times; a
    /// published checkpoint resets the count.
    pub max_restarts: usize,
    /// How long each phase may go without progress.
    pub deadlines: Deadlines,
    /// What is done when Slurm ends the job.
    pub slurm: Slurm,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            engine: Engine::Auto,
            workers: Workers::Number(0),
            workers_per_gpu: 1,
            hostfile: None,
            device: Device::Auto,
            threads: 0,
            reduction: Reduction::Plain,
            gradient_dtype: GradientDtype::F32,
            bucket_mib: 2.0,
            preflight: Preflight::Auto,
            max_restarts: 3,
            deadlines: Deadlines::default(),
            slurm: Slurm::default(),
        }
    }
}

/// Number of workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Workers {
    /// So many; 0 for as many as the GPUs have room for, or one on CPUs.
    Number(usize),
    /// As many as the GPUs have room for, or shares of `threads` CPUs, at each start and restart.
    Within(Bounds),
}

/// How few and how many workers a run may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// With less room than for so many the run does not start, or ends.
    #[schemars(range(min = 1))]
    pub min: usize,
    /// Never more, whatever room there is.
    #[schemars(range(min = 1))]
    pub max: usize,
}

impl Workers {
    /// The most that there can be, as far as the config says.
    pub fn most(self) -> usize {
        match self {
            Self::Number(number) => number,
            Self::Within(Bounds { max, .. }) => max,
        }
    }
}

/// What starts the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// `solo` for one worker on this machine, else `srun` in a job of Slurm's, else `mpirun`.
    #[default]
    Auto,
    /// One worker, without MPI.
    Solo,
    /// Open MPI's mpirun.
    Mpirun,
    /// Slurm's srun.
    Srun,
}

/// What the workers compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// GPUs where there are any, else CPUs.
    #[default]
    Auto,
    /// CPUs.
    Cpu,
    /// GPUs; refused where there are none.
    Cuda,
}

/// In which order gradients are summed. Floating-point sums depend on it in their last bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// In the order that is the fastest for the number of workers.
    #[default]
    Plain,
    /// In one order over the step's micro-batches: any number of workers trains the same bits. On
    /// CPUs they must have the same `threads`, on which matrix products depend.
    Reproducible,
}

/// What gradients are rounded to on their way between workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GradientDtype {
    /// They are not rounded.
    #[default]
    F32,
    /// Half the volume, rounded at each addition; the optimizer still works in f32. On GPUs only.
    Bf16,
}

/// Whether ranks compare clocks, versions, free memory and disk, a matrix product and an all-reduce
/// before they load anything: a slow host is named, and a broken one ends the attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preflight {
    /// Where the run is on several hosts.
    #[default]
    Auto,
    /// Wherever there are several workers.
    Always,
    /// Nowhere.
    Never,
}

/// What is done when Slurm ends the job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Slurm {
    /// How a run continues after its job's time limit or preemption.
    #[serde(rename = "continue")]
    pub continuation: Continuation,
    /// So many seconds before the end of the job's time the run writes a checkpoint and stops.
    #[schemars(range(min = 1.0))]
    pub margin: f64,
}

impl Default for Slurm {
    fn default() -> Self {
        Self { continuation: Continuation::Chain, margin: 120.0 }
    }
}

/// How a run continues after its job's time limit or preemption; never after scancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Continuation {
    /// By another job with the same batch script, which starts when this one has ended.
    #[default]
    Chain,
    /// By the same job, put back into the queue; Slurm lets it wait for two minutes or so.
    Requeue,
    /// Not by itself.
    Never,
}

/// Seconds that each phase may go without progress before the attempt is ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Deadlines {
    /// Start-up: connecting, loading, tokenising.
    #[schemars(range(min = 1.0))]
    pub start: f64,
    /// The preflight of several hosts, all of it.
    #[schemars(range(min = 1.0))]
    pub preflight: f64,
    /// One training step.
    #[schemars(range(min = 1.0))]
    pub step: f64,
    /// One checkpoint.
    #[schemars(range(min = 1.0))]
    pub save: f64,
    /// One batch of an evaluation or translation.
    #[schemars(range(min = 1.0))]
    pub evaluate: f64,
    /// From a request to stop until the last worker has gone.
    #[schemars(range(min = 1.0))]
    pub stop: f64,
    /// Hosts of a hostfile that do not answer when the run starts again, and without which it cannot;
    /// and the launcher of an earlier start of the same job of Slurm's.
    #[schemars(range(min = 1.0))]
    pub hosts: f64,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            start: 1800.0,
            preflight: 5.0,
            step: 120.0,
            save: 600.0,
            evaluate: 300.0,
            stop: 120.0,
            hosts: 300.0,
        }
    }
}
