//! What the file system refused: the one error for it, with the operation and the path.

use std::io;
use std::path::{Path, PathBuf};

/// An operation that the file system refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct IoError {
    /// What was tried, as a verb.
    pub action: &'static str,
    /// On which path.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

impl IoError {
    /// The error of an `action` on a `path`.
    pub fn new(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self { action, path: path.into(), source }
    }
}

/// Adds the operation and the path to what the system says.
pub trait IoContext<T> {
    /// # Errors
    /// The result's own, as an [`IoError`].
    fn tried(self, action: &'static str, path: &Path) -> Result<T, IoError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn tried(self, action: &'static str, path: &Path) -> Result<T, IoError> {
        self.map_err(|source| IoError::new(action, path, source))
    }
}
