//! A program whose lines are told while it runs.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use tandem_cluster::process::{kill_group, lead_group_until_parent_dies, wait_within};

/// How long the kernel may take to end a killed process: one that waits for a GPU may never end.
const KILL_DEADLINE: Duration = Duration::from_secs(2);

/// How a program ended.
pub(super) enum Ended {
    /// By itself.
    InTime {
        /// How.
        status: ExitStatus,
        /// What it wrote to standard output.
        printed: String,
    },
    /// It was killed.
    Late,
}

/// Runs a program that reads nothing; `tell` gets each line of its standard error.
///
/// # Errors
/// It cannot be started, or the system does not say how it ended.
pub(super) fn run(
    command: &mut Command,
    longest: Duration,
    tell: &mut dyn FnMut(&str),
) -> io::Result<Ended> {
    let deadline = Instant::now() + longest;
    let left = || deadline.saturating_duration_since(Instant::now());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    lead_group_until_parent_dies(command);
    let mut child = command.spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ((to_lines, lines), (to_printed, printed)) = (channel(), channel());
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is still what it said.
        let _ = stdout.map(|mut pipe| pipe.read_to_end(&mut bytes));
        to_printed.send(String::from_utf8_lossy(&bytes).into_owned())
    });
    thread::spawn(move || {
        let lines = stderr.into_iter().flat_map(|pipe| BufReader::new(pipe).split(b'\n'));
        for line in lines.map_while(Result::ok) {
            let _ = to_lines.send(String::from_utf8_lossy(&line).into_owned());
        }
    });
    let in_time = loop {
        match lines.recv_timeout(left()) {
            Ok(line) => tell(&line),
            Err(RecvTimeoutError::Disconnected) => break true,
            Err(RecvTimeoutError::Timeout) => break false,
        }
    };
    if in_time
        && let Ok(printed) = printed.recv_timeout(left())
        && let Some(status) = wait_within(&mut child, left())?
    {
        return Ok(Ended::InTime { status, printed });
    }
    kill_group(child.id());
    wait_within(&mut child, KILL_DEADLINE)?;
    Ok(Ended::Late)
}
