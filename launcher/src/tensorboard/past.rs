//! Truncates the logs of earlier attempts to the checkpoint that the next attempt resumes from.
//!
//! A killed attempt leaves points beyond its last checkpoint, which the next attempt computes again, and
//! perhaps an incomplete record at the end of its file. TensorBoard's two readers handle these
//! differently, so the files are rewritten: afterwards any reader finds one point for each tag and step.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tandem_cluster::run::atomic;
use tensorboard_proto::event::{Event, SessionLog_SessionStatus};

use super::records::Records;

/// The prefix of event files' names; the time in seconds follows, in ten digits.
pub(super) const PREFIX: &str = "events.out.tfevents.";

/// The log so far.
#[derive(Default)]
pub(super) struct Past {
    /// Step of the newest remaining point of each tag.
    pub(super) last_steps: HashMap<String, u64>,
    /// Time in the name of the newest file.
    pub(super) newest_time: Option<u64>,
    /// The first error; the file in question was left unchanged.
    pub(super) error: Option<io::Error>,
}

/// Removes all points after `resume_step` (`None`: all points) from the event files in `folder`.
pub(super) fn cut(folder: &Path, resume_step: Option<u64>) -> Past {
    let mut past = Past::default();
    let mut files = event_files(folder).unwrap_or_else(|error| {
        past.error = Some(error);
        Vec::new()
    });
    files.sort();
    past.newest_time = files.iter().filter_map(|file| time(file)).max();
    // Newest first: the points of an attempt only count up to the start of the next one.
    let mut end = resume_step.map_or(0, |step| step + 1);
    for file in files.iter().rev() {
        if let Err(error) = cut_file(file, &mut end, &mut past.last_steps) {
            past.error.get_or_insert(error);
        }
    }
    past
}

fn event_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            files.push(entry.path());
        }
    }
    Ok(files)
}

fn time(file: &Path) -> Option<u64> {
    let name = file.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    name.split('.').next()?.parse().ok()
}

/// Keeps the points before step `end` in `file`, and moves `end` to the start of its attempt.
fn cut_file(file: &Path, end: &mut u64, last_steps: &mut HashMap<String, u64>) -> io::Result<()> {
    let found = fs::read(file)?;
    let (mut kept, mut has_points, mut start) = (Vec::new(), false, *end);
    for (record, event) in Records::of(&found) {
        let step = u64::try_from(event.get_step()).unwrap_or(0);
        if is_start(&event) {
            start = start.min(step);
        } else if event.has_summary() {
            if step >= *end {
                continue;
            }
            has_points = true;
            for value in event.get_summary().get_value() {
                let last = last_steps.entry(value.get_tag().to_owned()).or_default();
                *last = step.max(*last);
            }
        }
        kept.extend_from_slice(record);
    }
    *end = start;
    if !has_points {
        fs::remove_file(file)
    } else if kept.len() < found.len() {
        atomic::replace(file, |new| new.write_all(&kept))
    } else {
        Ok(())
    }
}

fn is_start(event: &Event) -> bool {
    event.has_session_log()
        && event.get_session_log().get_status() == SessionLog_SessionStatus::START
}
