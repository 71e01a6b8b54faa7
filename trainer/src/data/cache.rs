//! A cache of tokenised text, memory-mapped: written once, shared by all ranks and later runs.
//!
//! A file's name is a key that hashes all of its inputs. It is written to a temporary file and renamed, so that
//! an incomplete one is never read. Ranks that need the same file at the same time use a file lock; if locks do
//! not work, each writes an identical file and the last one stays.
//!
//! Index and report are verified when a file is opened, and every other block when something in it is first read:
//! opening does not read the whole file. One with a damaged block is marked by an empty file beside it, and is
//! written anew when it is next opened.
//!
//! Layout, little-endian: magic, key and the sizes of nine sections in bytes; ends of sources, of targets (the
//! index) and of texts, lines (u64 each), repeats, ids of sources and of targets (u32), texts, report; the CRC-32
//! of each block of all that; the SHA-256 of what stands before the sections and of the checksums.

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::{Advice, Mmap};
use sha2::{Digest, Sha256};
use tandem_cluster::run::atomic;

use super::turn;

const MAGIC: &[u8; 8] = b"TANDEM02";
const SECTIONS: usize = 9;
const HEADER: usize = 8 + 32 + 8 * SECTIONS;
const SOURCE_ENDS: usize = 0;
const TARGET_ENDS: usize = 1;
const TEXT_ENDS: usize = 2;
const LINES: usize = 3;
const REPEATS: usize = 4;
const SOURCES: usize = 5;
const TARGETS: usize = 6;
const TEXTS: usize = 7;
const REPORT: usize = 8;
/// The bytes that have a checksum together. The first read of a sample verifies whole ones.
const BLOCK: usize = 1 << 14;

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The cache folder cannot be used.
    #[error("cannot write the cache {}; set data.cache to a writable folder with space", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be read back right after it was written.
    #[error("the cache of tokenised text {} is damaged right after it was written; is the disk sound?", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// What was to be read has changed since it was written.
    #[error(
        "the cache of tokenised text {} is damaged in the {BLOCK} bytes from {place} on; is the disk sound? {advice}",
        path.display()
    )]
    Block {
        /// The file.
        path: PathBuf,
        /// Where the damaged block begins.
        place: usize,
        /// What to do.
        advice: &'static str,
    },
}

/// The hash of all inputs of a cache file.
pub type Key = [u8; 32];

/// The samples of a cache file before it is written, in a file without a name for each section: a text may be
/// larger than memory.
#[derive(Debug)]
pub struct Draft {
    folder: PathBuf,
    /// All but the report.
    sections: [Section; REPORT],
}

/// Values of one type, one behind the other.
#[derive(Debug)]
struct Section {
    file: BufWriter<File>,
    bytes: u64,
}

impl Section {
    fn new(folder: &Path) -> io::Result<Self> {
        Ok(Self { file: BufWriter::new(tempfile::tempfile_in(folder)?), bytes: 0 })
    }

    fn extend<T: bytemuck::NoUninit>(&mut self, values: &[T]) -> io::Result<()> {
        let bytes = bytemuck::cast_slice(values);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    fn copy(&mut self, to: &mut impl Write) -> io::Result<()> {
        self.file.rewind()?;
        io::copy(self.file.get_mut(), to).map(drop)
    }
}

impl Draft {
    /// No samples yet; they are kept in the file system of this folder.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn new(folder: &Path) -> io::Result<Self> {
        let sections: Vec<_> =
            (0..REPORT).map(|_| Section::new(folder)).collect::<io::Result<_>>()?;
        let sections = sections.try_into().expect("as many as were made");
        Ok(Self { folder: folder.to_owned(), sections })
    }

