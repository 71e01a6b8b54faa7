//! Merges the logs of an attempt's ranks: equal lines of several ranks are shown once.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

/// How many lines of a rank are searched for another rank's current line.
const LOOKAHEAD: usize = 100;

/// One rank's log, read as it grows.
#[derive(Debug)]
struct Log {
    rank: usize,
    path: PathBuf,
    offset: u64,
    /// The incomplete last line.
    partial: Vec<u8>,
}

impl Log {
    /// The lines completed since the last call; at the `end`, the incomplete last line as well.
    fn read(&mut self, end: bool) -> io::Result<Vec<String>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        self.offset += file.read_to_end(&mut self.partial)? as u64;
        let complete = match self.partial.iter().rposition(|byte| *byte == b'\n') {
            _ if end => self.partial.len(),
            Some(last) => last + 1,
            None => 0,
        };
        let lines: Vec<u8> = self.partial.drain(..complete).collect();
        Ok(String::from_utf8_lossy(&lines).lines().map(str::to_owned).collect())
    }
}

/// The logs of an attempt, read as they grow.
#[derive(Debug)]
pub(crate) struct Logs {
    folder: PathBuf,
    only: Option<usize>,
    logs: Vec<Log>,
}

impl Logs {
    /// Opens the logs in an attempt's folder, or that of `only` one rank.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub(crate) fn open(folder: PathBuf, only: Option<usize>) -> io::Result<Self> {
        let mut logs = Self { folder, only, logs: Vec::new() };
        logs.find()?;
        Ok(logs)
    }

    /// Whether there are no logs.
    pub(crate) fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }

    /// The new lines, each with the ranks that logged it; incomplete lines only at the `end`.
    ///
    /// # Errors
    /// A log that cannot be read.
    pub(crate) fn read(&mut self, end: bool) -> io::Result<Vec<String>> {
        self.find()?;
        let mut lines = Vec::new();
        for log in &mut self.logs {
            lines.push((log.rank, log.read(end)?));
        }
        Ok(merge(lines))
    }

    /// Adds logs that were created since the last call.
    fn find(&mut self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let rank = name.strip_prefix("rank-").and_then(|name| name.strip_suffix(".log"));
            let Some(rank) = rank.and_then(|rank| rank.parse().ok()) else { continue };
            let is_wanted = self.only.is_none_or(|only| only == rank);
            if is_wanted && self.logs.iter().all(|log| log.rank != rank) {
                self.logs.push(Log { rank, path, offset: 0, partial: Vec::new() });
            }
        }
        self.logs.sort_by_key(|log| log.rank);
        Ok(())
    }
}

/// Merges the lines of several ranks: equal lines are shown once, and each rank's lines stay in order.
fn merge(lines: Vec<(usize, Vec<String>)>) -> Vec<String> {
    let mut ranks: Vec<(usize, VecDeque<String>)> =
        lines.into_iter().map(|(rank, lines)| (rank, lines.into())).collect();
    let mut merged = Vec::new();
    while let Some(line) = next(&ranks) {
        let mut with_line = Vec::new();
        for (rank, lines) in &mut ranks {
            if lines.front() == Some(&line) {
                lines.pop_front();
                with_line.push(*rank);
            }
        }
        merged.push(format!("[{}] {line}", ranges(&with_line)));
    }
    merged
}

/// The line to show next: preferably one that no rank has further down.
fn next(ranks: &[(usize, VecDeque<String>)]) -> Option<String> {
    let mut fronts = ranks.iter().filter_map(|(_, lines)| lines.front());
    let waits = |line: &&String| {
        ranks.iter().any(|(_, lines)| {
            lines.front() != Some(*line) && lines.iter().take(LOOKAHEAD).any(|later| later == *line)
        })
    };
    let found = fronts.clone().find(|line| !waits(line));
    found.or_else(|| fronts.next()).cloned()
}

/// Formats ranks as ranges: `0-3,5`.
fn ranges(ranks: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for rank in ranks {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *rank => *last = *rank,
            _ => ranges.push((*rank, *rank)),
        }
    }
    let format = |(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(format).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lines_are_merged_and_each_rank_stays_in_order() {
        let lines = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let merged = merge(vec![(0, lines("a b x d")), (1, lines("a b d")), (3, lines("a y b d"))]);
        assert_eq!(merged, ["[0-1,3] a", "[3] y", "[0-1,3] b", "[0] x", "[0-1,3] d"]);
        let crossed = merge(vec![(0, lines("a b")), (1, lines("b a"))]);
        assert_eq!(crossed, ["[0] a", "[0-1] b", "[1] a"]);
    }

    #[test]
    fn incomplete_lines_are_shown_only_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rank-0.log");
        std::fs::write(&path, "one\ntw").unwrap();
        std::fs::write(folder.path().join("engine.log"), "no rank\n").unwrap();
        let mut logs = Logs::open(folder.path().into(), None).unwrap();
        assert_eq!(logs.read(false).unwrap(), ["[0] one"]);
        std::fs::write(&path, "one\ntwo\nthr").unwrap();
        assert_eq!(logs.read(false).unwrap(), ["[0] two"]);
        assert_eq!(logs.read(true).unwrap(), ["[0] thr"]);
        assert!(Logs::open(folder.path().into(), Some(1)).unwrap().is_empty());
    }
}
