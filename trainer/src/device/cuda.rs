//! CUDA, loaded at start where it is there: one program serves CPUs and GPUs.

use libloading::os::unix as dl;
use tch::Device;

use crate::device::nccl;

/// Loads libtorch's CUDA half, which registers itself; NCCL first, so that both have the same.
///
/// # Errors
/// What the dynamic linker says, where it is not installed.
pub(crate) fn load() -> Result<(), String> {
    // Without NCCL before it, libtorch loads its own.
    let nccl = nccl::load();
    let flags = dl::RTLD_NOW | dl::RTLD_GLOBAL;
    // SAFETY: runs the constructors of a library that register kernels.
    match unsafe { dl::Library::open(Some("libtorch_cuda.so"), flags) } {
        Ok(library) => {
            // It stays for as long as the process.
            std::mem::forget(library);
            Ok(())
        }
        Err(error) => Err(match (nccl, nccl::linker_says(&error)) {
            (Ok(nccl), reason) if reason.contains("undefined symbol: nccl") => format!(
                "{reason}: libtorch needs a newer NCCL than {} ({}); take its folder out of \
                 LD_LIBRARY_PATH, or put a newer one before it",
                nccl.version,
                nccl.file.display()
            ),
            (_, reason) => reason,
        }),
    }
}

/// Waits until a device has done all that was queued; a CPU has.
pub(crate) fn synchronize(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn cuda_is_there_or_the_linker_says_what_is_missing() {
        match super::load() {
            Ok(()) => assert!(tch::utils::has_cuda(), "libtorch_cuda registered nothing"),
            Err(reason) => {
                assert!(reason.contains("libtorch_cuda.so"), "{reason}");
                assert!(!tch::utils::has_cuda());
            }
        }
    }
}
