//! Why NCCL cannot be used, or failed.

use std::path::PathBuf;
use std::time::Duration;

use cudarc::driver::result::DriverError;

use super::{OLDEST, OLDEST_SHARING, Version};

/// Why NCCL cannot be used, or failed.
#[derive(Debug, thiserror::Error)]
pub enum NcclError {
    /// The driver is not installed.
    #[error("libcuda.so cannot be loaded: NCCL needs NVIDIA's driver, and a GPU")]
    NoDriver,
    /// The library is not installed.
    #[error(
        "libnccl.so.2 cannot be loaded ({reason}); `make setup TORCH=cuda` fetches it, another one \
         is found when LD_LIBRARY_PATH names its folder"
    )]
    NoLibrary {
        /// What the dynamic linker says.
        reason: String,
    },
    /// The library lacks something.
    #[error("NCCL {found} ({}) is too old: {OLDEST} or newer is needed", file.display())]
    TooOld {
        /// What was loaded.
        found: Version,
        /// Where it lies.
        file: PathBuf,
    },
    /// The library lacks a function.
    #[error("{} is no NCCL that can be used: {reason}", file.display())]
    NoFunction {
        /// Where it lies.
        file: PathBuf,
        /// What the dynamic linker says.
        reason: String,
    },
    /// They would call into each other.
    #[error(
        "there are two NCCLs in this process, {} and {}: let LD_LIBRARY_PATH and LD_PRELOAD name \
         one of them", used.display(), other.display()
    )]
    TwoCopies {
        /// The one that would be used.
        used: PathBuf,
        /// The one that its own calls would reach.
        other: PathBuf,
    },
    /// Ranks cannot share a GPU.
    #[error(
        "cluster.workers_per_gpu is {workers}, but NCCL {found} ({}) wants a GPU for each rank: \
         put {OLDEST_SHARING} or newer into LD_LIBRARY_PATH, or set it to 1", file.display()
    )]
    NoSharing {
        /// The setting.
        workers: usize,
        /// What was loaded.
        found: Version,
        /// Where it lies.
        file: PathBuf,
    },
    /// A call of the CUDA driver failed.
    #[error("CUDA: {0}")]
    Cuda(#[from] DriverError),
    /// A call of NCCL failed.
    #[error("NCCL: {operation} failed: {reason} (NCCL {version}, {})", file.display())]
    Failed {
        /// What was done.
        operation: &'static str,
        /// What NCCL says.
        reason: String,
        /// What was loaded.
        version: Version,
        /// Where it lies.
        file: PathBuf,
    },
    /// There was no progress within the deadline.
    #[error(
        "NCCL: {operation} did not end within {} s: another rank is gone, hangs, or does \
         something else", deadline.as_secs_f64()
    )]
    Deadline {
        /// What was waited for.
        operation: &'static str,
        /// How long.
        deadline: Duration,
    },
    /// Another rank failed.
    #[error("rank {rank} cannot use NCCL; its log says why")]
    Peer {
        /// The rank.
        rank: usize,
    },
    /// The hosts have different libraries.
    #[error(
        "rank 0 has NCCL {first} and rank {rank} has NCCL {other}: install the same one on every \
         host"
    )]
    Versions {
        /// Rank 0's.
        first: Version,
        /// A rank with another.
        rank: usize,
        /// That rank's.
        other: Version,
    },
    /// One GPU cannot be two ranks.
    #[error(
        "ranks {first} and {second} have the same GPU: start one worker per GPU, and let \
         CUDA_VISIBLE_DEVICES name all of a host's GPUs or one for each rank; or set \
         cluster.workers_per_gpu"
    )]
    SharedGpu {
        /// A rank.
        first: usize,
        /// A later one.
        second: usize,
    },
    /// It was used again.
    #[error("NCCL: the communicator was given up after an earlier error")]
    GivenUp,
}
