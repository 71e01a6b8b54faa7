//! NCCL and the CUDA driver as libraries, loaded at run time by cudarc; what can go wrong there.

use std::ffi::{CStr, c_char};
use std::fmt;
use std::time::Duration;

use cudarc::driver::result::{self as driver, DriverError};
use cudarc::driver::sys::CUdevice;
use cudarc::nccl::sys::{self as nccl, ncclResult_t};

/// The oldest NCCL whose communicators can be made without blocking and given up on every thread.
const OLDEST: Version = Version(21800);

/// Why NCCL cannot be used, or failed.
#[derive(Debug, thiserror::Error)]
pub enum NcclError {
    /// The driver is not installed.
    #[error("libcuda.so cannot be loaded: NCCL needs NVIDIA's driver, and a GPU")]
    NoDriver,
    /// The library is not installed.
    #[error(
        "libnccl.so cannot be loaded; `make setup TORCH=cuda` fetches it, another one is found \
         when LD_LIBRARY_PATH names its folder"
    )]
    NoLibrary,
    /// The library lacks something.
    #[error("NCCL {found} is too old: {OLDEST} or newer is needed")]
    TooOld {
        /// What was loaded.
        found: Version,
    },
    /// A call of the CUDA driver failed.
    #[error("CUDA: {0}")]
    Cuda(#[from] DriverError),
    /// A call of NCCL failed.
    #[error("NCCL: {operation} failed: {reason}")]
    Failed {
        /// What was done.
        operation: &'static str,
        /// What NCCL says.
        reason: String,
    },
    /// Nothing happened for too long.
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
         CUDA_VISIBLE_DEVICES name all of a host's GPUs or one for each rank"
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

/// A version of NCCL, as the library says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub i32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(code) = self;
        write!(f, "{}.{}.{}", code / 10_000, code / 100 % 100, code % 100)
    }
}

/// Loads NCCL; its version.
///
/// # Errors
/// It is not there, or too old.
pub fn load() -> Result<Version, NcclError> {
    // SAFETY: loading runs the constructors of a library that NVIDIA made for that.
    if !unsafe { nccl::is_culib_present() } {
        return Err(NcclError::NoLibrary);
    }
    let mut code = 0;
    // SAFETY: the pointer is valid for a write.
    let result = unsafe { nccl::ncclGetVersion(&mut code) };
    let found = Version(code);
    match result {
        ncclResult_t::ncclSuccess if found >= OLDEST => Ok(found),
        ncclResult_t::ncclSuccess => Err(NcclError::TooOld { found }),
        error => Err(failed("asking for the version", error)),
    }
}

/// Loads the CUDA driver; the newest CUDA that it can serve, as 1000 · major + 10 · minor.
///
/// # Errors
/// It is not there or does not work.
pub fn load_driver() -> Result<i32, NcclError> {
    // SAFETY: as in `load`.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return Err(NcclError::NoDriver);
    }
    let mut version = 0;
    // SAFETY: the pointer is valid for a write.
    unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok(version)
}

/// A visible GPU.
///
/// # Errors
/// There is no driver or no such GPU.
pub fn gpu(ordinal: usize) -> Result<CUdevice, NcclError> {
    load_driver()?;
    driver::init()?;
    Ok(driver::device::get(ordinal as i32)?)
}

/// What tells one GPU from all others, of every host.
pub fn gpu_id(gpu: CUdevice) -> Result<[u8; 16], NcclError> {
    Ok(driver::device::get_uuid(gpu)?.bytes.map(|byte| byte as u8))
}

/// A new name for a communicator.
///
/// # Errors
/// What NCCL says, as when the host has no network.
pub fn unique_id() -> Result<[u8; 128], NcclError> {
    let mut id = nccl::ncclUniqueId { internal: [0; 128] };
    // SAFETY: the pointer is valid for a write.
    match unsafe { nccl::ncclGetUniqueId(&mut id) } {
        ncclResult_t::ncclSuccess => Ok(id.internal.map(|byte| byte as u8)),
        error => Err(failed("making a unique id", error)),
    }
}

/// The settings of a communicator whose calls do not block: NCCL_CONFIG_INITIALIZER of nccl.h.
pub fn non_blocking() -> nccl::ncclConfig_t {
    let (unset, unnamed) = (i32::MIN, std::ptr::null());
    nccl::ncclConfig_t {
        size: size_of::<nccl::ncclConfig_t>(),
        magic: 0xcafe_beef,
        version: 22900, // that of cudarc's declarations
        blocking: 0,
        cgaClusterSize: unset,
        minCTAs: unset,
        maxCTAs: unset,
        netName: unnamed,
        splitShare: unset,
        trafficClass: unset,
        commName: unnamed,
        collnetEnable: unset,
        CTAPolicy: unset,
        shrinkShare: unset,
        nvlsCTAs: unset,
        nChannelsPerNetPeer: unset,
        nvlinkCentricSched: unset,
        graphUsageMode: unset,
        numRmaCtx: unset,
    }
}

/// What NCCL says about a failed call.
pub fn failed(operation: &'static str, error: ncclResult_t) -> NcclError {
    // SAFETY: both answer C strings that outlive the copy; the last error is one of all
    // communicators, and none is asked for.
    let (kind, detail) = unsafe {
        let last = nccl::ncclGetLastError(std::ptr::null_mut());
        (text(nccl::ncclGetErrorString(error)), text(last))
    };
    let reason = if detail.is_empty() { kind } else { format!("{kind}: {detail}") };
    NcclError::Failed { operation, reason }
}

/// # Safety
/// `text` is null or a C string.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by contract.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_people_write_them() {
        assert_eq!(Version(22907).to_string(), "2.29.7");
        assert_eq!(Version(21800).to_string(), "2.18.0");
    }
}
