//! Tokenised data that is damaged, or sound but for a bad sample.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Magic, key and the sizes of nine sections, the seventh of which are the targets.
const HEADER: usize = 8 + 32 + 9 * 8;
/// What has a checksum.
const BLOCK: usize = 1 << 14;

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
    let path = largest(cache)?;
    let before = std::fs::read(&path).expect("a file");
    let mut bytes = before.clone();
    let [first_target, end] = [6, 9].map(|section| offset(&bytes, section));
    bytes[first_target..first_target + 4].copy_from_slice(&4_000_000u32.to_le_bytes());
    let block = first_target / BLOCK;
    let sum = crc32fast::hash(&bytes[block * BLOCK..end.min((block + 1) * BLOCK)]);
    bytes[end + 4 * block..][..4].copy_from_slice(&sum.to_le_bytes());
    let hash = bytes.len() - 32;
    let hashed = Sha256::new().chain_update(&bytes[..HEADER]).chain_update(&bytes[end..hash]);
    bytes[hash..].copy_from_slice(&hashed.finalize());
    std::fs::write(&path, bytes).expect("a file");
    Some(Poisoned { path, before })
}

/// Flips a bit in the middle of the targets of the tokenised training data, as a disk may.
///
/// # Panics
/// If there is none, or it cannot be read or written.
pub fn damage(cache: &Path) {
    let path = largest(cache).expect("the training data");
    let mut bytes = std::fs::read(&path).expect("a file");
    let middle = offset(&bytes, 6).midpoint(offset(&bytes, 7));
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).expect("a file");
}

/// The tokenised training data.
fn largest(cache: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(cache).ok()?.flatten().map(|entry| entry.path());
    files.max_by_key(|path| path.metadata().map_or(0, |file| file.len()))
}

/// Where a section begins.
fn offset(bytes: &[u8], section: usize) -> usize {
    let size = |index: usize| {
        let at = 40 + 8 * index;
        u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes")) as usize
    };
    HEADER + (0..section).map(size).sum::<usize>()
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
