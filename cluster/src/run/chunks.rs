//! Work in chunks that survive kills: a chunk's file is either whole and verified, or not there.
//!
//! What is to be done is cut into chunks by its content alone, never by who does it. A rank writes
//! each of its chunks under another name, syncs it and renames it; its first line says what it
//! belongs to and the hash of the rest. The coordinator verifies all chunks before a group of
//! workers starts, removes the damaged and the foreign ones, and the workers do what is not there.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::run::atomic::{self, Scratch};
use crate::run::io_error::{IoContext, IoError};

/// Why chunks cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A chunk is not what was written.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Chunks or items are missing, or there twice.
    #[error("the chunks in {} do not make a whole: {reason}", folder.display())]
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
    /// Number of chunks.
    pub chunks: usize,
    /// Number of items in all of them.
    pub items: usize,
}

/// A chunk's first line.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    key: String,
    chunk: usize,
    cut: Cut,
    sha256: String,
}

/// The item's place among all, from 0.
#[derive(Deserialize)]
struct Item {
    index: usize,
}

/// A folder of chunks.
#[derive(Debug, Clone)]
pub struct Chunks {
    folder: PathBuf,
    key: String,
}

impl Chunks {
    /// The chunks in `folder` of the work that `key` hashes.
    pub fn new(folder: PathBuf, key: String) -> Self {
        Self { folder, key }
    }

