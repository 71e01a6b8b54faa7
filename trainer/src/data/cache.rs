//! A cache of tokenised text, memory-mapped: written once, shared by all ranks and later runs.
//!
//! A file's name is a key that hashes all of its inputs. It is written to a temporary file and renamed, so that
//! an incomplete one is never read. Ranks that need the same file at the same time use a file lock; if locks do
//! not work, each writes an identical file and the last one stays.
//!
//! Layout, little-endian: magic, key, six counts and the SHA-256 of the rest; then lines, ends of
//! sources, of targets and of texts (u64 each), ids of sources and of targets (u32), texts, report.

use std::fs::{File, TryLockError};
use std::io::{self, BufWriter, Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use memmap2::Mmap;
use sha2::{Digest, Sha256};
use tandem_cluster::run::atomic;

const MAGIC: &[u8; 8] = b"TANDEM01";
const HEADER: usize = 8 + 32 + 6 * 8 + 32;
/// How long to wait for another process that writes the same file.
const LOCK_DEADLINE: Duration = Duration::from_secs(1800);
const LOCK_POLL: Duration = Duration::from_millis(50);

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
}

/// The hash of all inputs of a cache file.
pub type Key = [u8; 32];

/// The samples of a cache file before it is written, in a file without a name for each section: a text may be
/// larger than memory.
#[derive(Debug)]
pub struct Draft {
    folder: PathBuf,
    lines: Section,
    source_ends: Section,
    target_ends: Section,
    text_ends: Section,
    sources: Section,
    targets: Section,
    texts: Section,
}

/// Values of one type, one behind the other.
#[derive(Debug)]
struct Section {
    file: BufWriter<File>,
    count: u64,
}

impl Section {
    fn new(folder: &Path) -> io::Result<Self> {
        Ok(Self { file: BufWriter::new(tempfile::tempfile_in(folder)?), count: 0 })
    }

    fn extend<T: bytemuck::NoUninit>(&mut self, values: &[T]) -> io::Result<()> {
        self.count += values.len() as u64;
        self.file.write_all(bytemuck::cast_slice(values))
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
        let section = || Section::new(folder);
        Ok(Self {
            folder: folder.to_owned(),
            lines: section()?,
            source_ends: section()?,
            target_ends: section()?,
            text_ends: section()?,
            sources: section()?,
            targets: section()?,
            texts: section()?,
        })
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
        self.lines.extend(&[line])?;
        self.sources.extend(source)?;
        self.source_ends.extend(&[self.sources.count])?;
        self.targets.extend(target)?;
        self.target_ends.extend(&[self.targets.count])?;
        for text in texts.into_iter().flat_map(|(source, target)| [source, target]) {
            self.texts.extend(text.as_bytes())?;
            self.text_ends.extend(&[self.texts.count])?;
        }
        Ok(())
    }

    /// Number of samples.
    pub fn len(&self) -> u64 {
        self.lines.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers of source and target tokens.
    pub fn tokens(&self) -> (u64, u64) {
        (self.sources.count, self.targets.count)
    }

    fn write(&mut self, file: &mut impl Write, key: &Key, report: &[u8]) -> io::Result<()> {
        let counts = [
            self.lines.count,
            self.text_ends.count,
            self.sources.count,
            self.targets.count,
            self.texts.count,
            report.len() as u64,
        ];
        let mut start = MAGIC.to_vec();
        start.extend_from_slice(key);
        for count in counts {
            start.extend_from_slice(&count.to_le_bytes());
        }
        let mut hash = Sha256::new_with_prefix(&start);
        self.copy(&mut hash)?;
        hash.update(report);
        file.write_all(&start)?;
        file.write_all(&hash.finalize())?;
        self.copy(file)?;
        file.write_all(report)
    }

    fn copy(&mut self, to: &mut impl Write) -> io::Result<()> {
        let sections = [
            &mut self.lines,
            &mut self.source_ends,
            &mut self.target_ends,
            &mut self.text_ends,
            &mut self.sources,
            &mut self.targets,
            &mut self.texts,
        ];
        sections.into_iter().try_for_each(|section| section.copy(to))
    }
}

/// A verified, memory-mapped cache file.
#[derive(Debug)]
pub struct Cache {
    map: Mmap,
    samples: usize,
    /// The offset of each section, and the end.
    offsets: [usize; 9],
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
        wait_for_turn(&lock);
        // Another process may have written it in the meantime.
        if let Some(cache) = Self::open(&path, key) {
            return Ok(cache);
        }
        let mut draft = Draft::new(folder).map_err(failed)?;
        let report = make(&mut draft)?;
        atomic::replace(&path, |file| draft.write(file, key, &report))
            .map_err(|source| CacheError::Write { path: path.clone(), source })?;
        Self::open(&path, key).ok_or_else(|| CacheError::Damaged { path }.into())
    }

