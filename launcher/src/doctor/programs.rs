//! The programs that take part, and how many of them fit.

use tandem_cluster::topology::{Device, EngineKind};

use super::{Site, Trouble, fail, warn};

pub(super) fn worker(site: &Site) -> Option<Trouble> {
    let reason = site.worker.as_ref().err()?;
    fail(reason.clone(), "build it with `cargo build --release`, beside the launcher")
}

/// The loader's words for a C library that is older than the one at the time of building.
fn wants_newer_glibc(site: &Site) -> Option<&str> {
    let reason = site.libraries.as_ref()?.as_ref().err()?;
    reason.lines().find(|line| line.contains("GLIBC") && line.contains("not found"))
}

pub(super) fn glibc(site: &Site) -> Option<Trouble> {
    let line = wants_newer_glibc(site)?;
    fail(
        format!("the worker does not start: {line}"),
        "this system's C library is older than that of the machine where Tandem was built: build \
         Tandem here, or on the oldest system where it is to run",
    )
}

pub(super) fn libraries(site: &Site) -> Option<Trouble> {
    let reason = site.libraries.as_ref()?.as_ref().err()?;
    if wants_newer_glibc(site).is_some() {
        return None;
    }
    let reason = reason.lines().next().unwrap_or_default();
    fail(
        format!("the worker does not start: {reason}"),
        "run `make setup` and `cargo build --release` in the folder where Tandem is to stay: it loads \
         libtorch from there, by the same path on every host",
    )
}

pub(super) fn mpirun(site: &Site) -> Option<Trouble> {
    // A run that needs it is refused by its topology.
    if site.machine.mpirun || site.run.is_some() {
        return None;
    }
    warn(
        "mpirun is not in PATH, so a run can have only one worker",
        "install Open MPI (openmpi-bin), or add its folder to PATH",
    )
}

pub(super) fn mpi_version(site: &Site) -> Option<Trouble> {
    let (started_by, linked) = (site.mpirun.as_ref()?, &site.found_libraries()?.mpi);
    let name = |text: &str| {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit() && c != '.');
        let mut version = numbers.find(|word| word.contains('.'))?.split('.');
        Some((text.contains("Open MPI"), version.next()?.to_owned(), version.next()?.to_owned()))
    };
    if name(started_by) == name(linked) {
        return None;
    }
    let first = |text: &str| text.lines().next().unwrap_or_default().trim().to_owned();
    fail(
        format!(
            "mpirun is `{}`, but the worker is linked with `{}`: the workers would not find each other",
            first(started_by),
            first(linked)
        ),
        "put the mpirun of the worker's MPI first in PATH, or rebuild Tandem with this one",
    )
}

pub(super) fn topology(site: &Site) -> Option<Trouble> {
    let reason = site.run.as_ref()?.topology.as_ref().err()?;
    fail(reason.clone(), "change the keys of `cluster`, or use another machine")
}

pub(super) fn cpus(site: &Site) -> Option<Trouble> {
    let (topology, cpus) = (site.topology()?, site.machine.cpus);
    let threads = topology.ranks_per_host() * topology.threads;
    if threads <= cpus {
        return None;
    }
    let device = if topology.device == Device::Cuda { " beside the GPUs" } else { "" };
    warn(
        format!(
            "{} workers of {} threads{device} need {threads} CPUs, but this machine has {cpus}",
            topology.ranks, topology.threads
        ),
        "lower cluster.workers or cluster.threads, or leave cluster.threads at 0 (automatic)",
    )
}

pub(super) fn vector_instructions(site: &Site) -> Option<Trouble> {
    let on_gpus = site.topology().is_some_and(|topology| topology.device == Device::Cuda);
    let text = site.system_text("/proc/cpuinfo");
    let flags = text.lines().find(|line| line.starts_with("flags"))?;
    if on_gpus || flags.split_whitespace().any(|flag| flag == "avx2") {
        return None;
    }
    warn(
        "this CPU has no AVX2, or a virtual machine hides it, which makes training several times slower",
        "pass the host's CPU through to the virtual machine, or use another machine",
    )
}

/// Whether several workers are started on GPUs.
pub(super) fn joins_gpus(site: &Site) -> bool {
    match site.topology() {
        Some(topology) => topology.device == Device::Cuda && topology.engine != EngineKind::Solo,
        None => site.run.is_none() && site.machine.gpus > 1,
    }
}
