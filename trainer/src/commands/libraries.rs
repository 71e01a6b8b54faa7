//! `tandem-worker libraries`.

use tandem_cluster::libraries::Libraries;

use crate::parallel::nccl::library::{load, load_driver, unique_id};

/// Says what there is of the libraries that this program loads.
pub fn run() -> anyhow::Result<u8> {
    let no_cuda = crate::cuda::load().err();
    // A version whose unique id cannot be made is of no use.
    let nccl = load().and_then(|version| unique_id().map(|_| version.to_string()));
    let libraries = Libraries {
        mpi: mpi::environment::library_version()?.trim_end_matches('\0').trim().to_owned(),
        cuda: crate::native::cuda_version(),
        gpus: if no_cuda.is_none() { tch::Cuda::device_count().max(0) as usize } else { 0 },
        no_cuda,
        driver: load_driver().ok(),
        no_nccl: nccl.as_ref().err().map(ToString::to_string),
        nccl: nccl.ok(),
    };
    println!("{}", serde_json::to_string(&libraries)?);
    Ok(0)
}
