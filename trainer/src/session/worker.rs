//! One rank: who it is, what it runs, whom it talks to.

use std::path::Path;

use tandem_cluster::process;
use tandem_cluster::run::control::{DEVICE_VARIABLE, Invitation, Phase, Report, Session};
use tandem_cluster::run::exit::Exit;
use tandem_cluster::run::folder::RunFolder;
use tandem_config::RunConfig;
use tandem_config::schema::cluster::Device as DeviceConfig;
use tch::Device;

use crate::device::precision::Kinds;

/// How a rank's work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It is done.
    Done,
    /// It was asked to stop, and can be resumed.
    Stopped,
}

impl From<Ending> for Exit {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Done => Self::Done,
            Ending::Stopped => Self::Stopped,
        }
    }
}

/// One rank of a run.
pub struct Worker {
    /// The run's folder.
    pub run: RunFolder,
    /// The run's config.
    pub config: RunConfig,
    /// This rank, counted from 0.
    pub rank: usize,
    /// The number of ranks.
    pub world_size: usize,
    /// Which attempt this is, 0 without a launcher; drafts of other attempts are never published.
    pub attempt: u64,
    /// What it computes on.
    pub device: Device,
    session: Option<Session>,
}

impl Worker {
    /// The `rank`-th of `world_size` ranks of the run in `run`; without an invitation it reports to nobody.
    ///
    /// # Errors
    /// A GPU that is requested and missing, or a coordinator that cannot be joined.
    pub fn join(
        run: RunFolder,
        config: RunConfig,
        invitation: Option<&Invitation>,
        (rank, world_size): (usize, usize),
        local_rank: usize,
    ) -> anyhow::Result<Self> {
        let cluster = &config.cluster;
        let wanted = told(cluster.device, std::env::var(DEVICE_VARIABLE).ok().as_deref());
        let device = device(wanted, cluster.workers_per_gpu, local_rank)?;
        let start = |invitation| Session::start(invitation, rank, &format!("{device:?}"));
        let session = invitation.map(start).transpose()?;
        let attempt = invitation.map_or(0, |invitation| invitation.attempt);
        if device == Device::Cpu {
            crate::device::native::tune_cpu();
        }
        Ok(Self { run, config, rank, world_size, attempt, device, session })
    }

    /// The same rank, at work with the model of another run.
    pub fn with_run(&self, run: &Path, config: RunConfig) -> Self {
        let Self { rank, world_size, attempt, device, .. } = *self;
        let (run, session) = (RunFolder::new(run.to_owned()), self.session.clone());
        Self { run, config, rank, world_size, attempt, device, session }
    }

    /// The connection to the coordinator, if there is one.
    pub fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// Sets the phase of this rank; each call counts as progress.
    pub fn phase(&self, phase: Phase, step: u64) {
        if let Some(session) = &self.session {
            session.phase(phase, step);
        }
    }

    /// As [`Worker::phase`], within work that can be abandoned: returns whether to continue.
    pub fn goes_on(&self, phase: Phase, step: u64) -> bool {
        self.phase(phase, step);
        !self.stop_requested()
    }

    /// Reports to the coordinator, or prints the report if there is none.
    pub fn report(&self, report: Report) {
        match &self.session {
            Some(session) => session.report(report),
            None => println!("{report:?}"),
        }
    }

    /// Prints and reports a warning.
    pub fn notice(&self, text: impl Into<String>) {
        let text = text.into();
        process::say(format_args!("warning: {text}"));
        self.report(Report::Notice { text });
    }

    /// Whether this is the rank that speaks for all.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// Whether the coordinator asked to write a checkpoint and stop.
    pub fn stop_requested(&self) -> bool {
        self.session.as_ref().is_some_and(Session::stop_requested)
    }

    /// Whether the coordinator asked for a checkpoint since this was last read.
    pub fn checkpoint_requested(&self) -> bool {
        self.session.as_ref().is_some_and(Session::checkpoint_requested)
    }

    /// What is held and computed in.
    pub fn kinds(&self) -> Kinds {
        Kinds::new(self.config.training.precision, self.device)
    }

