//! TensorBoard logs of a run. There is one point for each tag and step, even after kills and restarts.
//!
//! The protobuf types and the record encoding are from the crate `tensorboard-rs`. Files are written
//! here, because that crate's writer ends the process when the disk is full.
//!
//! - When a run resumes from a checkpoint, later points are removed from the earlier files (past.rs). The
//!   new file begins with a SessionLog START, so that TensorBoard drops them even if that failed.
//! - Points that cannot be written are kept in memory and tried again with the next one. The file always
//!   ends with a complete record before anything is appended.

mod events;
mod past;
mod records;
mod tags;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use tensorboard_proto::event::Event;

/// The most bytes kept in memory while nothing can be written; further points are lost.
const MAX_PENDING_BYTES: usize = 4 << 20;

/// Writes the event file of one attempt of a run. No method fails or panics: see [`Writer::warning`].
pub struct Writer {
    path: PathBuf,
    /// `None` until the file could be created.
    file: Option<File>,
    /// Length of the complete records in the file.
    written_bytes: u64,
    /// Whether the file may hold part of a record after `written_bytes`.
    is_torn: bool,
    /// Encoded records that are not in the file yet.
    pending: Vec<u8>,
    /// Step of the newest point of each tag.
    last_steps: HashMap<String, u64>,
    /// The step that this attempt resumes from, or 0.
    start_step: u64,
    warning: Option<String>,
    is_failing: bool,
}

impl Writer {
    /// Creates the log of an attempt in `folder`.
    ///
    /// `resume_step` is the step of the checkpoint that the attempt resumes from: points of later steps
    /// are removed from the earlier files. `None` starts the run over and removes all points.
    pub fn open(folder: &Path, resume_step: Option<u64>) -> Self {
        let created = fs::create_dir_all(folder);
        let past = past::cut(folder, resume_step);
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        // TensorBoard reads files in the order of their names, so a new one must sort last.
        let seconds = past.newest_time.map_or(seconds, |newest| seconds.max(newest + 1));
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.trim().is_empty() { "localhost" } else { host.trim() };
        let name = format!("{}{seconds:010}.{host}.{}.0", past::PREFIX, std::process::id());

        let mut writer = Self {
            path: folder.join(name),
            file: None,
            written_bytes: 0,
            is_torn: false,
            pending: Vec::new(),
            last_steps: past.last_steps,
            start_step: resume_step.unwrap_or(0),
            warning: None,
            is_failing: false,
        };
        writer.note(created.and(past.error.map_or(Ok(()), Err)));
        writer.append(&events::file_version());
        writer.append(&events::session_start(resume_step.map_or(0, |step| step + 1)));
        writer
    }

