//! Work in shards that survive kills: a shard's file is either whole and verified, or not there.
//!
//! What is to be done is cut into shards by its content alone, never by who does it. A rank writes
//! each of its shards under another name, syncs it and renames it; its first line tells what it
//! belongs to and the hash of the rest. The coordinator verifies all shards before a group of
//! workers starts, removes the damaged and the foreign ones, and the workers do what is not there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::run::temporary::{self, Scratch};

/// Why shards cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A shard is not what was written.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Shards or items are missing, or there twice.
    #[error("the shards in {} do not make a whole: {reason}", folder.display())]
    Incomplete {
        /// Their folder.
        folder: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// How the work is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Number of shards.
    pub shards: usize,
    /// Number of items in all of them.
    pub items: usize,
}

/// A shard's first line.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    key: String,
    shard: usize,
    cut: Cut,
    sha256: String,
}

/// The item's place among all, from 0.
#[derive(Deserialize)]
struct Item {
    index: usize,
}

/// A folder of shards.
#[derive(Debug, Clone)]
pub struct Shards {
    folder: PathBuf,
    key: String,
}

impl Shards {
    /// The shards in `folder` of the work that `key` hashes.
    pub fn new(folder: PathBuf, key: String) -> Self {
        Self { folder, key }
    }

    /// Their folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, shard: usize) -> PathBuf {
        self.folder.join(format!("shard-{shard:06}.jsonl"))
    }

    /// Whether a shard is there. It was verified before the workers started.
    pub fn has(&self, shard: usize) -> bool {
        self.path(shard).is_file()
    }

    /// Writes a shard: its items as JSON objects with an `index`, one a line. `writer` is unique to
    /// the process that writes.
    ///
    /// # Errors
    /// Where the file system refuses; then the shard is not there.
    pub fn write(&self, shard: usize, cut: Cut, items: &str, writer: &str) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let sha256 = hex::encode(Sha256::digest(items));
        let header = Header { key: self.key.clone(), shard, cut, sha256 };
        let path = self.path(shard);
        let draft = path.with_extension(format!("tmp-{writer}"));
        let mut file = File::create(&draft)?;
        writeln!(file, "{}", serde_json::to_string(&header)?)?;
        file.write_all(items.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        File::open(&self.folder)?.sync_all()
    }

    /// Removes what is not a whole shard of this work; answers how many whole ones there are, and
    /// what was wrong with the others. Drafts of killed workers go without a word.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn clean(&self) -> Result<(usize, Vec<ShardError>), ShardError> {
        let (mut whole, mut damaged) = (0, Vec::new());
        for path in self.files()? {
            let is_draft = path.extension().is_none_or(|extension| extension != "jsonl");
            match self.read(&path) {
                Ok(_) if !is_draft => {
                    whole += 1;
                    continue;
                }
                Err(error) if !is_draft => damaged.push(error),
                _ => {}
            }
            fs::remove_file(&path).map_err(|source| io_error("remove", &path, source))?;
        }
        Ok((whole, damaged))
    }

    /// All items, in their order.
    ///
    /// # Errors
    /// A damaged shard; shards or items that are missing or there twice.
    pub fn merge(&self) -> Result<Vec<String>, ShardError> {
        let incomplete =
            |reason: String| ShardError::Incomplete { folder: self.folder.clone(), reason };
        let (mut items, mut found, mut cut) = (BTreeMap::new(), 0, None);
        for path in self.files()? {
            let (header, text) = self.read(&path)?;
            if *cut.get_or_insert(header.cut) != header.cut {
                return Err(incomplete(format!("{} is cut otherwise", path.display())));
            }
            found += 1;
            for line in text.lines() {
                let Item { index } = serde_json::from_str(line).map_err(|error| {
                    let reason = format!("not an item: {error}");
                    ShardError::Damaged { path: path.clone(), reason }
                })?;
                if items.insert(index, line.to_owned()).is_some() {
                    return Err(incomplete(format!("item {index} is there twice")));
                }
            }
        }
        let Some(cut) = cut else { return Err(incomplete("there are none".into())) };
        let is_whole = found == cut.shards
            && items.len() == cut.items
            && items.keys().copied().eq(0..cut.items);
        if !is_whole {
            let Cut { shards, items: all } = cut;
            let items = items.len();
            let reason = format!("{found} of {shards} shards with {items} of {all} items");
            return Err(incomplete(reason));
        }
        Ok(items.into_values().collect())
    }

    /// Puts all shards into the folder of `other`, too, which is there as a whole or not at all. They
    /// are never written to again, so that they may be links.
    ///
    /// # Errors
    /// Where the file system refuses, or there is something already.
    pub fn link(&self, other: &Self) -> io::Result<()> {
        let beside = other.folder.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(beside)?;
        let draft = Scratch::new_in(beside)?;
        for entry in fs::read_dir(&self.folder)? {
            let (from, to) = (entry?.path(), draft.path());
            let to = to.join(from.file_name().unwrap_or_default());
            fs::hard_link(&from, &to).or_else(|_| temporary::copy(&from, &to))?;
        }
        fs::rename(draft.path(), &other.folder)?;
        File::open(beside)?.sync_all()
    }

    /// The files, sorted by name; none where there is no folder yet.
    fn files(&self) -> Result<Vec<PathBuf>, ShardError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(io_error("read", &self.folder, source)),
        };
        let paths: io::Result<Vec<PathBuf>> =
            entries.map(|entry| entry.map(|entry| entry.path())).collect();
        let mut paths = paths.map_err(|source| io_error("read", &self.folder, source))?;
        paths.sort();
        Ok(paths)
    }

    fn read(&self, path: &Path) -> Result<(Header, String), ShardError> {
        let damaged = |reason: String| ShardError::Damaged { path: path.to_owned(), reason };
        let bytes = fs::read(path).map_err(|source| io_error("read", path, source))?;
        let text = String::from_utf8(bytes).map_err(|error| damaged(error.to_string()))?;
        let (first, rest) =
            text.split_once('\n').ok_or_else(|| damaged("it has no first line".into()))?;
        let header: Header =
            serde_json::from_str(first).map_err(|error| damaged(error.to_string()))?;
        if header.key != self.key {
            return Err(damaged("it belongs to other work".into()));
        }
        if self.path(header.shard) != path {
            return Err(damaged(format!("it holds shard {}", header.shard)));
        }
        if header.sha256 != hex::encode(Sha256::digest(rest)) {
            return Err(damaged("its hash does not fit its content".into()));
        }
        let rest = rest.to_owned();
        Ok((header, rest))
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> ShardError {
    ShardError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use tempfile::TempDir;

    const CUT: Cut = Cut { shards: 2, items: 3 };

    fn shards(folder: &TempDir) -> Shards {
        Shards::new(folder.path().join("shards"), "key".into())
    }

    fn written(folder: &TempDir) -> Shards {
        let shards = shards(folder);
        shards.write(1, CUT, "{\"index\":1}\n", "1-0").unwrap();
        shards.write(0, CUT, "{\"index\":2}\n{\"index\":0}\n", "1-1").unwrap();
        shards
    }

    #[test]
    fn items_come_in_their_order() {
        let folder = TempDir::new().unwrap();
        let shards = written(&folder);
        assert!(shards.has(0) && shards.has(1) && !shards.has(2));
        let items = ["{\"index\":0}", "{\"index\":1}", "{\"index\":2}"];
        assert_eq!(shards.merge().unwrap(), items);
        assert_eq!(shards.clean().unwrap().0, 2);
        assert_eq!(shards.merge().unwrap(), items);
    }

    #[test]
    fn every_damage_is_found_and_removed() {
        let folder = TempDir::new().unwrap();
        let shards = written(&folder);
        let path = shards.path(0);
        let good = fs::read(&path).unwrap();
        // In the hash, in the content, in the key, at the end, everywhere.
        for place in [10, 60, good.len() - 3] {
            let mut bytes = good.clone();
            bytes[place] ^= 1;
            fs::write(&path, bytes).unwrap();
            assert!(shards.merge().is_err(), "byte {place} does not count");
        }
        fs::write(&path, &good[..good.len() - 1]).unwrap();
        let (whole, damaged) = shards.clean().unwrap();
        assert_eq!((whole, damaged.len()), (1, 1));
        assert!(damaged[0].to_string().ends_with("its hash does not fit its content"));
        assert!(!shards.has(0));
        let error = shards.merge().unwrap_err().to_string();
        assert!(error.ends_with("1 of 2 shards with 1 of 3 items"), "{error}");
    }

    #[test]
    fn drafts_and_foreign_shards_go() {
        let folder = TempDir::new().unwrap();
        let mine = written(&folder);
        fs::write(mine.path(1).with_extension("tmp-2-0"), "half").unwrap();
        let other = Shards::new(mine.folder.clone(), "other".into());
        other.write(1, CUT, "{\"index\":1}\n", "1-0").unwrap();
        let (whole, damaged) = mine.clean().unwrap();
        assert_eq!(whole, 1);
        assert!(damaged[0].to_string().contains("shard-000001"), "{}", damaged[0]);
        assert!(damaged[0].to_string().ends_with("it belongs to other work"), "{}", damaged[0]);
        assert_eq!(mine.files().unwrap(), [mine.path(0)]);
    }

    #[test]
    fn linked_shards_outlive_the_first_ones() {
        let folder = TempDir::new().unwrap();
        let first = written(&folder);
        let items = first.merge().unwrap();
        let other = Shards::new(folder.path().join("cache/kept"), "key".into());
        first.link(&other).unwrap();
        assert!(first.link(&other).is_err(), "there already");
        assert_eq!(
            fs::read_dir(folder.path().join("cache")).unwrap().count(),
            1,
            "a draft is left"
        );
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&other.folder), mode(&first.folder), "others may read it as well");
        fs::remove_dir_all(&first.folder).unwrap();
        assert_eq!(other.merge().unwrap(), items);
    }

    #[test]
    fn nothing_is_no_whole() {
        let folder = TempDir::new().unwrap();
        assert_eq!(shards(&folder).clean().unwrap().0, 0);
        let error = shards(&folder).merge().unwrap_err().to_string();
        assert!(error.ends_with("there are none"), "{error}");
    }
}