    /// CPU threads of this rank.
    pub fn threads(&self) -> usize {
        tch::get_num_threads().max(1) as usize
    }
}

/// The device that the launcher has set for its workers, if there is a launcher: it counts GPUs for all of
/// them, and a worker that sees none must not fall back to the CPU by itself.
fn told(config: DeviceConfig, by_launcher: Option<&str>) -> DeviceConfig {
    match by_launcher {
        Some("cuda") => DeviceConfig::Cuda,
        Some("cpu") => DeviceConfig::Cpu,
        _ => config,
    }
}

/// The GPU of this rank, or the CPU. Up to `workers_per_gpu` ranks of a host share a GPU.
///
/// # Errors
/// A GPU that is requested and missing.
pub fn device(
    config: DeviceConfig,
    workers_per_gpu: usize,
    local_rank: usize,
) -> anyhow::Result<Device> {
    if config == DeviceConfig::Cpu {
        return Ok(Device::Cpu);
    }
    let loaded = crate::device::cuda::load();
    let count = tch::Cuda::device_count().max(0) as usize;
    if count > 0 {
        return gpu_index(count, local_rank, workers_per_gpu).map(Device::Cuda);
    }
    match (config, loaded) {
        (DeviceConfig::Cuda, Err(reason)) => {
            anyhow::bail!(
                "there is to be a GPU, but CUDA cannot be used: {reason}; `make setup TORCH=cuda` \
                 fetches libtorch with CUDA, `cluster.device: cpu` does without"
            )
        }
        (DeviceConfig::Cuda, Ok(())) => {
            anyhow::bail!(
                "there is to be a GPU, but libtorch sees none: see what `nvidia-smi` and \
                 CUDA_VISIBLE_DEVICES say, or set `cluster.device: cpu`"
            )
        }
        _ => Ok(Device::Cpu),
    }
}

/// Which of `count` visible GPUs, at least one, a rank takes: in turn, so that none has two ranks before
/// all have one. A single one is taken whatever the rank, which may see only its own.
///
/// # Errors
/// The GPUs have no room for this rank.
fn gpu_index(count: usize, local_rank: usize, workers_per_gpu: usize) -> anyhow::Result<usize> {
    let room = count.saturating_mul(workers_per_gpu);
    anyhow::ensure!(
        count == 1 || local_rank < room,
        "local rank {local_rank} has no GPU: {count} are visible and cluster.workers_per_gpu is \
         {workers_per_gpu}; start at most {room} workers per host"
    );
    Ok(local_rank % count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_launcher_decides_what_is_computed_on() {
        assert_eq!(told(DeviceConfig::Auto, Some("cuda")), DeviceConfig::Cuda);
        assert_eq!(told(DeviceConfig::Auto, Some("cpu")), DeviceConfig::Cpu);
        assert_eq!(told(DeviceConfig::Auto, None), DeviceConfig::Auto);
    }

    #[test]
    fn ranks_take_gpus_in_turn() {
        let indices = |count, workers_per_gpu, ranks: usize| {
            let index = |rank| gpu_index(count, rank, workers_per_gpu).unwrap();
            (0..ranks).map(index).collect::<Vec<_>>()
        };
        assert_eq!(indices(2, 1, 2), [0, 1]);
        assert_eq!(indices(2, 2, 4), [0, 1, 0, 1]);
        assert_eq!(indices(1, 3, 3), [0, 0, 0]);
    }

    #[test]
    fn a_rank_that_sees_one_gpu_takes_it() {
        assert_eq!(gpu_index(1, 3, 1).unwrap(), 0);
    }

    #[test]
    fn ranks_without_room_are_refused() {
        for (workers_per_gpu, rank) in [(1, 2), (2, 4)] {
            let error = gpu_index(2, rank, workers_per_gpu).unwrap_err().to_string();
            assert!(error.contains(&format!("local rank {rank} has no GPU: 2 are")), "{error}");
            assert!(error.contains(&format!("workers_per_gpu is {workers_per_gpu}")), "{error}");
        }
    }
}
