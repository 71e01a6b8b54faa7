//! What the worker program finds of the libraries that it needs, for `tandem doctor`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The libraries of `tandem-worker` on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Libraries {
    /// MPI's description of itself.
    pub mpi: String,
    /// The version of libtorch that the worker was built with.
    pub built_libtorch: String,
    /// The version of the libtorch that it loads, if that reports one.
    pub libtorch: String,
    /// The CUDA that libtorch was built with, as 1000 · major + 10 · minor.
    pub cuda: i32,
    /// Why libtorch cannot use CUDA here.
    pub no_cuda: Option<String>,
    /// The newest CUDA that the driver serves, as above.
    pub driver: Option<i32>,
    /// GPUs that libtorch sees.
    pub gpus: usize,
    /// NCCL's version, if it can be used.
    pub nccl: Option<String>,
    /// The file that it was loaded from.
    pub nccl_file: Option<PathBuf>,
    /// Why it cannot.
    pub no_nccl: Option<String>,
}
