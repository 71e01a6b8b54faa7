//! Why a group of workers failed, and the report about it.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Lines of a rank's log in the report.
const TAIL_LINES: usize = 5;
/// Lines of the message in the report.
const MESSAGE_LINES: usize = 3;
/// Characters of a line in the report.
const LINE_LENGTH: usize = 200;

/// The way in which a group failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FailureKind {
    /// A rank said why it cannot continue, or left with a code of its own.
    Error,
    /// A rank's process exited without reporting an error.
    Death,
    /// A rank made no progress.
    Hang,
    /// The engine exited before the workers.
    Engine,
}

/// Why a group of workers failed: the first fault. Later ones are its consequences.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// The way in which it failed.
    pub kind: FailureKind,
    pub attempt: u64,
    /// The first failing rank.
    pub rank: Option<usize>,
    /// The host of that rank.
    pub host: Option<String>,
    /// The phase that it was in.
    pub phase: Option<String>,
    /// The step that it was at.
    pub step: u64,
    /// The cause.
    pub message: String,
    /// The exit code that it announced.
    pub exit_code: Option<i32>,
    /// The ranks that failed afterwards.
    pub consequences: Vec<usize>,
    pub log: PathBuf,
}

impl Failure {
    /// By what a failure that comes back is recognised; none for faults from outside, which may strike
    /// anywhere, such as a disk that is full for a while. It is the first line, since a backtrace may
    /// follow, without numbers, since addresses and times differ.
    pub(crate) fn fingerprint(&self) -> Option<(String, u64)> {
        let writes = matches!(self.phase.as_deref(), Some("save" | "finish"));
        (self.kind == FailureKind::Error && !writes).then(|| {
            let first = self.message.lines().next().unwrap_or_default();
            let words = first.chars().filter(|c| !c.is_ascii_digit());
            (words.collect(), self.step)
        })
    }

    /// One line: who, where, when.
    pub(crate) fn headline(&self) -> String {
        let mut line = match (self.rank, &self.host) {
            (Some(rank), Some(host)) => format!("rank {rank} on {host}"),
            (Some(rank), None) => format!("rank {rank}"),
            (None, _) => "the workers".to_owned(),
        };
        line += match self.kind {
            FailureKind::Error | FailureKind::Engine => " failed",
            FailureKind::Death => " died",
            FailureKind::Hang => " hung",
        };
        if let Some(phase) = &self.phase {
            let _ = write!(line, " in phase {phase} at step {}", self.step);
        }
        let _ = write!(line, " (attempt {})", self.attempt);
        line
    }

    /// The report of at most 15 lines, of which the first names the rank and the cause; `next` says
    /// what happens now.
    pub(crate) fn report(&self, next: &str) -> String {
        let message: Vec<&str> = self.message.lines().take(MESSAGE_LINES).collect();
        let cause = shortened(message.first().unwrap_or(&"it did not say why"));
        let mut text = format!("error: {}: {cause}\n", self.headline());
        for line in message.iter().skip(1) {
            let _ = writeln!(text, "  {}", shortened(line));
        }
        // A worker writes its error message into its log, too.
        let told = message.join("\n");
        let is_new = |line: &String| !told.contains(line.trim().trim_start_matches("error: "));
        let tail: Vec<String> =
            tail(&self.log, TAIL_LINES + MESSAGE_LINES).into_iter().filter(is_new).collect();
        if !tail.is_empty() {
            text += "last lines of its log:\n";
            for line in &tail[tail.len().saturating_sub(TAIL_LINES)..] {
                let _ = writeln!(text, "  | {}", shortened(line));
            }
        }
        let _ = writeln!(text, "log: {}", self.log.display());
        if !self.consequences.is_empty() {
            let ranks = ranges(&self.consequences);
            let _ = writeln!(text, "failed as a consequence: rank {ranks}");
        }
        text + "next: " + next
    }
}

