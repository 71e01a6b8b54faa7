//! Variables that contradict each other, or what Tandem does.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use tandem_cluster::run::libraries::Libraries;

use super::{Site, Trouble, fail, warn};

pub(super) fn inside_mpirun(site: &Site) -> Option<Trouble> {
    let ranks = site.variable("OMPI_COMM_WORLD_SIZE")?;
    fail(
        format!(
            "this process is one of {ranks} started by mpirun, but the launcher starts mpirun itself"
        ),
        "run `tandem launch` once, without mpirun",
    )
}

pub(super) fn mpi_components(site: &Site) -> Option<Trouble> {
    let named = site.variable("OMPI_MCA_btl")?;
    let (excludes, list) = match named.strip_prefix('^') {
        Some(list) => (true, list),
        None => (false, named),
    };
    let has = |name: &str| list.split(',').any(|it| it.trim() == name);
    if has("self") != excludes {
        return None;
    }
    fail(
        format!("OMPI_MCA_btl is `{named}`: without `self` Open MPI cannot start a worker"),
        if excludes {
            "remove `self` from the list"
        } else {
            "add `self` to the list, as in `self,vader,tcp`"
        },
    )
}

pub(super) fn other_libtorch(site: &Site) -> Option<Trouble> {
    let folders = site.variable("LD_LIBRARY_PATH")?.split(':').filter(|it| !it.is_empty());
    let has = |folder: &&str| Path::new(folder).join("libtorch_cpu.so").exists();
    let folder = folders.into_iter().find(has)?;
    // Where the worker does not start, another check says so.
    let Libraries { built_libtorch, libtorch, .. } = site.found_libraries()?;
    if libtorch == built_libtorch {
        return None;
    }
    fail(
        format!(
            "the worker was built with libtorch {built_libtorch}, but loads libtorch {libtorch} from {folder}, \
             which is in LD_LIBRARY_PATH"
        ),
        "remove that folder from LD_LIBRARY_PATH",
    )
}

pub(super) fn nccl_variables(site: &Site) -> Option<Trouble> {
    let names = ["NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE", "NCCL_IB_DISABLE"];
    let name = names.iter().find(|name| site.variable(name) == Some("1"))?;
    if site.machine.gpus < 2 {
        return None;
    }
    warn(
        format!("{name} is set, which makes NCCL use a slower path between GPUs"),
        "unset it, unless the faster path does not work on this machine",
    )
}

pub(super) fn threads_variable(site: &Site) -> Option<Trouble> {
    let (topology, set) = (site.topology()?, site.number("OMP_NUM_THREADS")?);
    if site.run.as_ref()?.config.cluster.threads == 0 || set == topology.threads as u64 {
        return None;
    }
    warn(
        format!(
            "OMP_NUM_THREADS is {set}, but cluster.threads is {}: workers use the latter",
            topology.threads
        ),
        "unset OMP_NUM_THREADS, or change cluster.threads",
    )
}

pub(super) fn temporary_folder(site: &Site) -> Option<Trouble> {
    let folder = site.variable("TMPDIR").filter(|it| !it.is_empty())?;
    if !Path::new(folder).is_dir() {
        return fail(
            format!(
                "TMPDIR is {folder}, which is not a folder, and Open MPI keeps its session files there"
            ),
            "create it, or unset TMPDIR",
        );
    }
    // A socket's path has 108 characters, of which Open MPI's own part takes about 50.
    if folder.len() <= 56 {
        return None;
    }
    warn(
        format!(
            "the path in TMPDIR has {} characters, which is too long for Open MPI's sockets",
            folder.len()
        ),
        "use a shorter path, for example `TMPDIR=/tmp`",
    )
}

pub(super) fn slurm_tasks(site: &Site) -> Option<Trouble> {
    let number = |name: &str| site.number(&format!("SLURM_{name}"));
    let (tasks, nodes) = (number("NTASKS")?, number("JOB_NUM_NODES").or_else(|| number("NNODES"))?);
    let each = number("NTASKS_PER_NODE")?;
    if each * nodes == tasks {
        return None;
    }
    fail(
        format!("SLURM_NTASKS is {tasks}, but SLURM_NTASKS_PER_NODE is {each} on {nodes} nodes"),
        "submit the job with either --ntasks or --ntasks-per-node, not both",
    )
}

pub(super) fn slurm_gpus(site: &Site) -> Option<Trouble> {
    let (granted, visible) =
        (site.number("SLURM_GPUS_ON_NODE")?, site.variable("CUDA_VISIBLE_DEVICES")?);
    let named = visible.split(',').filter(|name| !name.trim().is_empty()).count() as u64;
    if named == granted {
        return None;
    }
    fail(
        format!("Slurm granted {granted} GPUs, but CUDA_VISIBLE_DEVICES names {named}"),
        "do not set CUDA_VISIBLE_DEVICES in a job: Slurm sets it",
    )
}

pub(super) fn slurm_end(site: &Site) -> Option<Trouble> {
    let end = site.number("SLURM_JOB_END_TIME")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    if end > now + 60 {
        return None;
    }
    fail(
        "SLURM_JOB_END_TIME has passed, or is less than a minute away",
        "submit a new job; or unset the variable, if it is left over from an earlier one",
    )
}