    /// Adds a sample. Either all samples have texts or none does.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn push(
        &mut self,
        line: u64,
        source: &[u32],
        target: &[u32],
        texts: Option<(&str, &str)>,
    ) -> Result<(), CacheError> {
        self.add(line, source, target, texts)
            .map_err(|source| CacheError::Write { path: self.folder.clone(), source })
    }

    fn add(
        &mut self,
        line: u64,
        source: &[u32],
        target: &[u32],
        texts: Option<(&str, &str)>,
    ) -> io::Result<()> {
        self.sections[LINES].extend(&[line])?;
        self.sections[REPEATS].extend(&[repeats(target)])?;
        self.sections[SOURCES].extend(source)?;
        self.sections[TARGETS].extend(target)?;
        let (sources, targets) = self.tokens();
        self.sections[SOURCE_ENDS].extend(&[sources])?;
        self.sections[TARGET_ENDS].extend(&[targets])?;
        for text in texts.into_iter().flat_map(|(source, target)| [source, target]) {
            self.sections[TEXTS].extend(text.as_bytes())?;
            let end = self.sections[TEXTS].bytes;
            self.sections[TEXT_ENDS].extend(&[end])?;
        }
        Ok(())
    }

    /// Number of samples.
    pub fn len(&self) -> u64 {
        self.sections[LINES].bytes / 8
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers of source and target tokens.
    pub fn tokens(&self) -> (u64, u64) {
        (self.sections[SOURCES].bytes / 4, self.sections[TARGETS].bytes / 4)
    }

    fn write(&mut self, file: &mut impl Write, key: &Key, report: &[u8]) -> io::Result<()> {
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(key);
        let sizes = self.sections.iter().map(|section| section.bytes);
        for size in sizes.chain([report.len() as u64]) {
            header.extend_from_slice(&size.to_le_bytes());
        }
        let mut blocks = Blocks::new(file);
        blocks.write_all(&header)?;
        self.sections.iter_mut().try_for_each(|section| section.copy(&mut blocks))?;
        blocks.write_all(report)?;
        let sums = blocks.finish();
        file.write_all(&sums)?;
        file.write_all(&Sha256::new_with_prefix(&header).chain_update(&sums).finalize())
    }
}

/// A writer that takes the checksums of what is written.
struct Blocks<'a, W> {
    to: &'a mut W,
    /// Of all blocks before the current one.
    sums: Vec<u8>,
    current: crc32fast::Hasher,
    /// Bytes of the current block.
    filled: usize,
}

impl<'a, W: Write> Blocks<'a, W> {
    fn new(to: &'a mut W) -> Self {
        Self { to, sums: vec![], current: crc32fast::Hasher::new(), filled: 0 }
    }

    fn end_block(&mut self) {
        let sum = std::mem::take(&mut self.current).finalize();
        self.sums.extend_from_slice(&sum.to_le_bytes());
        self.filled = 0;
    }

    fn finish(mut self) -> Vec<u8> {
        if self.filled > 0 {
            self.end_block();
        }
        self.sums
    }
}