/// Ascending numbers, from the third in a row on as a range: `0, 2, 4-9`.
fn ranges(numbers: &[usize]) -> String {
    let rows = numbers.chunk_by(|one, next| one + 1 == *next);
    let words = rows.map(|row| match row {
        [first, _, .., last] => format!("{first}-{last}"),
        few => few.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// The last non-empty lines of a log.
pub(crate) fn tail(log: &Path, count: usize) -> Vec<String> {
    let Ok(bytes) = std::fs::read(log) else { return Vec::new() };
    let recent = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(1 << 16)..]);
    let mut lines: Vec<String> = recent
        .lines()
        .rev()
        .map(|line| line.trim_end().to_owned())
        .filter(|line| !line.is_empty())
        .take(count)
        .collect();
    lines.reverse();
    lines
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(LINE_LENGTH) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Failure {
        Failure {
            kind: FailureKind::Error,
            attempt: 2,
            rank: Some(1),
            host: Some("n1".into()),
            phase: Some("train".into()),
            step: 120,
            message: "loss is NaN in batch 7\nsecond\nthird\nfourth".into(),
            exit_code: Some(1),
            consequences: vec![0, 2],
            log: PathBuf::from("/nowhere/rank-1.log"),
        }
    }

    #[test]
    fn ranks_in_a_row_are_a_range() {
        assert_eq!(ranges(&[0, 1, 3, 5, 6, 7, 9]), "0, 1, 3, 5-7, 9");
    }

    #[test]
    fn the_first_line_names_the_rank_and_the_report_fits() {
        let folder = tempfile::TempDir::new().unwrap();
        let log = folder.path().join("rank-1.log");
        let lines: Vec<String> =
            (0..100).map(|i| format!("line {i} {}", "x".repeat(500))).collect();
        std::fs::write(&log, lines.join("\n")).unwrap();
        let report = Failure { log, ..failure() }.report("restarting from step 100");
        let lines: Vec<&str> = report.lines().collect();
        assert_eq!(
            lines[0],
            "error: rank 1 on n1 failed in phase train at step 120 (attempt 2): loss is NaN in \
             batch 7"
        );
        assert_eq!(lines[1], "  second");
        assert!(lines.iter().any(|line| line.starts_with("  | line 99 x")), "{report}");
        assert!(report.contains("failed as a consequence: rank 0, 2"), "{report}");
        assert_eq!(*lines.last().unwrap(), "next: restarting from step 100");
        assert!(lines.len() <= 15, "{} lines", lines.len());
        assert!(lines.iter().all(|line| line.len() < 300));
    }

    #[test]
    fn what_the_log_says_again_is_told_once() {
        let folder = tempfile::TempDir::new().unwrap();
        let log = folder.path().join("rank-1.log");
        std::fs::write(&log, "380 lines\nerror: loss is NaN in batch 7\nsecond\nthird\nfourth\n")
            .unwrap();
        let report = Failure { log: log.clone(), ..failure() }.report("nothing");
        let told = "in batch 7\n  second\n  third\nlast lines of its log:\n  | 380 lines\n  | fourth\nlog: ";
        assert!(report.contains(told), "{report}");
        std::fs::write(&log, "error: loss is NaN in batch 7\n").unwrap();
        let report = Failure { log, ..failure() }.report("nothing");
        assert!(!report.contains("last lines"), "{report}");
    }

    #[test]
    fn only_errors_come_back() {
        let first = failure();
        let again =
            Failure { message: "loss is NaN in batch 9\nanother trace".into(), ..failure() };
        assert_eq!(first.fingerprint(), again.fingerprint());
        assert_ne!(first.fingerprint(), Failure { step: 121, ..failure() }.fingerprint());
        assert_ne!(
            first.fingerprint(),
            Failure { message: "another".into(), ..failure() }.fingerprint()
        );
        assert_eq!(Failure { kind: FailureKind::Death, ..failure() }.fingerprint(), None);
        assert_eq!(Failure { phase: Some("save".into()), ..failure() }.fingerprint(), None);
    }
}
