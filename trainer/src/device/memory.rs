//! How much memory this process holds.

use std::fs;

use cudarc::driver::result as driver;
use tandem_cluster::run::records::{GpuMemory, Memory};
use tch::Device;

use super::native;

/// What this process holds of main memory and of its device. Nothing queued on the device is waited for.
pub(crate) fn used(device: Device) -> Memory {
    let gpu = match device {
        Device::Cuda(index) => Some(of_gpu(index)),
        _ => None,
    };
    Memory { resident: resident(), gpu }
}

/// Of a GPU on which the calling thread has computed.
fn of_gpu(index: usize) -> GpuMemory {
    let (allocated, reserved) = native::gpu_memory(index);
    // A driver that does not answer has failed; the next product says so, with its cause.
    let (free, total) = driver::mem_get_info().unwrap_or_default();
    GpuMemory { allocated, reserved, free: free as u64, total: total as u64 }
}

/// Resident bytes of this process, by Linux.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_written_becomes_resident() {
        let before = used(Device::Cpu);
        assert_eq!(before.gpu, None);
        let block = std::hint::black_box(vec![1u8; 256 << 20]);
        let after = used(Device::Cpu);
        // Other tests may free some of theirs meanwhile.
        assert!(after.resident > before.resident + block.len() as u64 / 2, "{before:?} {after:?}");
    }
}