impl<W: Write> Write for Blocks<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let rest = bytes.len().min(BLOCK - self.filled);
        let count = self.to.write(&bytes[..rest])?;
        self.current.update(&bytes[..count]);
        self.filled += count;
        if self.filled == BLOCK {
            self.end_block();
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// How many tokens of a target, without its `[SEP]`, equal the one before.
fn repeats(target: &[u32]) -> u32 {
    let words = &target[..target.len().saturating_sub(1)];
    words.windows(2).filter(|pair| pair[0] == pair[1]).count() as u32
}

/// A memory-mapped cache file.
#[derive(Debug)]
pub struct Cache {
    path: PathBuf,
    map: Mmap,
    /// The offset of each section, and the end.
    offsets: [usize; SECTIONS + 1],
    /// Of each block, whether it has been verified.
    verified: Box<[AtomicBool]>,
}

impl Cache {
    /// Opens the file of this key, or writes it with the samples that `make` adds to a draft, and its report.
    ///
    /// # Errors
    /// `make` fails, or the folder cannot be written.
    pub fn open_or_make<E: From<CacheError>>(
        folder: &Path,
        key: &Key,
        make: impl FnOnce(&mut Draft) -> Result<Vec<u8>, E>,
    ) -> Result<Self, E> {
        let name = hex::encode(&key[..16]);
        let path = folder.join(format!("{name}.tokens"));
        if let Some(cache) = Self::open(&path, key) {
            return Ok(cache);
        }
        let failed = |source| CacheError::Write { path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let lock_path = folder.join(format!("{name}.lock"));
        let lock = File::create(&lock_path).map_err(failed)?;
        turn::wait(&lock);
        // Another process may have written it in the meantime.
        if let Some(cache) = Self::open(&path, key) {
            return Ok(cache);
        }
        let mut draft = Draft::new(folder).map_err(failed)?;
        let report = make(&mut draft)?;
        atomic::replace(&path, |file| draft.write(file, key, &report))
            .map_err(|source| CacheError::Write { path: path.clone(), source })?;
        match std::fs::remove_file(mark(&path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(CacheError::Write { path: mark(&path), source: error }.into());
            }
            _ => {}
        }
        Self::open(&path, key).ok_or_else(|| CacheError::Damaged { path }.into())
    }

    /// Opens a file; `None` if it is missing, marked as damaged, or its index or report is damaged.
    fn open(path: &Path, key: &Key) -> Option<Self> {
        let file = File::open(path).ok()?;
        // SAFETY: cache files are never changed in place: they are written elsewhere and renamed.
        let map = unsafe { Mmap::map(&file) }.ok()?;
        if map.len() < HEADER || &map[..8] != MAGIC || map[8..40] != key[..] || mark(path).exists()
        {
            return None;
        }
        let mut offsets = [HEADER; SECTIONS + 1];
        for section in 0..SECTIONS {
            let size = u64::from_le_bytes(map[40 + 8 * section..][..8].try_into().ok()?);
            offsets[section + 1] = offsets[section].checked_add(usize::try_from(size).ok()?)?;
        }
        let end = offsets[SECTIONS];
        let blocks = end.div_ceil(BLOCK);
        let sums_end = end.checked_add(4 * blocks)?;
        if sums_end.checked_add(32)? != map.len() {
            return None;
        }
        let hash = Sha256::new_with_prefix(&map[..HEADER]).chain_update(&map[end..sums_end]);
        if hash.finalize()[..] != map[sums_end..] {
            return None;
        }
        // All of the index is read at once. Without this it would be read piece by piece.
        let _ = map.advise_range(Advice::WillNeed, 0, offsets[LINES]);
        let verified = (0..blocks).map(|_| AtomicBool::new(false)).collect();
        let cache = Self { path: path.to_owned(), map, offsets, verified };
        let index_and_report = [0..offsets[LINES], offsets[REPORT]..end];
        index_and_report.into_iter().all(|range| cache.damaged(range).is_none()).then_some(cache)
    }

    /// The first damaged block of a range of bytes.
    fn damaged(&self, bytes: Range<usize>) -> Option<usize> {
        let end = self.offsets[SECTIONS];
        (bytes.start / BLOCK..bytes.end.div_ceil(BLOCK)).find(|&block| {
            if self.verified[block].load(Ordering::Relaxed) {
                return false;
            }
            let content = &self.map[block * BLOCK..end.min((block + 1) * BLOCK)];
            let is_sound =
                self.map[end + 4 * block..][..4] == crc32fast::hash(content).to_le_bytes();
            self.verified[block].store(is_sound, Ordering::Relaxed);
            !is_sound
        })
    }

    /// A range of a section's bytes, verified.
    fn read(&self, section: usize, bytes: Range<usize>) -> Result<&[u8], CacheError> {
        let start = self.offsets[section];
        let bytes = start + bytes.start..start + bytes.end;
        match self.damaged(bytes.clone()) {
            Some(block) => Err(self.is_damaged(block)),
            None => Ok(&self.map[bytes]),
        }
    }

    /// Marks the file as damaged, and says so.
    fn is_damaged(&self, block: usize) -> CacheError {
        let advice = match File::create(mark(&self.path)) {
            Ok(_) => "The next start makes it again",
            Err(_) => "Remove it, so that the next start makes it again",
        };
        CacheError::Block { path: self.path.clone(), place: block * BLOCK, advice }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.index(SOURCE_ENDS).len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The line that a sample comes from, counted from 1. It is for messages, and not verified.
    pub fn line(&self, sample: usize) -> u64 {
        self.index(LINES)[sample]
    }

    /// A sample's source ids.
    ///
    /// # Errors
    /// They are damaged.
    pub fn source(&self, sample: usize) -> Result<&[u32], CacheError> {
        self.ids(SOURCES, self.source_range(sample))
    }

    /// A sample's target ids.
    ///
    /// # Errors
    /// They are damaged.
    pub fn target(&self, sample: usize) -> Result<&[u32], CacheError> {
        self.ids(TARGETS, self.target_range(sample))
    }

    fn ids(&self, section: usize, ids: Range<usize>) -> Result<&[u32], CacheError> {
        self.read(section, 4 * ids.start..4 * ids.end).map(bytemuck::cast_slice)
    }

    /// The range of a sample's source among the ids of all sources.
    pub fn source_range(&self, sample: usize) -> Range<usize> {
        range(self.index(SOURCE_ENDS), sample)
    }

    /// The range of a sample's target among the ids of all targets.
    pub fn target_range(&self, sample: usize) -> Range<usize> {
        range(self.index(TARGET_ENDS), sample)
    }

    /// How many tokens of a sample's target, without its `[SEP]`, equal the one before.
    ///
    /// # Errors
    /// The number is damaged.
    pub fn repeats(&self, sample: usize) -> Result<u32, CacheError> {
        Ok(self.ids(REPEATS, sample..sample + 1)?[0])
    }

    /// The key of this file.
    pub fn key(&self) -> Key {
        self.map[8..40].try_into().expect("32 bytes")
    }

    /// The texts of a sample's source and target; empty if they are not in the file.
    ///
    /// # Errors
    /// They are damaged.
    pub fn texts(&self, sample: usize) -> Result<(&str, &str), CacheError> {
        let ends = self.index(TEXT_ENDS);
        if ends.is_empty() {
            return Ok(("", ""));
        }
        let text = |index| {
            let text = std::str::from_utf8(self.read(TEXTS, range(ends, index))?);
            text.map_err(|_| {
                self.is_damaged((self.offsets[TEXTS] + range(ends, index).start) / BLOCK)
            })
        };
        Ok((text(2 * sample)?, text(2 * sample + 1)?))
    }

    /// The report that was stored with the samples.
    pub fn report(&self) -> &[u8] {
        &self.map[self.offsets[REPORT]..self.offsets[SECTIONS]]
    }

    /// A section of ends or lines.
    fn index(&self, section: usize) -> &[u64] {
        bytemuck::cast_slice(&self.map[self.offsets[section]..self.offsets[section + 1]])
    }
}

/// The file that marks this one as damaged.
fn mark(path: &Path) -> PathBuf {
    path.with_extension("damaged")
}

fn range(ends: &[u64], index: usize) -> Range<usize> {
    let start = if index == 0 { 0 } else { ends[index - 1] };
    start as usize..ends[index] as usize
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const KEY: Key = [7; 32];

    fn fill(draft: &mut Draft, texts: bool) -> Result<Vec<u8>, CacheError> {
        draft.push(1, &[5, 6, 7], &[8], texts.then_some(("fünf", ""))).unwrap();
        draft.push(4, &[], &[9, 10], texts.then_some(("", "neun zehn"))).unwrap();
        assert_eq!((draft.len(), draft.tokens()), (2, (3, 3)));
        Ok(b"{}".to_vec())
    }

    fn ids(cache: &Cache, sample: usize) -> (&[u32], &[u32]) {
        (cache.source(sample).unwrap(), cache.target(sample).unwrap())
    }

    fn make(folder: &Path) -> Cache {
        Cache::open_or_make(folder, &KEY, |draft| fill(draft, true)).unwrap()
    }

    fn file(folder: &Path) -> PathBuf {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().unwrap() != "lock")
            .collect();
        assert_eq!(files.len(), 1, "no drafts are left behind: {files:?}");
        files.remove(0)
    }

    #[test]
    fn samples_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let cache = make(folder.path());
        assert_eq!((cache.len(), cache.line(0), cache.line(1)), (2, 1, 4));
        assert_eq!(ids(&cache, 0), (&[5, 6, 7][..], &[8][..]));
        assert_eq!(ids(&cache, 1), (&[][..], &[9, 10][..]));
        assert_eq!(cache.texts(0).unwrap(), ("fünf", ""));
        assert_eq!(cache.texts(1).unwrap(), ("", "neun zehn"));
        assert_eq!(cache.report(), b"{}");
    }

    #[test]
    fn equal_neighbours_are_counted_up_to_the_last_token() {
        for (target, expected) in
            [(&[][..], 0), (&[3], 0), (&[5, 6, 5, 3], 0), (&[5, 5, 5, 3], 2), (&[1, 3, 3], 0)]
        {
            assert_eq!(repeats(target), expected, "{target:?}");
        }
    }

    #[test]
    fn samples_and_texts_may_be_empty() {
        let folder = tempfile::tempdir().unwrap();
        let empty = Cache::open_or_make::<CacheError>(folder.path(), &[1; 32], |_| Ok(vec![]));
        assert!(empty.unwrap().is_empty());
        let made = Cache::open_or_make(folder.path(), &[2; 32], |draft| fill(draft, false));
        assert_eq!(made.unwrap().texts(0).unwrap(), ("", ""));
    }

    #[test]
    fn a_cached_file_is_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path());
        let again = Cache::open_or_make::<CacheError>(folder.path(), &KEY, |_| unreachable!());
        assert_eq!(again.unwrap().len(), 2);
    }

    #[test]
    fn damage_anywhere_is_detected_and_repaired() {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path());
        let path = file(folder.path());
        let good = std::fs::read(&path).unwrap();
        let damaged = (0..good.len()).step_by(3).map(|place| {
            let mut bytes = good.clone();
            bytes[place] ^= 1;
            bytes
        });
        let truncated = [0, 7, HEADER - 1, HEADER, good.len() - 1].map(|end| good[..end].to_vec());
        for bytes in damaged.chain(truncated) {
            std::fs::write(&path, &bytes).unwrap();
            assert!(Cache::open(&path, &KEY).is_none());
        }
        make(folder.path());
        assert_eq!(std::fs::read(file(folder.path())).unwrap(), good);
    }

    #[test]
    fn a_damaged_block_is_noticed_when_it_is_read_and_the_file_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let make = || {
            let cache = Cache::open_or_make::<CacheError>(folder.path(), &KEY, |draft| {
                for sample in 0..1000 {
                    draft.push(sample.into(), &[sample; 20], &[sample; 30], None)?;
                }
                Ok(vec![])
            });
            cache.unwrap()
        };
        let read = |cache: &Cache, sample| {
            let found = (cache.repeats(sample)?, cache.source(sample)?, cache.target(sample)?);
            assert_eq!(found, (28, &[sample as u32; 20][..], &[sample as u32; 30][..]));
            Ok::<_, CacheError>(())
        };
        let offsets = make().offsets;
        let path = file(folder.path());
        let good = std::fs::read(&path).unwrap();
        for block in offsets[SOURCES].div_ceil(BLOCK)..offsets[REPORT] / BLOCK {
            let mut bytes = good.clone();
            bytes[block * BLOCK + 4321] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            let cache = Cache::open(&path, &KEY).expect("a sound index");
            let errors: Vec<_> =
                (0..1000).filter_map(|sample| read(&cache, sample).err()).collect();
            assert!((1..1000).contains(&errors.len()), "others can be read");
            let place = format!(
                "{} is damaged in the 16384 bytes from {} on",
                path.display(),
                block * BLOCK
            );
            assert!(errors.iter().all(|error| error.to_string().contains(&place)), "{}", errors[0]);
            let cache = make();
            (0..1000).for_each(|sample| read(&cache, sample).unwrap());
            assert_eq!(std::fs::read(file(folder.path())).unwrap(), good, "and no mark is left");
        }
    }

    #[test]
    fn a_damaged_file_in_a_folder_that_cannot_be_written_is_to_be_removed() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = make(folder.path());
        cache.path = folder.path().join("missing/file");
        let said = cache.is_damaged(0).to_string();
        assert!(said.ends_with("Remove it, so that the next start makes it again"), "{said}");
    }

    #[test]
    fn concurrent_ranks_write_the_file_once() {
        let folder = tempfile::tempdir().unwrap();
        let made = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let cache = Cache::open_or_make(folder.path(), &KEY, |draft| {
                        made.fetch_add(1, Ordering::SeqCst);
                        fill(draft, true)
                    });
                    assert_eq!(cache.unwrap().len(), 2);
                });
            }
        });
        assert_eq!(made.load(Ordering::SeqCst), 1);
        file(folder.path());
    }

    #[test]
    fn a_failure_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let damaged = || CacheError::Damaged { path: PathBuf::new() };
        let result = Cache::open_or_make(folder.path(), &KEY, |_| Err(damaged()));
        assert!(result.is_err());
        make(folder.path());
    }

    #[test]
    fn an_unwritable_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "").unwrap();
        let result = Cache::open_or_make(&path, &KEY, |draft| fill(draft, true));
        assert!(result.unwrap_err().to_string().contains("set data.cache"));
    }
}
