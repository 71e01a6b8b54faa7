//! `tandem-worker libraries`.

use tandem_cluster::run::exit::Exit;
use tandem_cluster::run::libraries::Libraries;

use crate::device::native;
use crate::device::{driver, nccl as library};

/// Prints which libraries this program finds.
pub(super) fn run() -> anyhow::Result<Exit> {
    let no_cuda = crate::device::cuda::load().err();
    // A library that cannot create a unique id is useless.
    let nccl = library::load().and_then(|nccl| nccl.unique_id().map(|_| nccl));
    let libraries = Libraries {
        mpi: mpi::environment::library_version()?.trim_end_matches('\0').trim().to_owned(),
        built_libtorch: native::torch_version(),
        libtorch: native::loaded_torch_version(),
        cuda: native::cuda_version(),
        gpus: if no_cuda.is_none() { tch::Cuda::device_count().max(0) as usize } else { 0 },
        no_cuda,
        driver: driver::load().ok(),
        nccl: nccl.as_ref().ok().map(|nccl| nccl.version.to_string()),
        nccl_file: nccl.as_ref().ok().map(|nccl| nccl.file.clone()),
        no_nccl: nccl.err().map(|error| error.to_string()),
    };
    println!("{}", serde_json::to_string(&libraries)?);
    Ok(Exit::Done)
}
