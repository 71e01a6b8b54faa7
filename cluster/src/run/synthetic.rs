//! Training data that a teacher made, in a folder of the student's run: the pairs, and a record
//! that is written last and guards them.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tandem_config::schema::data::Text;

use crate::run::atomic;
use crate::run::store::hash_file;

const PAIRS: &str = "train.jsonl";
const RECORD: &str = "made.json";

/// One pair of the training data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// What is read.
    pub source: String,
    /// What is to be written.
    pub target: String,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The hash of all that decides what the pairs are.
    pub key: String,
    /// SHA-256 of the text that it was made of; empty where an older version wrote this.
    #[serde(default)]
    pub text: String,
    /// SHA-256 of the pairs' file, in hexadecimal digits.
    pub sha256: String,
    /// The run whose model was the teacher.
    pub teacher: PathBuf,
    /// SHA-256 of the teacher's trained weights.
    pub weights: String,
}

/// The pairs in a folder, as training data.
pub fn text(folder: &Path) -> Text {
    Text::Jsonl { path: folder.join(PAIRS), source: "source".into(), target: "target".into() }
}

/// The record of what is in a folder; none where nothing was finished, or it has changed since.
pub fn verified(folder: &Path) -> Option<Record> {
    let record: Record = serde_json::from_slice(&fs::read(folder.join(RECORD)).ok()?).ok()?;
    let (_, sha256) = hash_file(&folder.join(PAIRS)).ok()?;
    (sha256 == record.sha256).then_some(record)
}

/// Writes pairs, then their record, whose `sha256` is set.
///
/// # Errors
/// Where the file system refuses; then there is no record.
pub fn write(
    folder: &Path,
    pairs: impl Iterator<Item = Pair>,
    record: Record,
) -> io::Result<Record> {
    fs::create_dir_all(folder)?;
    let path = folder.join(PAIRS);
    atomic::replace(&path, |file| {
        for pair in pairs {
            writeln!(file, "{}", serde_json::to_string(&pair)?)?;
        }
        Ok(())
    })?;
    let record = Record { sha256: hash_file(&path)?.1, ..record };
    let text = serde_json::to_string_pretty(&record)?;
    atomic::replace(&folder.join(RECORD), |file| writeln!(file, "{text}"))?;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_guarded() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(verified(folder.path()), None);
        let pairs = [("a", "b\n\t"), ("\u{85}", "")];
        let pairs =
            pairs.map(|(source, target)| Pair { source: source.into(), target: target.into() });
        let record = Record {
            key: "key".into(),
            text: String::new(),
            sha256: String::new(),
            teacher: "runs/teacher".into(),
            weights: "ab".into(),
        };
        let record = write(folder.path(), pairs.into_iter(), record).unwrap();
        assert_eq!(verified(folder.path()), Some(record));
        let path = folder.path().join(PAIRS);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        fs::write(&path, text.replace('a', "b")).unwrap();
        assert_eq!(verified(folder.path()), None);
    }
}
