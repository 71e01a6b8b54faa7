//! The config, the run folder and other files.

use std::time::{Duration, SystemTime};

use super::{Site, Trouble, fail, warn};
use crate::journal::{Status, read_state};
use crate::prepare::hub::{is_missing, offline};

/// What a run without a config that says more is taken to write.
const SOME: u64 = 1 << 30;
/// Files of programs that still run are newer.
const LEFT_OVER: Duration = Duration::from_secs(3600);

pub(super) fn config(site: &Site) -> Option<Trouble> {
    fail(site.problems.clone()?, "each line says what is allowed there, or which file is not there")
}

pub(super) fn hub(site: &Site) -> Option<Trouble> {
    let mut config = site.run.as_ref()?.config.clone();
    let names = config.model.pretrained_mut();
    let name = names.iter().find(|name| is_missing(name))?;
    let Some(variable) = offline(|name| site.variable(name).map(Into::into)) else {
        return warn(
            format!("`{name}` is neither a folder nor in the hub's cache: launching fetches it"),
            "launch where the hub can be reached, or copy its folder here",
        );
    };
    fail(
        format!("`{name}` is neither a folder nor in the hub's cache, and {variable} is set"),
        format!("unset {variable}, or give the path of a folder"),
    )
}

pub(super) fn run_folder(site: &Site) -> Option<Trouble> {
    let reason = site.writable.as_ref().err()?;
    fail(
        format!("nothing can be written for {}: {reason}", site.folder.display()),
        "choose another folder with `run.folder`, or make that one writable",
    )
}

pub(super) fn space(site: &Site) -> Option<Trouble> {
    let size = site.run.as_ref().and_then(|run| run.size);
    let needed = size.map_or(SOME, |size| size.disk + size.checkpoint);
    if site.free >= needed || site.writable.is_err() {
        return None;
    }
    fail(
        format!(
            "{} MiB are free for {}, and the run writes up to {} MiB",
            site.free >> 20,
            site.folder.display(),
            needed >> 20
        ),
        "free some, keep fewer checkpoints, or choose another folder with `run.folder`",
    )
}

pub(super) fn clock(site: &Site) -> Option<Trouble> {
    let skew = site.clock_skew.as_secs();
    if skew < 5 {
        return None;
    }
    warn(
        format!("the clock of the file system under {} is off by {skew} s", site.folder.display()),
        "synchronise the clocks of this machine and the file server (chrony, ntp)",
    )
}

pub(super) fn lock(site: &Site) -> Option<Trouble> {
    site.run.as_ref()?;
    let (folder, holder) = (site.folder.display(), site.run_folder().holder()?);
    fail(
        format!("{folder} is in use by {holder}"),
        format!("wait for it, stop it with `tandem stop {folder}`, or choose another `run.name`"),
    )
}

pub(super) fn killed_launcher(site: &Site) -> Option<Trouble> {
    site.run.as_ref()?;
    let state = read_state(&site.run_folder())?;
    if state.status != Status::Running || site.run_folder().holder().is_some() {
        return None;
    }
    warn(
        format!("the last launcher of {} was killed at step {}", site.folder.display(), state.step),
        "launching resumes from its newest checkpoint; `--restart` starts over",
    )
}

pub(super) fn shared_memory_leftovers(site: &Site) -> Option<Trouble> {
    let entries = std::fs::read_dir(site.system_file("/dev/shm")).ok()?;
    let is_left_over = |entry: &std::fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|time| SystemTime::now().duration_since(time).ok());
        ["vader_segment.", "nccl-"].iter().any(|start| name.starts_with(start))
            && age.is_some_and(|age| age > LEFT_OVER)
    };
    let count = entries.flatten().filter(is_left_over).count();
    if count == 0 {
        return None;
    }
    warn(
        format!("killed programs have left {count} files of shared memory in /dev/shm"),
        "if no MPI program runs here: `rm /dev/shm/vader_segment.* /dev/shm/nccl-*`",
    )
}
