//! Files of tensors (safetensors) in memory, and written so that others may read them.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{SafeTensorError, SafeTensors, View};

use crate::run::atomic;
use crate::run::io_error::{IoContext, IoError};

/// A file of tensors, mapped into memory.
#[derive(Debug)]
pub struct MappedTensors {
    path: PathBuf,
    map: Mmap,
}

impl MappedTensors {
    /// Maps a file that is not written any more, such as one of a published checkpoint or of a
    /// pre-trained model.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn open(path: PathBuf) -> Result<Self, IoError> {
        let file = File::open(&path).tried("open", &path)?;
        // SAFETY: such files are only removed as a whole, and a removed file's mapping stays valid.
        let map = unsafe { Mmap::map(&file) }.tried("map", &path)?;
        Ok(Self { path, map })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors.
    ///
    /// # Errors
    /// It is not a safetensors file.
    pub fn tensors(&self) -> Result<SafeTensors<'_>, SafeTensorError> {
        SafeTensors::deserialize(&self.map)
    }
}

/// Writes tensors to `path` in one step, one at a time in memory.
///
/// # Errors
/// Where the file system refuses.
pub fn write_tensors<V: View>(
    tensors: Vec<(String, V)>,
    metadata: Option<HashMap<String, String>>,
    path: &Path,
) -> Result<(), IoError> {
    // What safetensors writes, its owner alone can read.
    let private = path.with_added_extension("private");
    safetensors::serialize_to_file(tensors, metadata, &private)
        .map_err(|error| match error {
            SafeTensorError::IoError(error) => error,
            other => io::Error::other(other),
        })
        .tried("write", path)?;
    atomic::copy(&private, path).tried("write", path)?;
    fs::remove_file(&private).tried("remove", &private)
}