    /// Adds a point, unless the tag already has one at this step or later.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64) {
        if self.advances(tag, step) {
            self.append(&events::scalar(tag, step, value));
        }
    }

    /// Adds a text in Markdown, unless the tag already has one at this step or later.
    pub fn text(&mut self, tag: &str, step: u64, text: &str) {
        if self.advances(tag, step) {
            self.append(&events::text(tag, step, text));
        }
    }

    /// Adds the run's resolved config, as the text `config` and as hyperparameters.
    pub fn config(&mut self, yaml: &str) {
        self.text("config", self.start_step, &format!("```yaml\n{}\n```", yaml.trim_end()));
        if self.advances(events::HPARAMS_TAG, 0) {
            self.append(&events::hparams(yaml));
        }
    }

    /// Writes all points to disk.
    pub fn flush(&mut self) {
        let written = self.write_pending();
        let synced = written.and_then(|()| self.file.as_ref().map_or(Ok(()), File::sync_data));
        self.note(synced);
    }

    /// Why writing failed; once for each series of failures.
    pub fn warning(&mut self) -> Option<String> {
        self.warning.take()
    }

    /// Whether a point of `tag` at `step` is later than all others; if so, records it as the newest.
    fn advances(&mut self, tag: &str, step: u64) -> bool {
        if self.last_steps.get(tag).is_some_and(|last| step <= *last) {
            return false;
        }
        self.last_steps.insert(tag.to_owned(), step);
        true
    }

    fn append(&mut self, event: &Event) {
        let record = records::encode(event);
        if self.pending.len() + record.len() <= MAX_PENDING_BYTES {
            self.pending.extend(record);
        }
        let written = self.write_pending();
        self.note(written);
    }

    fn write_pending(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                // Creating the folder may have failed before, on a full disk.
                fs::create_dir_all(self.path.parent().unwrap_or(Path::new(".")))?;
                self.file.insert(File::create_new(&self.path)?)
            }
        };
        if self.is_torn {
            file.set_len(self.written_bytes)?;
            file.seek(SeekFrom::Start(self.written_bytes))?;
        }
        self.is_torn = true;
        file.write_all(&self.pending)?;
        self.is_torn = false;
        self.written_bytes += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// Records the first failure of a series as a warning.
    fn note(&mut self, result: io::Result<()>) {
        if let Err(error) = &result
            && !self.is_failing
        {
            self.warning = Some(format!(
                "cannot write the TensorBoard log {}: {error}; training continues, and logging resumes \
                 as soon as the file can be written",
                self.path.display()
            ));
        }
        self.is_failing = result.is_err();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use records::Records;
    use std::process::Command;
    use tandem_tests::trace::{self, Strike};

    /// (tag, step) of all points in the files of `folder`, sorted.
    fn points(folder: &Path) -> Vec<(String, i64)> {
        let mut points = Vec::new();
        for file in fs::read_dir(folder).unwrap() {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            let events: Vec<_> = Records::of(&bytes).collect();
            assert_eq!(events.iter().map(|(record, _)| record.len()).sum::<usize>(), bytes.len());
            for (_, event) in events {
                for value in event.get_summary().get_value() {
                    points.push((value.get_tag().to_owned(), event.get_step()));
                }
            }
        }
        points.sort();
        points
    }

    fn losses(steps: impl Iterator<Item = i64>) -> Vec<(String, i64)> {
        steps.map(|step| ("loss".to_owned(), step)).collect()
    }

    fn write_losses(writer: &mut Writer, steps: impl Iterator<Item = u64>) {
        steps.for_each(|step| writer.scalar("loss", step, 1.0));
    }

    fn only_file(folder: &Path) -> PathBuf {
        let mut files = fs::read_dir(folder).unwrap();
        let file = files.next().unwrap().unwrap().path();
        assert!(files.next().is_none());
        file
    }

    #[test]
    fn the_first_events_are_version_and_start() {
        let folder = tempfile::tempdir().unwrap();
        drop(Writer::open(folder.path(), Some(20)));
        let bytes = fs::read(only_file(folder.path())).unwrap();
        let events: Vec<Event> = Records::of(&bytes).map(|(_, event)| event).collect();
        assert_eq!(events[0].get_file_version(), "brain.Event:2");
        assert!(events[1].has_session_log());
        assert_eq!(events[1].get_step(), 21);
    }

    #[test]
    fn a_resumed_run_has_each_step_once() {
        let folder = tempfile::tempdir().unwrap();
        write_losses(&mut Writer::open(folder.path(), None), 1..=37);
        write_losses(&mut Writer::open(folder.path(), Some(20)), 21..=29);
        write_losses(&mut Writer::open(folder.path(), Some(25)), 20..=40);
        assert_eq!(points(folder.path()), losses(1..=40));
    }

    #[test]
    fn a_run_that_starts_over_drops_everything() {
        let folder = tempfile::tempdir().unwrap();
        write_losses(&mut Writer::open(folder.path(), None), 0..=9);
        write_losses(&mut Writer::open(folder.path(), None), 0..=3);
        assert_eq!(points(folder.path()), losses(0..=3));
    }

    #[test]
    fn a_torn_record_hides_no_later_points() {
        let folder = tempfile::tempdir().unwrap();
        write_losses(&mut Writer::open(folder.path(), None), 1..=9);
        let file = only_file(folder.path());
        let length = fs::metadata(&file).unwrap().len();
        File::options().write(true).open(&file).unwrap().set_len(length - 3).unwrap();
        write_losses(&mut Writer::open(folder.path(), Some(9)), 9..=12);
        assert_eq!(points(folder.path()), losses(1..=12));
    }

    #[test]
    fn a_new_file_sorts_last_whatever_the_clock_says() {
        let folder = tempfile::tempdir().unwrap();
        write_losses(&mut Writer::open(folder.path(), None), 1..=2);
        let ahead = folder.path().join(format!("{}9000000000.host.1.0", past::PREFIX));
        fs::rename(only_file(folder.path()), &ahead).unwrap();
        let writer = Writer::open(folder.path(), Some(2));
        assert!(writer.path > ahead, "{}", writer.path.display());
    }

    #[test]
    fn a_folder_that_cannot_be_created_is_reported_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = Writer::open(&file.path().join("tensorboard"), None);
        write_losses(&mut writer, 1..=9);
        writer.flush();
        assert!(writer.warning().unwrap().contains("training continues"));
        write_losses(&mut writer, 10..=19);
        assert_eq!(writer.warning(), None);
    }

    #[test]
    fn memory_is_bounded_while_nothing_can_be_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = Writer::open(&file.path().join("tensorboard"), None);
        let text = "x".repeat(MAX_PENDING_BYTES / 8);
        (1..=20).for_each(|step| writer.text("samples", step, &text));
        assert!(writer.pending.len() <= MAX_PENDING_BYTES);
    }

    /// At whichever operation the disk becomes full, no point is lost once it has space again.
    #[test]
    fn a_disk_full_for_a_while_at_any_operation_loses_no_point() {
        let write = |folder: &Path| {
            write_losses(&mut Writer::open(&folder.join("log"), None), 1..=12);
            true
        };
        let folder = tempfile::tempdir().unwrap();
        let full = Strike::Full(5);
        let whole = trace::run(usize::MAX, full, || write(folder.path()));
        assert!(whole.operations > 12, "{whole:?}");
        // The last attempt to write must succeed.
        for at in 0..whole.operations - 5 {
            let folder = tempfile::tempdir().unwrap();
            let struck = trace::run(at, full, || write(folder.path()));
            assert_eq!(struck.code, Some(0));
            assert_eq!(points(&folder.path().join("log")), losses(1..=12), "operation {at}");
        }
    }

    /// A limit on the file size stands in for a full disk, and is lifted later. Runs in a process of its
    /// own, since the limit applies to all threads.
    #[test]
    fn a_full_disk_tears_nothing_and_loses_nothing() {
        let this_test = "tensorboard::tests::a_full_disk_tears_nothing_and_loses_nothing";
        if std::env::var_os("TANDEM_TEST_LIMITED").is_none() {
            let child = Command::new("sh")
                .args(["-c", "trap '' XFSZ; exec \"$0\" --exact \"$1\" --nocapture"])
                .arg(std::env::current_exe().unwrap())
                .arg(this_test)
                .env("TANDEM_TEST_LIMITED", "1")
                .output()
                .unwrap();
            let (out, err) = (child.stdout, child.stderr);
            let (out, err) = (String::from_utf8_lossy(&out), String::from_utf8_lossy(&err));
            assert!(child.status.success() && out.contains("1 passed"), "{out}{err}");
            return;
        }
        let limit = |bytes: &str| {
            let pid = std::process::id().to_string();
            let limit = format!("--fsize={bytes}:unlimited");
            let status = Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap();
            assert!(status.success());
        };
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(folder.path(), None);
        write_losses(&mut writer, 1..=10);
        assert_eq!(writer.warning(), None);

        limit(&(writer.written_bytes + 100).to_string());
        write_losses(&mut writer, 11..=30);
        writer.flush();
        let length = fs::metadata(&writer.path).unwrap().len();
        limit("unlimited");
        assert!(length > writer.written_bytes, "nothing was torn, so nothing is proven");
        assert!(writer.warning().unwrap().contains("training continues"));
        assert_eq!(writer.warning(), None);

        write_losses(&mut writer, 31..=40);
        drop(writer);
        assert_eq!(points(folder.path()), losses(1..=40));
    }
}
