//! A teacher's soft labels on disk, mapped into memory: made once, read by all ranks and later runs.
//!
//! They lie in a folder named by a key that hashes everything they were made from. The labels of
//! every so many samples are a file, a shard, which is written beside its place and renamed, so that
//! ranks that are killed lose what is not written yet and nothing else.
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
/// Shards of a small corpus, so that all ranks have work.
const SHARDS: usize = 64;
/// Samples of a shard: few enough to be made in minutes, at least so many that files are no burden.
const SAMPLES: [usize; 2] = [16, 4096];

/// Where a corpus' labels are kept.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
    key: Key,
    corpus: Arc<Corpus>,
    top: usize,
    /// Samples of each shard but the last.
    size: usize,
}

impl Store {
    /// The labels of `corpus` that belong to `key`, `top` words for each token, in a cache folder.
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

    /// Labels of each target token.
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

    /// Target tokens of a shard.
    pub fn tokens(&self, shard: usize) -> usize {
        self.range(shard).len()
    }

    /// Where a sample's first target token lies among those of its shard.
    pub fn offset(&self, sample: usize) -> usize {
        let first = sample / self.size * self.size;
        self.corpus.target_range(sample).start - self.corpus.target_range(first).start
    }

    /// The target tokens of a shard among all.
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
    /// Where the file system refuses.
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

    /// A shard; `None` where there is none, or a damaged one.
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

/// A shard, verified.
#[derive(Debug)]
pub struct Shard(Mmap);

/// A corpus' labels.
#[derive(Debug)]
pub struct SoftLabels {
    store: Store,
    shards: Vec<Shard>,
}

impl SoftLabels {
    /// Those of all shards, in order.
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
