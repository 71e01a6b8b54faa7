//! Files of tensors (safetensors) in memory, and written so that others may read them.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{SafeTensorError, SafeTensors, View};

use crate::run::atomic::{self, Scratch};
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

/// Writes tensors to `path` in one step, one at a time in memory. Nothing else stays if that fails.
///
/// # Errors
/// Where the file system refuses.
pub fn write_tensors<V: View>(
    tensors: Vec<(String, V)>,
    metadata: Option<HashMap<String, String>>,
    path: &Path,
) -> Result<(), IoError> {
    // What safetensors writes, its owner alone can read.
    let scratch = Scratch::new_in(atomic::folder_of(path)).tried("write", path)?;
    let private = scratch.path().join("private");
    safetensors::serialize_to_file(tensors, metadata, &private)
        .map_err(|error| match error {
            SafeTensorError::IoError(error) => error,
            other => io::Error::other(other),
        })
        .tried("write", path)?;
    atomic::copy(&private, path).tried("write", path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let names = || -> Vec<_> {
            let entries = std::fs::read_dir(folder.path()).unwrap();
            entries.map(|entry| entry.unwrap().file_name()).collect()
        };
        let write = |path: &Path| {
            let view = TensorView::new(Dtype::F32, vec![1], &[0; 4]).unwrap();
            write_tensors(vec![("a".to_owned(), view)], None, path)
        };
        let taken = folder.path().join("taken");
        std::fs::create_dir(&taken).unwrap();
        assert!(write(&taken).unwrap_err().to_string().contains("taken"));
        assert_eq!(names(), ["taken"]);
        let free = folder.path().join("free");
        write(&free).unwrap();
        assert_eq!(names().len(), 2);
        assert_eq!(MappedTensors::open(free).unwrap().tensors().unwrap().names(), ["a"]);
    }
}
