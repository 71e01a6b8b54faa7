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
    fail(site.problems.clone()?, "correct these lines; each says what is allowed")
}

pub(super) fn hub(site: &Site) -> Option<Trouble> {
    let mut config = site.run.as_ref()?.config.clone();
    let names = config.model.pretrained_mut();
    let name = names.iter().find(|name| is_missing(name))?;
    let Some(variable) = offline(|name| site.variable(name).map(Into::into)) else {
        return warn(
            format!(
                "`{name}` is neither a folder nor in the Hugging Face cache, so launching downloads it"
            ),
            "launch on a machine that can reach the hub, or copy the model's folder to this one",
        );
    };
    fail(
        format!(
            "`{name}` is neither a folder nor in the Hugging Face cache, and {variable} forbids downloads"
        ),
        format!("unset {variable}, or give the path of a folder"),
    )
}

pub(super) fn run_folder(site: &Site) -> Option<Trouble> {
    let reason = site.writable.as_ref().err()?;
    fail(
        format!("{} is not writable: {reason}", site.folder.display()),
        "make it writable, or choose another folder with `run.folder`",
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
            "{} MiB of disk are free for {}, but the run writes up to {} MiB",
            site.free >> 20,
            site.folder.display(),
            needed >> 20
        ),
        "free disk space, keep fewer checkpoints, or choose another folder with `run.folder`",
    )
}

pub(super) fn clock(site: &Site) -> Option<Trouble> {
    let skew = site.clock_skew.as_secs();
    if skew < 5 {
        return None;
    }
    warn(
        format!(
            "the clock of the file system under {} differs from this machine's by {skew} s",
            site.folder.display()
        ),
        "synchronise both clocks (chrony, ntp)",
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
        "nothing to do: launching resumes from the newest checkpoint (`--restart` starts over)",
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
        format!("killed programs have left {count} shared-memory files in /dev/shm"),
        "if no MPI or NCCL program is running: `rm /dev/shm/vader_segment.* /dev/shm/nccl-*`",
    )
}
