//! A cache of a teacher's soft labels, memory-mapped: written once, shared by all ranks and later runs.
//!
//! They lie in a folder named by a key that hashes everything they were made from. The labels of
//! every so many samples are a file, a chunk, which is written beside its place and renamed, so that
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
use tandem_cluster::run::atomic;

use super::cache::{CacheError, Key};
use super::corpus::Corpus;

const MAGIC: &[u8; 8] = b"TANDEMS1";
const HEADER: usize = 8 + 32 + 32;
/// Chunks of a small corpus, so that all ranks have work.
const CHUNKS: usize = 64;
/// Samples of a chunk: few enough to be made in minutes, at least so many that files are no burden.
const SAMPLES: [usize; 2] = [16, 4096];

/// The cached labels of a corpus.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
    key: Key,
    corpus: Arc<Corpus>,
    top: usize,
    /// Samples of each chunk but the last.
    size: usize,
}

impl Store {
    /// The labels of `corpus` with this key in a cache folder, `top` words for each token.
    pub fn new(cache: &Path, key: Key, corpus: Arc<Corpus>, top: usize) -> Self {
        let name = hex::encode(&key[..16]);
        let folder = cache.join(format!("{name}.labels"));
        let size = (corpus.len() / CHUNKS).clamp(SAMPLES[0], SAMPLES[1]);
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

    /// Number of chunks.
    pub fn chunks(&self) -> usize {
        self.corpus.len().div_ceil(self.size)
    }

    /// The samples of a chunk.
    pub fn samples(&self, chunk: usize) -> Range<usize> {
        chunk * self.size..self.corpus.len().min((chunk + 1) * self.size)
    }

    /// Target tokens of a chunk.
    pub fn tokens(&self, chunk: usize) -> usize {
        self.range(chunk).len()
    }

    /// Where a sample's first target token lies among those of its chunk.
    pub fn offset(&self, sample: usize) -> usize {
        let first = sample / self.size * self.size;
        self.corpus.target_range(sample).start - self.corpus.target_range(first).start
    }

    /// The target tokens of a chunk among all.
    fn range(&self, chunk: usize) -> Range<usize> {
        let samples = self.samples(chunk);
        let (first, last) = (samples.start, samples.end - 1);
        self.corpus.target_range(first).start..self.corpus.target_range(last).end
    }

    fn path(&self, chunk: usize) -> PathBuf {
        self.folder.join(format!("{chunk:06}"))
    }

    /// Writes a chunk: ids and logits `[tokens, top]`.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn write(&self, chunk: usize, ids: &[u32], logits: &[f32]) -> Result<(), CacheError> {
        let path = self.path(chunk);
        let failed = |source| CacheError::Write { path: path.clone(), source };
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        let sections: [&[u8]; 2] = [bytemuck::cast_slice(ids), bytemuck::cast_slice(logits)];
        atomic::replace(&path, |file| {
            file.write_all(MAGIC)?;
            file.write_all(&self.key)?;
            file.write_all(&hash(&self.key, &sections))?;
            sections.iter().try_for_each(|section| file.write_all(section))
        })
        .map_err(failed)
    }

    /// A chunk; `None` where there is none, or a damaged one.
    pub fn open(&self, chunk: usize) -> Option<Chunk> {
        let file = File::open(self.path(chunk)).ok()?;
        // SAFETY: chunks are never changed in place: they are written elsewhere and renamed.
        let map = unsafe { Mmap::map(&file) }.ok()?;
        let is_whole = map.len() == HEADER + 8 * self.top * self.tokens(chunk)
            && &map[..8] == MAGIC
            && map[8..40] == self.key
            && map[40..HEADER] == hash(&self.key, &[&map[HEADER..]]);
        is_whole.then_some(Chunk(map))
    }
}

fn hash(key: &Key, sections: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new_with_prefix(MAGIC).chain_update(key);
    sections.iter().for_each(|section| hash.update(section));
    hash.finalize().into()
}

/// A chunk, verified.
#[derive(Debug)]
pub struct Chunk(Mmap);

/// The complete labels of a corpus.
#[derive(Debug)]
pub struct SoftLabels {
    store: Store,
    chunks: Vec<Chunk>,
}

impl SoftLabels {
    /// Those of all chunks, in order.
    pub fn new(store: Store, chunks: Vec<Chunk>) -> Self {
        Self { store, chunks }
    }

    /// The teacher's most probable words for each target token of a sample, and their logits:
    /// `[T, top]`.
    pub fn of(&self, sample: usize) -> (&[u32], &[f32]) {
        let Store { corpus, top, size, .. } = &self.store;
        let bytes = &self.chunks[sample / size].0[HEADER..];
        let (ids, logits) = bytes.split_at(bytes.len() / 2);
        let start = self.store.offset(sample) * top;
        let range = start..start + corpus.target_range(sample).len() * top;
        (&bytemuck::cast_slice(ids)[range.clone()], &bytemuck::cast_slice(logits)[range])
    }
}
