//! The CUDA driver, loaded at run time by cudarc.

use cudarc::driver::result as driver;
use cudarc::driver::sys::CUdevice;

use super::nccl::NcclError;

/// Loads the CUDA driver; the newest CUDA that it can serve, as 1000 · major + 10 · minor.
///
/// # Errors
/// It is not there or does not work.
pub(crate) fn load() -> Result<i32, NcclError> {
    // SAFETY: loading runs the constructors of a library that NVIDIA made for that.
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
pub(crate) fn gpu(ordinal: usize) -> Result<CUdevice, NcclError> {
    load()?;
    driver::init()?;
    Ok(driver::device::get(ordinal as i32)?)
}

/// What distinguishes one GPU from all others on all hosts.
pub(crate) fn gpu_id(gpu: CUdevice) -> Result<[u8; 16], NcclError> {
    Ok(driver::device::get_uuid(gpu)?.bytes.map(|byte| byte as u8))
}
