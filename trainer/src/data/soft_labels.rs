//! A cache of a teacher's soft labels, memory-mapped: written once, shared by all ranks and later runs.
//!
//! The folder's name is a key that hashes all inputs of the labels. Each file in it is a shard with the labels
//! of consecutive samples. Shards are written to a temporary file and renamed, so that a killed rank loses only
//! its unfinished shard.
//!
//! Layout, little-endian: magic, key and the SHA-256 of all but itself; then ids (u32) and logits
//! (f32), `top` of each for every target token.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use sha2::{Digest, Sha256};
use tandem_cluster::run::temporary;

use super::cache::{CacheError, Key};
use super::corpus::Corpus;

const MAGIC: &[u8; 8] = b"TANDEMS1";
const HEADER: usize = 8 + 32 + 32;
/// The number of shards of a small corpus, so that all ranks have work.
const SHARDS: usize = 64;
/// The bounds of a shard's number of samples: few enough to take minutes, enough to keep the number of files
/// small.
const SAMPLES: [usize; 2] = [16, 4096];

/// The cached labels of a corpus.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
    key: Key,
    corpus: Arc<Corpus>,
    top: usize,
    /// The number of samples of each shard except the last.
    size: usize,
}

impl Store {
    /// The labels of `corpus` with this key in a cache folder, `top` words for each token.
    pub fn new(cache: &Path, key: Key, corpus: Arc<Corpus>, top: usize) -> Self {
        let name = hex::encode(&key[..16]);
        let folder = cache.join(format!("{name}.labels"));
        let size = (corpus.len() / SHARDS).clamp(SAMPLES[0], SAMPLES[1]);
        Self { folder, key, corpus, top, size }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The number of labels of each target token.
    pub fn top(&self) -> usize {
        self.top
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.corpus.len().div_ceil(self.size)
    }

    /// The samples of a shard.
    pub fn samples(&self, shard: usize) -> Range<usize> {
        shard * self.size..self.corpus.len().min((shard + 1) * self.size)
    }

    /// The number of target tokens of a shard.
    pub fn tokens(&self, shard: usize) -> usize {
        self.range(shard).len()
    }

    /// The offset of a sample's first target token in its shard.
    pub fn offset(&self, sample: usize) -> usize {
        let first = sample / self.size * self.size;
        self.corpus.target_range(sample).start - self.corpus.target_range(first).start
    }

    /// The range of a shard's target tokens among all.
    fn range(&self, shard: usize) -> Range<usize> {
        let samples = self.samples(shard);
        let (first, last) = (samples.start, samples.end - 1);
        self.corpus.target_range(first).start..self.corpus.target_range(last).end
    }

    fn path(&self, shard: usize) -> PathBuf {
        self.folder.join(format!("{shard:06}"))
    }

    /// Writes a shard: ids and logits `[tokens, top]`.
    ///
    /// # Errors
    /// A file system error.
    pub fn write(&self, shard: usize, ids: &[u32], logits: &[f32]) -> Result<(), CacheError> {
        let path = self.path(shard);
        let failed = |source| CacheError::Write { path: path.clone(), source };
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        let sections: [&[u8]; 2] = [bytemuck::cast_slice(ids), bytemuck::cast_slice(logits)];
        temporary::replace(&path, |file| {
            file.write_all(MAGIC)?;
            file.write_all(&self.key)?;
            file.write_all(&hash(&self.key, &sections))?;
            sections.iter().try_for_each(|section| file.write_all(section))
        })
        .map_err(failed)
    }

    /// Opens a shard; `None` if it is missing or damaged.
    pub fn open(&self, shard: usize) -> Option<Shard> {
        let file = File::open(self.path(shard)).ok()?;
        // SAFETY: shards are never changed in place: they are written elsewhere and renamed.
        let map = unsafe { Mmap::map(&file) }.ok()?;
        let is_whole = map.len() == HEADER + 8 * self.top * self.tokens(shard)
            && &map[..8] == MAGIC
            && map[8..40] == self.key
            && map[40..HEADER] == hash(&self.key, &[&map[HEADER..]]);
        is_whole.then_some(Shard(map))
    }
}

fn hash(key: &Key, sections: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new_with_prefix(MAGIC).chain_update(key);
    sections.iter().for_each(|section| hash.update(section));
    hash.finalize().into()
}

/// A verified shard.
#[derive(Debug)]
pub struct Shard(Mmap);

/// The complete labels of a corpus.
#[derive(Debug)]
pub struct SoftLabels {
    store: Store,
    shards: Vec<Shard>,
}

impl SoftLabels {
    /// The labels in all `shards`, which are in order.
    pub fn new(store: Store, shards: Vec<Shard>) -> Self {
        Self { store, shards }
    }

    /// The teacher's most probable words for each target token of a sample, and their logits:
    /// `[T, top]`.
    pub fn of(&self, sample: usize) -> (&[u32], &[f32]) {
        let Store { corpus, top, size, .. } = &self.store;
        let bytes = &self.shards[sample / size].0[HEADER..];
        let (ids, logits) = bytes.split_at(bytes.len() / 2);
        let start = self.store.offset(sample) * top;
        let range = start..start + corpus.target_range(sample).len() * top;
        (&bytemuck::cast_slice(ids)[range.clone()], &bytemuck::cast_slice(logits)[range])
    }
}
