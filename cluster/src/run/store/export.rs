//! A model on its own, as it is handed on: its weights, and the manifest that guards them.

use std::fs;
use std::io;
use std::path::Path;

use super::manifest::MANIFEST;
use super::{ADAPTERS, Checkpoint, StoreError};
use crate::run::atomic;
use crate::run::io_error::IoContext;

impl Checkpoint {
    /// Writes the weights, and a manifest of them alone, into a folder; what else lies there stays.
    ///
    /// # Errors
    /// Where the file system refuses; then the folder holds no model, or the one that it held.
    pub fn export(&self, folder: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(folder).tried("make the folder", folder)?;
        let (from, to) = (self.path(ADAPTERS), folder.join(ADAPTERS));
        atomic::copy(&from, &to).tried("write", &to)?;
        let mut manifest = self.manifest().clone();
        manifest.files.retain(|file, _| file == ADAPTERS);
        let path = folder.join(MANIFEST);
        let text = manifest.to_text().map_err(io::Error::from).tried("write", &path)?;
        atomic::write(&path, &text)?;
        Self::verify(folder)
    }
}
