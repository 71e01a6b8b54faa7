//! The logs of an attempt's ranks as one text: whole lines, and equal ones of several ranks folded.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

/// How many lines are looked ahead for one that another rank says now.
const AHEAD: usize = 100;

/// One log, read as it grows.
#[derive(Debug)]
struct Log {
    rank: usize,
    path: PathBuf,
    offset: u64,
    /// Behind the last end of a line.
    half: Vec<u8>,
}

impl Log {
    /// The lines that have been completed since the last call; all that is left at the `end`.
    fn read(&mut self, end: bool) -> io::Result<Vec<String>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        self.offset += file.read_to_end(&mut self.half)? as u64;
        let complete = match self.half.iter().rposition(|byte| *byte == b'\n') {
            _ if end => self.half.len(),
            Some(last) => last + 1,
            None => 0,
        };
        let lines: Vec<u8> = self.half.drain(..complete).collect();
        Ok(String::from_utf8_lossy(&lines).lines().map(str::to_owned).collect())
    }
}

/// The logs of an attempt, read as they grow.
#[derive(Debug)]
pub struct Logs {
    folder: PathBuf,
    only: Option<usize>,
    logs: Vec<Log>,
}

impl Logs {
    /// The logs in an attempt's folder; of one rank only if it is given.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn open(folder: PathBuf, only: Option<usize>) -> io::Result<Self> {
        let mut logs = Self { folder, only, logs: Vec::new() };
        logs.find()?;
        Ok(logs)
    }

    /// Whether there is no log.
    pub fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }

    /// The new lines, with the ranks that said each; half lines only at the `end`.
    ///
    /// # Errors
    /// A log that cannot be read.
    pub fn read(&mut self, end: bool) -> io::Result<Vec<String>> {
        self.find()?;
        let mut said = Vec::new();
        for log in &mut self.logs {
            said.push((log.rank, log.read(end)?));
        }
        Ok(fold(said))
    }

    /// Takes in the logs that have begun.
    fn find(&mut self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let rank = name.strip_prefix("rank-").and_then(|name| name.strip_suffix(".log"));
            let Some(rank) = rank.and_then(|rank| rank.parse().ok()) else { continue };
            let is_wanted = self.only.is_none_or(|only| only == rank);
            if is_wanted && self.logs.iter().all(|log| log.rank != rank) {
                self.logs.push(Log { rank, path, offset: 0, half: Vec::new() });
            }
        }
        self.logs.sort_by_key(|log| log.rank);
        Ok(())
    }
}

/// Puts lines beside each other: what several ranks say is shown once, where the first of them has
/// said it; each rank's lines stay in their order.
fn fold(said: Vec<(usize, Vec<String>)>) -> Vec<String> {
    let mut ranks: Vec<(usize, VecDeque<String>)> =
        said.into_iter().map(|(rank, lines)| (rank, lines.into())).collect();
    let mut folded = Vec::new();
    while let Some(line) = next(&ranks) {
        let mut sayers = Vec::new();
        for (rank, lines) in &mut ranks {
            if lines.front() == Some(&line) {
                lines.pop_front();
                sayers.push(*rank);
            }
        }
        folded.push(format!("[{}] {line}", ranges(&sayers)));
    }
    folded
}

/// The line to show next: one that no rank is still to say after something else, if there is one.
fn next(ranks: &[(usize, VecDeque<String>)]) -> Option<String> {
    let mut fronts = ranks.iter().filter_map(|(_, lines)| lines.front());
    let waits = |line: &&String| {
        ranks.iter().any(|(_, lines)| {
            lines.front() != Some(*line) && lines.iter().take(AHEAD).any(|later| later == *line)
        })
    };
    let found = fronts.clone().find(|line| !waits(line));
    found.or_else(|| fronts.next()).cloned()
}

/// Ranks in few words: `0-3,5`.
fn ranges(ranks: &[usize]) -> String {
    let mut words: Vec<(usize, usize)> = Vec::new();
    for rank in ranks {
        match words.last_mut() {
            Some((_, last)) if *last + 1 == *rank => *last = *rank,
            _ => words.push((*rank, *rank)),
        }
    }
    let word = |(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    words.iter().map(word).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lines_are_folded_and_each_rank_stays_in_order() {
        let lines = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let said = vec![(0, lines("a b x d")), (1, lines("a b d")), (3, lines("a y b d"))];
        let folded = fold(said);
        assert_eq!(folded, ["[0-1,3] a", "[3] y", "[0-1,3] b", "[0] x", "[0-1,3] d"]);
        let crossed = fold(vec![(0, lines("a b")), (1, lines("b a"))]);
        assert_eq!(crossed, ["[0] a", "[0-1] b", "[1] a"]);
    }

    #[test]
    fn only_whole_lines_are_shown_until_the_end() {
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
