//! What the system grants a process.

use tandem_cluster::hosts;
use tandem_cluster::topology::Topology;

use super::{Site, Trouble, fail, warn};
use crate::terminal::exit::Refused;

const MEBIBYTE: u64 = 1 << 20;

/// This process's limits.
const LIMITS: &str = "/proc/self/limits";

/// A soft limit of this process; none for `unlimited`, or where the system does not say.
fn limit(site: &Site, name: &str) -> Option<u64> {
    limit_in(&site.system_text(LIMITS), name)
}

fn limit_in(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line[name.len()..].split_whitespace().next()?.parse().ok()
}

fn ranks(site: &Site) -> u64 {
    site.topology().map_or(1, |topology| topology.ranks as u64)
}

pub(super) fn open_files(site: &Site) -> Option<Trouble> {
    few_open_files(&site.system_text(LIMITS), ranks(site))
}

/// Refuses to launch where workers would hang or die without an error message: mpirun does not report that it
/// lacks file descriptors, nor libraries that they lack threads.
///
/// # Errors
/// As the doctor's checks.
pub(crate) fn refuse_low_limits(topology: &Topology) -> Result<(), Refused> {
    let limits = std::fs::read_to_string(LIMITS).unwrap_or_default();
    few_open_files(&limits, topology.ranks as u64)
        .or_else(|| few_processes(&limits, topology))
        .map_or(Ok(()), |Trouble { what, remedy, .. }| Err(Refused(format!("{what}; {remedy}"))))
}

fn few_open_files(limits: &str, ranks: u64) -> Option<Trouble> {
    // The launcher has a connection with each rank.
    let needed = 512.max(128 + ranks);
    let granted = limit_in(limits, "Max open files").filter(|&granted| granted < needed)?;
    fail(
        format!(
            "a process may open only {granted} files, but workers and their connections need {needed}"
        ),
        format!(
            "raise the limit: `ulimit -n {}`, or LimitNOFILE of the service that starts Tandem",
            needed.max(4096)
        ),
    )
}

/// How a limit of processes is raised.
const MORE_PROCESSES: &str =
    "raise the limit: `ulimit -u 4096`, or TasksMax of the service that starts Tandem";

pub(super) fn processes(site: &Site) -> Option<Trouble> {
    let text = site.system_text(LIMITS);
    let few = site.topology().and_then(|topology| few_processes(&text, topology));
    few.or_else(|| {
        let enough = 256 + 64 * ranks(site);
        let granted = limit_in(&text, "Max processes").filter(|&granted| granted < enough)?;
        warn(
            format!(
                "this user may have only {granted} processes and threads; {enough} leave room for what else \
                 runs"
            ),
            MORE_PROCESSES,
        )
    })
}

fn few_processes(limits: &str, topology: &Topology) -> Option<Trouble> {
    // Besides its threads that compute, a worker on a CPU has 7; the launcher and mpirun have 10, and the
    // launcher another one for each rank.
    let needed = 16 + topology.ranks + topology.ranks_per_host() * (8 + topology.threads);
    let granted = limit_in(limits, "Max processes").filter(|&granted| granted < needed as u64)?;
    fail(
        format!(
            "this user may have only {granted} processes and threads, but the run needs {needed}"
        ),
        MORE_PROCESSES,
    )
}

pub(super) fn core_files(site: &Site) -> Option<Trouble> {
    let text = site.system_text("/proc/self/limits");
    let line = text.lines().find(|line| line.starts_with("Max core file size"))?;
    if !line.contains("unlimited") || line.split_whitespace().nth(4) != Some("unlimited") {
        return None;
    }
    // Another program takes them.
    if site.system_text("/proc/sys/kernel/core_pattern").starts_with('|') {
        return None;
    }
    warn(
        "a worker that crashes writes its whole memory to a core file",
        "if the disk is small, disable core files: `ulimit -c 0`",
    )
}

pub(super) fn locked_memory(site: &Site) -> Option<Trouble> {
    if !site.system_file("/dev/infiniband").exists() {
        return None;
    }
    let granted = limit(site, "Max locked memory")?;
    if granted >= 1024 * MEBIBYTE {
        return None;
    }
    fail(
        format!("InfiniBand locks its buffers in memory, but only {granted} bytes may be locked"),
        "raise the limit: `ulimit -l unlimited`; under Slurm, LimitMEMLOCK=infinity for slurmd",
    )
}

pub(super) fn memory(site: &Site) -> Option<Trouble> {
    let (topology, size) = (site.topology()?, site.run.as_ref()?.size?);
    if topology.device != tandem_cluster::topology::Device::Cpu {
        return None;
    }
    let available = hosts::available_memory(&site.system_text("/proc/meminfo"))?;
    let needed = size.memory_per_rank * topology.ranks as u64;
    if needed <= available {
        return None;
    }
    warn(
        format!(
            "the workers need about {} MiB of memory, but only {} MiB are available",
            needed / MEBIBYTE,
            available / MEBIBYTE
        ),
        "lower training.max_tokens, data.max_length or cluster.workers",
    )
}

pub(super) fn shared_memory(site: &Site) -> Option<Trouble> {
    // Open MPI's segments are 4 MiB for each rank; NCCL's are about 10 MiB for each pair.
    let needed = 32 * MEBIBYTE * ranks(site).max(site.machine.gpus as u64).max(1);
    let free = site.shared_memory.filter(|&free| free < needed)?;
    fail(
        format!(
            "/dev/shm has {} MiB free, but workers may need {} MiB of shared memory",
            free / MEBIBYTE,
            needed / MEBIBYTE
        ),
        "enlarge it: `mount -o remount,size=1G /dev/shm`, or start a container with `--shm-size 1g`",
    )
}
