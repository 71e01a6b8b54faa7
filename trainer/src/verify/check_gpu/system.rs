//! What there is: the card, its driver, the libraries.

use cudarc::driver::result::device as driver;
use cudarc::driver::sys::CUdevice_attribute as Attribute;
use tandem_cluster::run::gpu_report::{Card, System};
use tch::Device;

use crate::device::driver as cuda_driver;
use crate::device::native;
use crate::device::nccl::{self as library, NcclError};

/// What there is for `device`.
///
/// # Errors
/// The driver does not answer.
pub(crate) fn look(device: Device) -> Result<System, NcclError> {
    let card = match device {
        Device::Cuda(index) => Some(card(index)?),
        _ => None,
    };
    let nccl = library::load().ok();
    Ok(System {
        card,
        libtorch: native::torch_version(),
        cuda: native::cuda_version(),
        nccl: nccl.map(|nccl| nccl.version.to_string()),
        nccl_file: nccl.map(|nccl| nccl.file.clone()),
    })
}

fn card(index: usize) -> Result<Card, NcclError> {
    let gpu = cuda_driver::gpu(index)?;
    // SAFETY: the driver has just named this GPU.
    let attribute = |attribute| unsafe { driver::get_attribute(gpu, attribute) };
    Ok(Card {
        name: driver::get_name(gpu)?,
        // SAFETY: as above.
        memory: unsafe { driver::total_mem(gpu) }? as u64,
        compute_capability: [
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ],
        driver: driver_version(),
        driver_cuda: cuda_driver::load()?,
    })
}

/// The kernel module's version, which containers do not always see.
fn driver_version() -> Option<String> {
    if let Ok(text) = std::fs::read_to_string("/sys/module/nvidia/version") {
        return Some(text.trim().to_owned());
    }
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let is_version = |word: &&str| word.contains('.') && word.starts_with(char::is_numeric);
    text.split_whitespace().find(is_version).map(str::to_owned)
}
