//! The file of an n-gram language model: written once, in one step, and guarded by its own hash.
//!
//! Layout: magic, the SHA-256 of the rest, and the rest, which is the trainer's business.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use crate::run::atomic;
use crate::run::io_error::{IoContext, IoError};

const MAGIC: &[u8; 8] = b"TANDEMN1";
const HEAD: usize = MAGIC.len() + 32;

/// Why a language model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NgramsError {
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// It is not what was written.
    #[error(
        "the language model {} is damaged: its content does not fit its hash; remove it, and it is estimated \
         again where the training data are", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// The verified content of a file, memory-mapped.
#[derive(Debug)]
pub struct NgramsFile {
    map: Mmap,
}

impl NgramsFile {
    /// Opens a file, reading every byte of it; none if there is no such file.
    ///
    /// # Errors
    /// It is damaged or cannot be read.
    pub fn open(path: &Path) -> Result<Option<Self>, NgramsError> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.tried("read", path)?,
        };
        // SAFETY: such files are never changed in place: they are written elsewhere and renamed.
        let map = unsafe { Mmap::map(&file) }.tried("read", path)?;
        let is_whole = map.len() >= HEAD
            && map[..MAGIC.len()] == MAGIC[..]
            && Sha256::digest(&map[HEAD..])[..] == map[MAGIC.len()..HEAD];
        match is_whole {
            true => Ok(Some(Self { map })),
            false => Err(NgramsError::Damaged { path: path.to_owned() }),
        }
    }

    /// Writes a file of these parts in one step.
    ///
    /// # Errors
    /// Where the file system refuses; then the file is as it was.
    pub fn write(path: &Path, parts: &[&[u8]]) -> Result<(), IoError> {
        let mut hash = Sha256::new();
        parts.iter().for_each(|part| hash.update(part));
        let written = atomic::replace(path, |file| {
            file.write_all(MAGIC)?;
            file.write_all(&hash.finalize())?;
            parts.iter().try_for_each(|part| file.write_all(part))
        });
        written.tried("write", path)
    }
}

impl Deref for NgramsFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[HEAD..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("order-2.ngrams");
        assert!(NgramsFile::open(&path).unwrap().is_none());
        NgramsFile::write(&path, &[b"one", b"", b"two"]).unwrap();
        assert_eq!(&NgramsFile::open(&path).unwrap().unwrap()[..], b"onetwo");
        let good = std::fs::read(&path).unwrap();
        let altered = (0..good.len()).map(|place| {
            let mut bytes = good.clone();
            bytes[place] ^= 1;
            bytes
        });
        let cut = (0..good.len()).map(|end| good[..end].to_vec());
        for bytes in altered.chain(cut) {
            std::fs::write(&path, bytes).unwrap();
            let error = NgramsFile::open(&path).unwrap_err().to_string();
            assert!(error.contains("order-2.ngrams is damaged"), "{error}");
        }
    }
}