    /// Opens a file; `None` if it is missing or damaged.
    fn open(path: &Path, key: &Key) -> Option<Self> {
        let file = File::open(path).ok()?;
        // SAFETY: cache files are never changed in place: they are written elsewhere and renamed.
        let map = unsafe { Mmap::map(&file) }.ok()?;
        if map.len() < HEADER || &map[..8] != MAGIC || map[8..40] != key[..] {
            return None;
        }
        let count = |index: usize| {
            let bytes = map[40 + 8 * index..][..8].try_into().ok()?;
            usize::try_from(u64::from_le_bytes(bytes)).ok()
        };
        let samples = count(0)?;
        let wide = |count: usize| count.checked_mul(8);
        let narrow = |count: usize| count.checked_mul(4);
        let sizes = [
            wide(samples)?,
            wide(samples)?,
            wide(samples)?,
            wide(count(1)?)?,
            narrow(count(2)?)?,
            narrow(count(3)?)?,
            count(4)?,
            count(5)?,
        ];
        let mut offsets = [HEADER; 9];
        for (section, size) in sizes.into_iter().enumerate() {
            offsets[section + 1] = offsets[section].checked_add(size)?;
        }
        if offsets[8] != map.len() {
            return None;
        }
        let hash = Sha256::new().chain_update(&map[..HEADER - 32]).chain_update(&map[HEADER..]);
        if hash.finalize()[..] != map[HEADER - 32..HEADER] {
            return None;
        }
        Some(Self { map, samples, offsets })
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.samples
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.samples == 0
    }

    /// The line that a sample comes from, counted from 1.
    pub fn line(&self, sample: usize) -> u64 {
        self.wide(0)[sample]
    }

    /// A sample's source ids.
    pub fn source(&self, sample: usize) -> &[u32] {
        &bytemuck::cast_slice(self.section(4))[range(self.wide(1), sample)]
    }

    /// A sample's target ids.
    pub fn target(&self, sample: usize) -> &[u32] {
        &bytemuck::cast_slice(self.section(5))[self.target_range(sample)]
    }

    /// The range of a sample's target among the ids of all targets.
    pub fn target_range(&self, sample: usize) -> Range<usize> {
        range(self.wide(2), sample)
    }

    /// The key of this file.
    pub fn key(&self) -> Key {
        self.map[8..40].try_into().expect("32 bytes")
    }

    /// The texts of a sample's source and target, if they are in the file.
    pub fn texts(&self, sample: usize) -> Option<(&str, &str)> {
        let ends = self.wide(3);
        let text = |index| std::str::from_utf8(&self.section(6)[range(ends, index)]).ok();
        if ends.is_empty() {
            return None;
        }
        Some((text(2 * sample)?, text(2 * sample + 1)?))
    }

    /// The report that was stored with the samples.
    pub fn report(&self) -> &[u8] {
        self.section(7)
    }

    fn section(&self, section: usize) -> &[u8] {
        &self.map[self.offsets[section]..self.offsets[section + 1]]
    }

    fn wide(&self, section: usize) -> &[u64] {
        bytemuck::cast_slice(self.section(section))
    }
}

fn range(ends: &[u64], index: usize) -> Range<usize> {
    let start = if index == 0 { 0 } else { ends[index - 1] };
    start as usize..ends[index] as usize
}

/// Waits until no other process writes the same file. After the deadline, or if the file system has no locks,
/// the file is written twice, with the same content.
pub(crate) fn wait_for_turn(lock: &File) {
    let start = Instant::now();
    while let Err(TryLockError::WouldBlock) = lock.try_lock() {
        if start.elapsed() > LOCK_DEADLINE {
            return;
        }
        std::thread::sleep(LOCK_POLL);
    }
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
        assert_eq!((cache.source(0), cache.target(0)), (&[5, 6, 7][..], &[8][..]));
        assert_eq!((cache.source(1), cache.target(1)), (&[][..], &[9, 10][..]));
        assert_eq!(cache.texts(0), Some(("fünf", "")));
        assert_eq!(cache.texts(1), Some(("", "neun zehn")));
        assert_eq!(cache.report(), b"{}");
    }

    #[test]
    fn samples_and_texts_may_be_empty() {
        let folder = tempfile::tempdir().unwrap();
        let empty = Cache::open_or_make::<CacheError>(folder.path(), &[1; 32], |_| Ok(vec![]));
        assert!(empty.unwrap().is_empty());
        let made = Cache::open_or_make(folder.path(), &[2; 32], |draft| fill(draft, false));
        assert_eq!(made.unwrap().texts(0), None);
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
