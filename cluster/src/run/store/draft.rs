//! A checkpoint while it is written.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::manifest::{Base, FileRecord, MANIFEST, Manifest};
use super::{StoreError, remove_folder, sync_folder};
use crate::run::io_error::IoContext;

/// A checkpoint while it is written: nobody loads it before it is published.
#[derive(Debug)]
pub struct Draft {
    folder: PathBuf,
    manifest: Manifest,
}

impl Draft {
    pub(super) fn create(folder: PathBuf, step: u64, attempt: u64) -> io::Result<Self> {
        remove_folder(&folder)?;
        fs::create_dir_all(&folder)?;
        Ok(Self { folder, manifest: Manifest::new(step, attempt, Vec::new()) })
    }

    /// Where the draft's file of this name is to be written.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// Ends the draft: syncs and hashes every file in it, then writes the manifest.
    ///
    /// `bases` are the frozen BERTs: side, and SHA-256 of model.safetensors.
    ///
    /// # Errors
    /// Where a file cannot be read or synced, for example on a full disk: the draft is worthless
    /// then, and published checkpoints are as they were.
    pub fn seal(self, bases: Vec<(String, String)>) -> Result<(), StoreError> {
        let bases = bases.into_iter().map(|(side, sha256)| Base { side, sha256 }).collect();
        self.finish(bases, Vec::new()).map(drop)
    }

    pub(super) fn finish(
        mut self,
        bases: Vec<Base>,
        average_of: Vec<u64>,
    ) -> Result<Manifest, StoreError> {
        self.manifest.bases = bases;
        self.manifest.average_of = average_of;
        self.manifest.files = self.hash_files()?;
        let path = self.folder.join(MANIFEST);
        let text = self.manifest.to_text().map_err(io::Error::from).tried("write", &path)?;
        let mut file = File::create(&path).tried("write", &path)?;
        file.write_all(text.as_bytes()).tried("write", &path)?;
        file.sync_all().tried("sync", &path)?;
        sync_folder(&self.folder).tried("sync", &self.folder)?;
        Ok(self.manifest)
    }

    fn hash_files(&self) -> Result<BTreeMap<String, FileRecord>, StoreError> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&self.folder).tried("list", &self.folder)? {
            let path = entry.tried("list", &self.folder)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if name == MANIFEST {
                continue;
            }
            sync_file(&path).tried("sync", &path)?;
            files.insert(name.to_owned(), FileRecord::of(&path).tried("read", &path)?);
        }
        Ok(files)
    }
}

fn sync_file(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
