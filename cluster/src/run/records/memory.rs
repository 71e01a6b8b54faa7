//! The memory that a rank uses.

use serde::{Deserialize, Serialize};

/// What a rank's process holds, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Resident main memory.
    pub resident: u64,
    /// Memory of its GPU; none on CPUs.
    pub gpu: Option<GpuMemory>,
}

/// Memory of a rank's GPU, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuMemory {
    /// What the rank's tensors take.
    pub allocated: u64,
    /// What libtorch holds for them, with blocks that are kept for later.
    pub reserved: u64,
    /// What no process holds.
    pub free: u64,
    /// All that the GPU has.
    pub total: u64,
}
