//! What a preflight measured of each rank and its host.

use std::fmt;

use serde::{Deserialize, Serialize};
use tandem_cluster::run::records::Probe;

/// What a preflight measured of a rank and its host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub rank: usize,
    /// Where it is.
    pub host: String,
    /// By how many seconds its clock is ahead of the launcher's.
    pub clock_ahead: f64,
    /// Seconds of a message from rank 0 and back; none of rank 0.
    pub link_seconds: Option<f64>,
    /// Seconds of the all-reduce.
    pub all_reduce_seconds: f64,
    /// What it measured by itself.
    pub probe: Probe,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, host, clock_ahead, link_seconds, all_reduce_seconds, probe } = self;
        let (product, all_reduce) = (1e3 * probe.product_seconds, 1e3 * all_reduce_seconds);
        write!(f, "{host} (rank {rank}): matrix product {product:.1} ms")?;
        if let Some(seconds) = link_seconds {
            write!(f, ", message from rank 0 and back {:.1} ms", 1e3 * seconds)?;
        }
        write!(f, ", all-reduce {all_reduce:.1} ms, {} of memory free", size(probe.memory))?;
        if let Some(free) = probe.gpu_memory {
            write!(f, ", {} on its GPU", size(free))?;
        }
        if let Some(free) = probe.disks.values().map(|disk| disk.free).min() {
            write!(f, ", {} of disk free", size(free))?;
        }
        write!(f, ", clock {clock_ahead:+.1} s")
    }
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0x4000_0000.. => format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64),
        _ => format!("{} MiB", bytes >> 20),
    }
}
