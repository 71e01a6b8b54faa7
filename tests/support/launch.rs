//! A program that is running.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::Ended;
use crate::live::{send, within};

/// Longer than a run takes with all its workers on one host of a busy machine.
pub const WHOLE_RUN: Duration = Duration::from_secs(600);

/// How many events a test that fails tells.
const LAST_EVENTS: usize = 10;

/// A launcher that is running, or another program that works on a run. A test that fails meanwhile tells
/// what it has said and what happened to the run; in any case it is killed with this value.
pub struct Launch {
    child: Child,
    stdout: Reader,
    stderr: Reader,
    run: PathBuf,
}

impl Launch {
    /// Starts it.
    pub(crate) fn spawn(mut command: Command, run: &Path) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = Reader::start(child.stdout.take().expect("a pipe"));
        let stderr = Reader::start(child.stderr.take().expect("a pipe"));
        Self { child, stdout, stderr, run: run.to_owned() }
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it has ended.
    pub fn signal(&self, signal: &str) {
        send(self.pid(), signal);
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Waits for its end, which must have this code.
    ///
    /// # Panics
    /// If it ends otherwise, or not within [`WHOLE_RUN`].
    pub fn wait(self, code: i32) -> Ended {
        self.wait_for_one_of(&[code])
    }

    /// Waits for its end, which must have one of these codes.
    ///
    /// # Panics
    /// As [`Self::wait`].
    pub fn wait_for_one_of(mut self, codes: &[i32]) -> Ended {
        let ended = self.end();
        let expected = ended.code.is_some_and(|code| codes.contains(&code));
        assert!(expected, "it ended with {:?}, not with {codes:?}", ended.code);
        ended
    }

    /// Kills it.
    ///
    /// # Panics
    /// If it has ended.
    pub fn kill(mut self) -> Ended {
        self.signal("KILL");
        self.end()
    }

    fn end(&mut self) -> Ended {
        within(WHOLE_RUN, "it ends, with all that write where it does", || {
            self.has_ended() && self.stdout.is_done() && self.stderr.is_done()
        });
        let code = self.child.wait().expect("an end").code();
        Ended { code, stdout: self.stdout.text(), stderr: self.stderr.text() }
    }
}

impl Launch {
    /// What it has said so far, and what happened to the run last.
    fn story(&self) -> String {
        let events = std::fs::read_to_string(self.run.join("events.jsonl")).unwrap_or_default();
        let lines: Vec<&str> = events.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_EVENTS)..].join("\n");
        let (run, stdout, stderr) = (self.run.display(), self.stdout.text(), self.stderr.text());
        format!("{stdout}{stderr}the last events of {run}:\n{last}")
    }
}

impl Drop for Launch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.story());
        }
        // In vain if it has ended.
        let _ = self.child.kill();
    }
}

/// Reads a pipe as it is written to: whoever writes never finds it full.
struct Reader {
    text: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Reader {
    fn start(mut pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&text);
        let thread = std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut chunk) {
                let mut text = shared.lock().unwrap_or_else(PoisonError::into_inner);
                text.extend_from_slice(&chunk[..count]);
            }
        });
        Self { text, thread }
    }

    /// Whether all that could write have ended.
    fn is_done(&self) -> bool {
        self.thread.is_finished()
    }

    fn text(&self) -> String {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::eventually;

    fn shell(script: &str, run: &Path) -> Launch {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Launch::spawn(command, run)
    }

    #[test]
    fn a_program_that_says_more_than_a_pipe_holds_ends() {
        let megabyte = "head -c 1000000 /dev/zero";
        let script = format!("{megabyte}; {megabyte} >&2; exit 3");
        let mut launch = shell(&script, Path::new("nowhere"));
        eventually("it ends", || launch.has_ended());
        let ended = launch.wait(3);
        assert_eq!((ended.stdout.len(), ended.stderr.len()), (1_000_000, 1_000_000));
    }

    #[test]
    fn what_a_failing_test_tells_is_what_was_said_so_far_and_the_last_events() {
        let run = tempfile::tempdir().expect("a temporary folder");
        let events: String = (1..=12).map(|event| format!("event {event}\n")).collect();
        std::fs::write(run.path().join("events.jsonl"), events).expect("events");
        let launch = shell("echo working >&2; sleep 60", run.path());
        eventually("it says so", || launch.stderr() == "working\n");
        let story = launch.story();
        assert!(story.starts_with("working\n") && story.ends_with("event 11\nevent 12"), "{story}");
        assert!(story.contains(":\nevent 3\n"), "{story}");
    }
}
