//! A checkpoint that was found to be what its manifest says.

use std::io;
use std::path::{Path, PathBuf};

use super::StoreError;
use super::manifest::{Base, MANIFEST, Manifest, hash_file};

/// A checkpoint that was found to be what its manifest says; there is no other way to get one.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    folder: PathBuf,
    manifest: Manifest,
}

/// A folder that is not a whole checkpoint.
#[derive(Debug, thiserror::Error)]
#[error("checkpoint {} is damaged: {damage}", folder.display())]
pub struct Damaged {
    /// The folder.
    pub folder: PathBuf,
    /// What is wrong with it.
    pub damage: Damage,
}

/// What is wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// It was never finished, or lost its manifest.
    #[error("it has no {MANIFEST}")]
    NoManifest,
    /// The manifest contradicts itself.
    #[error("{MANIFEST} is not usable: {reason}")]
    BadManifest {
        /// Why.
        reason: String,
    },
    /// A file of the manifest is not there.
    #[error("{file} is missing")]
    Missing {
        /// Its name.
        file: String,
    },
    /// A file is shorter or longer than it was.
    #[error("{file} has {found} bytes instead of {expected}")]
    Size {
        /// Its name.
        file: String,
        /// Bytes by the manifest.
        expected: u64,
        /// Bytes now.
        found: u64,
    },
    /// A file's content is not what it was.
    #[error("{file} has another content than was written (SHA-256 {found} instead of {expected})")]
    Altered {
        /// Its name.
        file: String,
        /// SHA-256 by the manifest.
        expected: String,
        /// SHA-256 now.
        found: String,
    },
    /// A file cannot be read.
    #[error("{file} cannot be read: {source}")]
    Unreadable {
        /// Its name.
        file: String,
        /// Why not.
        source: io::Error,
    },
}

impl Damage {
    /// What a checkpoint's folder with this in it is: damaged, or another user's.
    fn of(self, folder: &Path) -> StoreError {
        let folder = folder.to_owned();
        match self {
            Self::Unreadable { file, source }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                StoreError::Denied { path: folder.join(file), folder }
            }
            damage => Damaged { folder, damage }.into(),
        }
    }
}

/// Trained weights that belong to another BERT or vocabulary than the one here.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} was trained on another {base} (SHA-256 {trained}) than the one here ({here})", folder.display()
)]
pub struct OtherBase {
    /// The checkpoint.
    pub folder: PathBuf,
    /// The side, and what it is.
    pub base: String,
    /// The SHA-256 of the training.
    pub trained: String,
    /// The SHA-256 here.
    pub here: String,
}

impl Checkpoint {
    /// Opens a checkpoint's folder, reading every byte of it.
    ///
    /// # Errors
    /// What is wrong first; what this user may not read is not damaged.
    pub fn verify(folder: &Path) -> Result<Self, StoreError> {
        let wrong = |damage: Damage| damage.of(folder);
        let manifest = Self::read_manifest(folder)?;
        for (file, record) in &manifest.files {
            let file = file.clone();
            let (found, sha256) = hash_file(&folder.join(&file)).map_err(|source| {
                wrong(match source.kind() {
                    io::ErrorKind::NotFound => Damage::Missing { file: file.clone() },
                    _ => Damage::Unreadable { file: file.clone(), source },
                })
            })?;
            if found != record.size {
                return Err(wrong(Damage::Size { file, expected: record.size, found }));
            }
            if sha256 != record.sha256 {
                let expected = record.sha256.clone();
                return Err(wrong(Damage::Altered { file, expected, found: sha256 }));
            }
        }
        Ok(Self { folder: folder.to_owned(), manifest })
    }

    /// The manifest of a folder, whose files may be anything.
    pub(super) fn read_manifest(folder: &Path) -> Result<Manifest, StoreError> {
        let bytes = std::fs::read(folder.join(MANIFEST)).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Damage::NoManifest,
            _ => Damage::Unreadable { file: MANIFEST.into(), source },
        });
        let read = bytes.and_then(|bytes| {
            Manifest::from_bytes(&bytes).map_err(|reason| Damage::BadManifest { reason })
        });
        read.map_err(|damage| damage.of(folder))
    }

    /// The optimizer step; the newest one for an average.
    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its file of this name.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// The frozen BERTs on which it stands.
    pub fn bases(&self) -> &[Base] {
        &self.manifest.bases
    }

    /// Refuses other BERTs or vocabularies than those of the training. `here` returns the SHA-256 of a
    /// side on this machine; a side for which it returns none is not compared.
    ///
    /// # Errors
    /// The first side that differs.
    pub fn check_bases<'a>(&self, here: impl Fn(&str) -> Option<&'a str>) -> Result<(), OtherBase> {
        for Base { side, sha256 } in self.bases() {
            let Some(here) = here(side).filter(|here| here != sha256) else { continue };
            let what = if side.ends_with("vocabulary") { "" } else { " BERT" };
            return Err(OtherBase {
                folder: self.folder.clone(),
                base: format!("{side}{what}"),
                trained: sha256.clone(),
                here: here.to_owned(),
            });
        }
        Ok(())
    }

    /// All that the manifest says.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(super) fn moved_to(self, folder: PathBuf) -> Self {
        Self { folder, ..self }
    }
}
