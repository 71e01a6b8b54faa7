//! What the ranks of a run on several hosts find out about their hosts before they load anything.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How far a rank has come, in this order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PreflightStage {
    /// It has measured its host.
    Probed(Probe),
    /// MPI is started, for which ranks wait for each other.
    Started,
    /// Messages have gone from it to rank 0 and back; of rank 0, with all others.
    Linked {
        /// Seconds of a message to each other rank and back, by rank; rank 0 alone.
        seconds: BTreeMap<usize, f64>,
    },
    /// What sums gradients is set up.
    Ready,
    /// All ranks have taken part in an all-reduce.
    Reduced {
        /// Its seconds.
        seconds: f64,
    },
}

/// What a rank has measured by itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// The time by its clock, in seconds since 1970.
    pub time: f64,
    /// Seconds of a matrix product, the fastest of some.
    pub product_seconds: f64,
    /// Available main memory, in bytes.
    pub memory: u64,
    /// Free memory of its GPU, in bytes; none on CPUs.
    pub gpu_memory: Option<u64>,
    /// The folders that a run writes to, by what they are.
    pub disks: BTreeMap<String, Disk>,
    /// What hosts of one kind have in common, by name, such as the instructions of their CPUs.
    pub features: BTreeMap<String, String>,
}

/// The space in a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The folder.
    pub path: PathBuf,
    /// Free bytes.
    pub free: u64,
}
