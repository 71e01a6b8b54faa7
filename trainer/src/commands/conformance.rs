//! `tandem-worker conformance`.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use tandem_cluster::error::with_causes;
use tandem_cluster::run::exit::Exit;
use tandem_config::schema::cluster::Device as DeviceConfig;
use tch::{Device, Kind, Tensor};

use super::rank::{local_rank, started_by_mpirun};
use crate::parallel::mpi::Mpi;
use crate::parallel::nccl::Nccl;
use crate::parallel::solo::Solo;
use crate::parallel::{Collective, CollectiveError, collective, tree};

/// All-reduces of each size.
const REPEATS: u32 = 5;

/// Test the collective operations of the ranks that mpirun started.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What carries the tensors.
    #[arg(long, value_enum, default_value_t = Backend::Mpi)]
    backend: Backend,
    /// Measure the bandwidth of all-reduce as well, of up to so many MiB.
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    bandwidth: i64,
    /// The longest wait of NCCL, in seconds.
    #[arg(long, default_value_t = 60)]
    deadline: u64,
    /// How many ranks may share a GPU; several take NCCL 2.30 or newer.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    workers_per_gpu: u32,
    /// Keep NCCL's tensors in main memory: for tests, with stand-ins of NCCL and of CUDA's driver.
    #[arg(long)]
    host_memory: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Backend {
    Solo,
    Mpi,
    Nccl,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        if let Backend::Solo = self.backend {
            return self.test(&Solo, Device::Cpu);
        }
        let (universe, mpi) = started_by_mpirun()?;
        let outcome = match self.backend {
            Backend::Nccl => self.nccl(&mpi),
            _ => self.test(&mpi, Device::Cpu),
        };
        if let Err(error) = outcome {
            eprintln!("error: rank {}: {}", mpi.rank(), with_causes(error.as_ref()));
            // Without MPI_Finalize, which would wait for ranks that do not know yet.
            tandem_cluster::process::exit_now(Exit::Failed.code().into());
        }
        drop(universe);
        Ok(Exit::Done)
    }

    fn nccl(&self, mpi: &Mpi) -> anyhow::Result<Exit> {
        let workers_per_gpu = self.workers_per_gpu as usize;
        let device = if self.host_memory {
            // As in a run, where libtorch's CUDA half may bring an NCCL of its own.
            let _ = crate::device::cuda::load();
            Device::Cpu
        } else {
            crate::session::worker::device(DeviceConfig::Cuda, workers_per_gpu, local_rank())?
        };
        let deadline = Duration::from_secs(self.deadline);
        let nccl = Nccl::start(mpi, device, workers_per_gpu, deadline)?;
        self.test(&nccl, device)
    }

    fn test(&self, world: &dyn Collective, device: Device) -> anyhow::Result<Exit> {
        collective::conformance(world, device)?;
        tree::conformance(world, device)?;
        let (backend, ranks) = (format!("{:?}", self.backend).to_lowercase(), world.world_size());
        if world.rank() == 0 {
            println!("{backend} conforms with {ranks} ranks");
            if self.bandwidth > 0 && ranks == 1 {
                println!("the bandwidth of all-reduce is between ranks, and there is one");
            }
        }
        if ranks == 1 {
            return Ok(Exit::Done);
        }
        let four_times = |mebibytes: &i64| Some(mebibytes * 4);
        for mebibytes in std::iter::successors(Some(1), four_times) {
            if mebibytes > self.bandwidth {
                break;
            }
            let seconds = all_reduce_seconds(world, device, mebibytes << 18)?;
            // What each link of a ring carries: 2 (n - 1) / n of the tensor.
            let (bytes, ranks) = ((mebibytes << 20) as f64, ranks as f64);
            let bandwidth = bytes / seconds * 2.0 * (ranks - 1.0) / ranks;
            if world.rank() == 0 {
                println!(
                    "all-reduce of {mebibytes:3} MiB  {:9.3} ms  {:7.2} GB/s on each link",
                    seconds * 1e3,
                    bandwidth / 1e9
                );
            }
        }
        Ok(Exit::Done)
    }
}

/// Seconds of one all-reduce of so many f32, on average.
fn all_reduce_seconds(
    world: &dyn Collective,
    device: Device,
    elements: i64,
) -> Result<f64, CollectiveError> {
    let mut tensor = Tensor::zeros([elements], (Kind::Float, device));
    let mut repeat = |times: u32| {
        world.begin()?;
        (0..times).try_for_each(|_| world.all_reduce_sum(&mut tensor))?;
        world.complete()
    };
    repeat(1)?;
    let started = Instant::now();
    repeat(REPEATS)?;
    Ok(started.elapsed().as_secs_f64() / f64::from(REPEATS))
}
