//! What a rank measures before it loads anything, so that the launcher can name the host that is slow or
//! broken: its host, its way to rank 0, and an all-reduce.
//!
//! The launcher compares, and holds every stage against `cluster.deadlines.preflight`.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tandem_cluster::hosts;
use tandem_cluster::process::free_bytes;
use tandem_cluster::run::control::{PREFLIGHT_VARIABLE, Report};
use tandem_cluster::run::records::{Disk, PreflightStage, Probe};
use tch::{Device, Kind, Tensor};

use super::worker::Worker;
use crate::device::{cuda, driver, memory, native};
use crate::parallel::mpi::Mpi;
use crate::parallel::{Collective, CollectiveError, Message};

/// Rows and columns of the matrices: some ten milliseconds on a core of a CPU, a few on a GPU.
const CPU_ROWS: i64 = 1024;
const GPU_ROWS: i64 = 4096;
/// Products that are timed, after one that is not; fewer where they take long.
const PRODUCTS: usize = 3;
const PRODUCTS_LIMIT: Duration = Duration::from_millis(500);
/// Elements of a message to rank 0 and back: 256 KiB.
const LINK_ELEMENTS: i64 = 64 << 10;
/// Elements of the all-reduce: 4 MiB.
const REDUCE_ELEMENTS: i64 = 1 << 20;

/// Whether the launcher has asked for it.
pub(crate) fn is_wanted() -> bool {
    env::var(PREFLIGHT_VARIABLE).is_ok_and(|value| value == "1")
}

/// Measures this rank's host: before MPI, which a full disk ends with words of its own.
pub(crate) fn look(worker: &Worker) {
    reached(worker, PreflightStage::Probed(probe(worker)));
}

/// Tries the way to rank 0.
///
/// # Errors
/// A failing communication library.
pub(crate) fn meet(worker: &Worker, mpi: &Mpi) -> Result<(), CollectiveError> {
    reached(worker, PreflightStage::Started);
    let seconds = link(mpi)?;
    reached(worker, PreflightStage::Linked { seconds });
    Ok(())
}

/// Times an all-reduce by what will sum the gradients.
///
/// # Errors
/// A failing communication library.
pub(crate) fn reduce(worker: &Worker, world: &dyn Collective) -> Result<(), CollectiveError> {
    reached(worker, PreflightStage::Ready);
    let mut tensor = Tensor::zeros([REDUCE_ELEMENTS], (Kind::Float, worker.device));
    let mut all_reduce = || {
        world.begin()?;
        world.all_reduce_sum(&mut tensor)?;
        world.settle()?;
        cuda::synchronize(worker.device);
        Ok::<(), CollectiveError>(())
    };
    // The first one opens the connections.
    all_reduce()?;
    let started = Instant::now();
    all_reduce()?;
    let seconds = started.elapsed().as_secs_f64();
    reached(worker, PreflightStage::Reduced { seconds });
    Ok(())
}

fn reached(worker: &Worker, stage: PreflightStage) {
    worker.report(Report::Preflight { stage });
}

fn probe(worker: &Worker) -> Probe {
    let product_seconds = product_seconds(worker.device);
    Probe {
        product_seconds,
        memory: available_memory(),
        gpu_memory: memory::used(worker.device).gpu.map(|gpu| gpu.free),
        disks: disks(worker),
        features: features(worker.device),
        // Last of all, so that it is as new as possible when it arrives.
        time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64()),
    }
}

/// Zero where the system does not say, which the comparison then names.
fn available_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    hosts::available_memory(&text).unwrap_or(0)
}

/// Seconds of the fastest matrix product of some: what else goes on for a moment does not count.
fn product_seconds(device: Device) -> f64 {
    let rows = if device == Device::Cpu { CPU_ROWS } else { GPU_ROWS };
    let matrix = Tensor::ones([rows, rows], (Kind::Float, device));
    let product = || {
        let started = Instant::now();
        let _ = matrix.matmul(&matrix);
        cuda::synchronize(device);
        started.elapsed()
    };
    product();
    let mut fastest = Duration::MAX;
    let mut spent = Duration::ZERO;
    for _ in 0..PRODUCTS {
        let took = product();
        fastest = fastest.min(took);
        spent += took;
        if spent > PRODUCTS_LIMIT {
            break;
        }
    }
    fastest.as_secs_f64()
}

/// The space where a run writes. A folder that cannot be asked about is left out: what is written there
/// says why.
fn disks(worker: &Worker) -> BTreeMap<String, Disk> {
    let run = std::path::absolute(worker.run.path()).unwrap_or(worker.run.path().to_owned());
    let cache = worker.config.data.cache(&run);
    let disk = |(what, path): (&str, PathBuf)| {
        let existing = path.ancestors().find(|path| path.exists()).map(Path::to_owned)?;
        let free = free_bytes(&existing).ok()?;
        Some((what.to_owned(), Disk { path, free }))
    };
    [("run folder", run), ("data cache", cache), ("temporary files", env::temp_dir())]
        .into_iter()
        .filter_map(disk)
        .collect()
}

fn features(device: Device) -> BTreeMap<String, String> {
    let mut features = BTreeMap::new();
    features.insert("CPU instructions".to_owned(), native::cpu_capability());
    if let (Device::Cuda(_), Ok(version)) = (device, driver::load()) {
        let version = format!("{}.{}", version / 1000, version % 1000 / 10);
        features.insert("newest CUDA of the driver".to_owned(), version);
    }
    features
}

/// Has a message go between rank 0 and every other at once, then one after the other; seconds of the
/// latter, of rank 0.
fn link(mpi: &Mpi) -> Result<BTreeMap<usize, f64>, CollectiveError> {
    let exchange = |peers: &[usize]| {
        let messages = || -> Vec<Message> {
            let elements = || Tensor::zeros([LINK_ELEMENTS], (Kind::Float, Device::Cpu));
            peers.iter().map(|&peer| Message { peer, elements: elements() }).collect()
        };
        let (sends, mut receives) = (messages(), messages());
        let started = Instant::now();
        mpi.exchange(&sends, &mut receives)?;
        Ok::<f64, CollectiveError>(started.elapsed().as_secs_f64())
    };
    if mpi.rank() > 0 {
        exchange(&[0])?;
        exchange(&[0])?;
        return Ok(BTreeMap::new());
    }
    let peers: Vec<usize> = (1..mpi.world_size()).collect();
    exchange(&peers)?;
    peers.into_iter().map(|peer| Ok((peer, exchange(&[peer])?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_memory_and_instructions_and_multiplies() {
        assert!(product_seconds(Device::Cpu) > 0.0);
        let features = features(Device::Cpu);
        assert_eq!(features.len(), 1, "{features:?}");
        assert!(!features["CPU instructions"].is_empty(), "{features:?}");
    }
}
