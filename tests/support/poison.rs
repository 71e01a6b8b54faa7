//! A bad sample in tokenised data that is sound otherwise.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Tokenised data as it was before.
pub struct Poisoned {
    path: PathBuf,
    before: Vec<u8>,
}

/// Puts a token that no vocabulary has into the first sample of the tokenised training data, the
/// largest file of the `cache`. None if there is no such file.
///
/// # Panics
/// If it cannot be read or written.
pub fn poison(cache: &Path) -> Option<Poisoned> {
    const HEADER: usize = 8 + 32 + 6 * 8 + 32;
    let files = std::fs::read_dir(cache).ok()?.flatten().map(|entry| entry.path());
    let size = |path: &PathBuf| path.metadata().map_or(0, |file| file.len());
    let path = files.max_by_key(size)?;
    let before = std::fs::read(&path).expect("a file");
    let mut bytes = before.clone();
    let count = |index: usize| {
        let at = 40 + 8 * index;
        u64::from_le_bytes(before[at..at + 8].try_into().expect("8 bytes")) as usize
    };
    // Behind the sources there are the targets, the texts and the report of what was read.
    let first_target = bytes.len() - count(5) - count(4) - 4 * count(3);
    bytes[first_target..first_target + 4].copy_from_slice(&4_000_000u32.to_le_bytes());
    let hash = Sha256::new().chain_update(&bytes[..HEADER - 32]).chain_update(&bytes[HEADER..]);
    let hash = hash.finalize();
    bytes[HEADER - 32..HEADER].copy_from_slice(&hash);
    std::fs::write(&path, bytes).expect("a file");
    Some(Poisoned { path, before })
}

impl Poisoned {
    /// Ends that.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn cure(self) {
        std::fs::write(self.path, self.before).expect("a file");
    }
}
