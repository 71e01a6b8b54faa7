//! GPUs: which are visible, the driver, CUDA and NCCL.

use tandem_cluster::hosts::visible_gpus;
use tandem_cluster::run::gpu_report::cuda_version;
use tandem_cluster::topology::Device;

use super::programs::joins_gpus;
use super::{Site, Trouble, fail, warn};

fn installed(site: &Site) -> usize {
    (0..64).filter(|i| site.system_file(&format!("/dev/nvidia{i}")).exists()).count()
}

/// Whether GPUs would be used.
fn wanted(site: &Site) -> bool {
    match &site.run {
        Some(_) => site.topology().is_some_and(|topology| topology.device == Device::Cuda),
        None => installed(site) > 0,
    }
}

pub(super) fn visible_devices(site: &Site) -> Option<Trouble> {
    let (visible, installed) = (site.variable("CUDA_VISIBLE_DEVICES")?, installed(site));
    let names: Vec<&str> = visible.split(',').map(str::trim).collect();
    if installed == 0 {
        return None;
    }
    let there = |name: &&str| name.parse().map_or(true, |index: usize| index < installed);
    if let Some(missing) = names.iter().find(|name| !there(name)) {
        return fail(
            format!(
                "CUDA_VISIBLE_DEVICES names GPU `{missing}`, but this machine has {installed} GPUs"
            ),
            "name existing GPUs, counted from 0: CUDA ignores the wrong name and all that follow it",
        );
    }
    let twice = names.iter().enumerate().find(|(index, name)| names[..*index].contains(name));
    if let Some((_, name)) = twice {
        return fail(
            format!("CUDA_VISIBLE_DEVICES names GPU `{name}` twice, which hides all GPUs"),
            "name each GPU once",
        );
    }
    if visible_gpus(installed, visible) > 0 {
        return None;
    }
    warn(
        format!("CUDA_VISIBLE_DEVICES hides all {installed} GPUs"),
        "unset it, or name the GPUs to use",
    )
}

pub(super) fn driver(site: &Site) -> Option<Trouble> {
    if installed(site) == 0 || site.found_libraries()?.driver.is_some() {
        return None;
    }
    fail(
        "this machine has GPUs, but libcuda.so.1 cannot be loaded",
        "install NVIDIA's driver; start a container with `--gpus all`",
    )
}

/// Minor versions of CUDA work with each other.
fn is_too_old(site: &Site) -> bool {
    site.found_libraries().is_some_and(|libraries| {
        libraries.driver.is_some_and(|driver| driver / 1000 < libraries.cuda / 1000)
    })
}

pub(super) fn driver_version(site: &Site) -> Option<Trouble> {
    let libraries = site.found_libraries()?;
    if !wanted(site) || !is_too_old(site) {
        return None;
    }
    fail(
        format!(
            "the driver supports CUDA {}, but libtorch needs CUDA {}",
            cuda_version(libraries.driver?),
            cuda_version(libraries.cuda)
        ),
        "update NVIDIA's driver, or set `cluster.device: cpu`",
    )
}

pub(super) fn cuda(site: &Site) -> Option<Trouble> {
    let libraries = site.found_libraries()?;
    if !wanted(site) || libraries.driver.is_none() || is_too_old(site) {
        return None;
    }
    match &libraries.no_cuda {
        Some(reason) => fail(
            format!("libtorch cannot use CUDA: {reason}"),
            "install libtorch for CUDA with `make setup TORCH=cuda`, and build again",
        ),
        None if libraries.gpus < site.machine.gpus => fail(
            format!("libtorch can use only {} of {} GPUs", libraries.gpus, site.machine.gpus),
            "check them with `nvidia-smi`; reset or hide those that do not respond",
        ),
        None => None,
    }
}

pub(super) fn nccl(site: &Site) -> Option<Trouble> {
    let libraries = site.found_libraries()?;
    let reason = libraries.no_nccl.as_ref().filter(|_| joins_gpus(site))?;
    fail(
        format!("NCCL cannot be used, which several GPUs need: {reason}"),
        "install NCCL with `make setup TORCH=cuda`, or set `cluster.workers: 1`",
    )
}