    /// Their folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, chunk: usize) -> PathBuf {
        self.folder.join(format!("chunk-{chunk:06}.jsonl"))
    }

    /// Whether a chunk is there. It was verified before the workers started.
    pub fn has(&self, chunk: usize) -> bool {
        self.path(chunk).is_file()
    }

    /// Writes a chunk: its items as JSON objects with an `index`, one a line.
    ///
    /// # Errors
    /// Where the file system refuses; then the chunk is not there.
    pub fn write(&self, chunk: usize, cut: Cut, items: &str) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let sha256 = hex::encode(Sha256::digest(items));
        let header = serde_json::to_string(&Header { key: self.key.clone(), chunk, cut, sha256 })?;
        atomic::replace(&self.path(chunk), |file| {
            writeln!(file, "{header}")?;
            file.write_all(items.as_bytes())
        })?;
        atomic::sync_folder(&self.folder)
    }

    /// Removes what is not a whole chunk of this work; returns how many whole ones there are, and
    /// what was wrong with the others. Drafts of killed workers are removed silently.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn clean(&self) -> Result<(usize, Vec<ChunkError>), ChunkError> {
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
            fs::remove_file(&path).tried("remove", &path)?;
        }
        Ok((whole, damaged))
    }

    /// All items, in their order.
    ///
    /// # Errors
    /// A damaged chunk; chunks or items that are missing or there twice.
    pub fn merge(&self) -> Result<Vec<String>, ChunkError> {
        let incomplete =
            |reason: String| ChunkError::Incomplete { folder: self.folder.clone(), reason };
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
                    ChunkError::Damaged { path: path.clone(), reason }
                })?;
                if items.insert(index, line.to_owned()).is_some() {
                    return Err(incomplete(format!("item {index} is there twice")));
                }
            }
        }
        let Some(cut) = cut else { return Err(incomplete("there are none".into())) };
        let is_whole = found == cut.chunks
            && items.len() == cut.items
            && items.keys().copied().eq(0..cut.items);
        if !is_whole {
            let Cut { chunks, items: all } = cut;
            let items = items.len();
            let reason = format!("{found} of {chunks} chunks with {items} of {all} items");
            return Err(incomplete(reason));
        }
        Ok(items.into_values().collect())
    }

    /// Puts all chunks into the folder of `other`, too, which is there as a whole or not at all. They
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
            fs::hard_link(&from, &to).or_else(|_| atomic::copy(&from, &to))?;
        }
        fs::rename(draft.path(), &other.folder)?;
        atomic::sync_folder(beside)
    }

    /// The files, sorted by name; none where there is no folder yet.
    fn files(&self) -> Result<Vec<PathBuf>, ChunkError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(IoError::new("read", &self.folder, source).into()),
        };
        let paths: io::Result<Vec<PathBuf>> =
            entries.map(|entry| entry.map(|entry| entry.path())).collect();
        let mut paths = paths.tried("read", &self.folder)?;
        paths.sort();
        Ok(paths)
    }

    fn read(&self, path: &Path) -> Result<(Header, String), ChunkError> {
        let damaged = |reason: String| ChunkError::Damaged { path: path.to_owned(), reason };
        let bytes = fs::read(path).tried("read", path)?;
        let text = String::from_utf8(bytes).map_err(|error| damaged(error.to_string()))?;
        let (first, rest) =
            text.split_once('\n').ok_or_else(|| damaged("it has no first line".into()))?;
        let header: Header =
            serde_json::from_str(first).map_err(|error| damaged(error.to_string()))?;
        if header.key != self.key {
            return Err(damaged("it belongs to other work".into()));
        }
        if self.path(header.chunk) != path {
            return Err(damaged(format!("it holds chunk {}", header.chunk)));
        }
        if header.sha256 != hex::encode(Sha256::digest(rest)) {
            return Err(damaged("its hash does not fit its content".into()));
        }
        let rest = rest.to_owned();
        Ok((header, rest))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use tempfile::TempDir;

    const CUT: Cut = Cut { chunks: 2, items: 3 };

    fn chunks(folder: &TempDir) -> Chunks {
        Chunks::new(folder.path().join("chunks"), "key".into())
    }

    fn written(folder: &TempDir) -> Chunks {
        let chunks = chunks(folder);
        chunks.write(1, CUT, "{\"index\":1}\n").unwrap();
        chunks.write(0, CUT, "{\"index\":2}\n{\"index\":0}\n").unwrap();
        chunks
    }

    #[test]
    fn items_come_in_their_order() {
        let folder = TempDir::new().unwrap();
        let chunks = written(&folder);
        assert!(chunks.has(0) && chunks.has(1) && !chunks.has(2));
        let items = ["{\"index\":0}", "{\"index\":1}", "{\"index\":2}"];
        assert_eq!(chunks.merge().unwrap(), items);
        assert_eq!(chunks.clean().unwrap().0, 2);
        assert_eq!(chunks.merge().unwrap(), items);
    }

    #[test]
    fn every_damage_is_found_and_removed() {
        let folder = TempDir::new().unwrap();
        let chunks = written(&folder);
        let path = chunks.path(0);
        let good = fs::read(&path).unwrap();
        // In the hash, in the content, in the key, at the end, everywhere.
        for place in [10, 60, good.len() - 3] {
            let mut bytes = good.clone();
            bytes[place] ^= 1;
            fs::write(&path, bytes).unwrap();
            assert!(chunks.merge().is_err(), "byte {place} does not count");
        }
        fs::write(&path, &good[..good.len() - 1]).unwrap();
        let (whole, damaged) = chunks.clean().unwrap();
        assert_eq!((whole, damaged.len()), (1, 1));
        assert!(damaged[0].to_string().ends_with("its hash does not fit its content"));
        assert!(!chunks.has(0));
        let error = chunks.merge().unwrap_err().to_string();
        assert!(error.ends_with("1 of 2 chunks with 1 of 3 items"), "{error}");
    }

    #[test]
    fn drafts_and_foreign_chunks_go() {
        let folder = TempDir::new().unwrap();
        let mine = written(&folder);
        fs::write(mine.path(1).with_extension("tmp-2-0"), "half").unwrap();
        let other = Chunks::new(mine.folder.clone(), "other".into());
        other.write(1, CUT, "{\"index\":1}\n").unwrap();
        let (whole, damaged) = mine.clean().unwrap();
        assert_eq!(whole, 1);
        assert!(damaged[0].to_string().contains("chunk-000001"), "{}", damaged[0]);
        assert!(damaged[0].to_string().ends_with("it belongs to other work"), "{}", damaged[0]);
        assert_eq!(mine.files().unwrap(), [mine.path(0)]);
    }

    #[test]
    fn linked_chunks_outlive_the_first_ones() {
        let folder = TempDir::new().unwrap();
        let first = written(&folder);
        let items = first.merge().unwrap();
        let other = Chunks::new(folder.path().join("cache/kept"), "key".into());
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
    fn what_an_older_version_kept_is_read() {
        let folder = TempDir::new().unwrap();
        let item = "{\"index\":0}\n";
        let sha256 = hex::encode(Sha256::digest(item));
        let header = format!(
            r#"{{"key":"key","chunk":0,"cut":{{"chunks":1,"items":1}},"sha256":"{sha256}"}}"#
        );
        let chunks = chunks(&folder);
        fs::create_dir(chunks.folder()).unwrap();
        let path = chunks.folder().join("chunk-000000.jsonl");
        fs::write(path, format!("{header}\n{item}")).unwrap();
        assert_eq!(chunks.merge().unwrap(), [item.trim()]);
    }

    #[test]
    fn nothing_is_no_whole() {
        let folder = TempDir::new().unwrap();
        assert_eq!(chunks(&folder).clean().unwrap().0, 0);
        let error = chunks(&folder).merge().unwrap_err().to_string();
        assert!(error.ends_with("there are none"), "{error}");
    }
}
