//! Extracts members of archives to files that the caller names; paths in an archive are never used.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::recipe::ArchiveKind;

/// Text does not compress to less than a fiftieth: anything beyond is a decompression bomb.
const MAX_RATIO: u64 = 50;
/// The most bytes that a small archive may unpack to, whatever its ratio.
const MIN_LIMIT: u64 = 1 << 28;
/// How many names of present members an error lists.
const MAX_LISTED: usize = 10;

/// Why an archive cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// The archive is damaged or truncated.
    #[error("{} is damaged: {source}; remove it and download it again", path.display())]
    Damaged {
        /// The archive.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It is another archive than expected.
    #[error(
        "{} has no {}; it has: {}; it is not the archive that the recipe describes", path.display(),
        missing.join(", "), if present.is_empty() { "nothing".into() } else { present.join(", ") }
    )]
    Missing {
        /// The archive.
        path: PathBuf,
        /// The members that it lacks.
        missing: Vec<String>,
        /// Some of the members that it has.
        present: Vec<String>,
    },
    /// The archive has a malicious member.
    #[error("{} cannot be trusted: its member {member} {what}", path.display())]
    Unsafe {
        /// The archive.
        path: PathBuf,
        member: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A file cannot be written, usually because the disk is full.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// What to do with members that end in `.gz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compressed {
    /// Decompress them.
    Decompress,
    /// Write them as they are.
    Keep,
}

/// The wanted members that an archive lacks.
#[derive(Debug, Default)]
pub(crate) struct Missing {
    /// Wanted members that the archive lacks.
    pub names: Vec<String>,
    /// Some of the members that it has.
    present: Vec<String>,
}

impl Missing {
    /// Turns missing members into an error.
    ///
    /// # Errors
    /// At least one member is missing.
    pub(crate) fn into_result(self, path: &Path) -> Result<(), UnpackError> {
        match self.names.is_empty() {
            true => Ok(()),
            false => Err(UnpackError::Missing {
                path: path.to_owned(),
                missing: self.names,
                present: self.present,
            }),
        }
    }
}

/// Writes each wanted member (by name) to the file given with it. The archive is read to its end, so
/// that damage after the last wanted member is found, too.
///
/// # Errors
/// A damaged archive, members with paths outside of it, links, or a full disk.
pub(crate) fn members(
    archive: &Path,
    kind: ArchiveKind,
    wanted: &[(String, PathBuf)],
    compressed: Compressed,
) -> Result<Missing, UnpackError> {
    let damaged = |source| UnpackError::Damaged { path: archive.to_owned(), source };
    let file = File::open(archive).map_err(damaged)?;
    let limit = file.metadata().map_err(damaged)?.len().saturating_mul(MAX_RATIO).max(MIN_LIMIT);
    let packed = BufReader::new(file);
    let unpacked: Box<dyn Read> = match kind {
        ArchiveKind::Tar => Box::new(packed),
        ArchiveKind::TarGzip | ArchiveKind::Gzip => Box::new(MultiGzDecoder::new(packed)),
    };
    let mut tar = tar::Archive::new(Limited { source: unpacked, left: limit });
    let mut wanted: BTreeMap<&str, &Path> =
        wanted.iter().map(|(name, path)| (name.as_str(), path.as_path())).collect();
    let mut missing = Missing::default();
    for entry in tar.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let name = name(&entry.path_bytes());
        let is_unsafe = |what| {
            let (path, member) = (archive.to_owned(), name.clone());
            UnpackError::Unsafe { path, member, what }
        };
        let outside = |part: Component| !matches!(part, Component::Normal(_) | Component::CurDir);
        if Path::new(&name).components().any(outside) {
            return Err(is_unsafe("lies outside of it"));
        }
        let entry_type = entry.header().entry_type();
        if entry_type.is_file() && missing.present.len() < MAX_LISTED {
            missing.present.push(name.clone());
        }
        let Some(target) = wanted.remove(name.as_str()) else { continue };
        if !entry_type.is_file() {
            return Err(is_unsafe("is a link or a folder, must be a file"));
        }
        match compressed == Compressed::Decompress && name.ends_with(".gz") {
            true => {
                let member = MultiGzDecoder::new(entry);
                copy(Limited { source: member, left: limit }, target, damaged)?;
            }
            false => copy(&mut entry, target, damaged)?,
        }
    }
    io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(damaged)?;
    missing.names = wanted.into_keys().map(str::to_owned).collect();
    Ok(missing)
}

/// Decompresses an archive that is a single compressed file.
///
/// # Errors
/// A damaged archive or a full disk.
pub(crate) fn single_file(archive: &Path, target: &Path) -> Result<(), UnpackError> {
    let damaged = |source| UnpackError::Damaged { path: archive.to_owned(), source };
    let file = File::open(archive).map_err(damaged)?;
    let limit = file.metadata().map_err(damaged)?.len().saturating_mul(MAX_RATIO).max(MIN_LIMIT);
    let unpacked = MultiGzDecoder::new(BufReader::new(file));
    copy(Limited { source: unpacked, left: limit }, target, damaged)
}

/// A member's path, as recipes write it.
fn name(path: &[u8]) -> String {
    let name = String::from_utf8_lossy(path).into_owned();
    name.strip_prefix("./").map_or(name.clone(), str::to_owned)
}

fn copy(
    mut source: impl Read,
    target: &Path,
    damaged: impl Fn(io::Error) -> UnpackError,
) -> Result<(), UnpackError> {
    let failed = |source| UnpackError::Write { path: target.to_owned(), source };
    let mut file = BufWriter::new(File::create(target).map_err(failed)?);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => file.write_all(&buffer[..count]).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(damaged(error)),
        }
    }
    file.flush().map_err(failed)
}

/// A reader that fails after more bytes than its limit.
struct Limited<R> {
    source: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| io::Error::other("it unpacks to absurdly many bytes"))?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tempfile::TempDir;

    use super::*;

    fn header(size: usize, entry_type: tar::EntryType) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_size(size as u64);
        header.set_mode(0o644);
        header.set_entry_type(entry_type);
        header
    }

    /// An archive of files with any names, even those that the `tar` crate would refuse.
    fn tgz(folder: &TempDir, members: &[(&str, &[u8])]) -> PathBuf {
        let path = folder.path().join("a.tgz");
        let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, content) in members {
            let mut header = header(content.len(), tar::EntryType::Regular);
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, *content).unwrap();
        }
        std::fs::write(&path, tar.into_inner().unwrap().finish().unwrap()).unwrap();
        path
    }

    fn take(archive: &Path, folder: &TempDir, names: &[&str]) -> Result<Missing, UnpackError> {
        let target = |name: &str| folder.path().join(name.replace('/', "_"));
        let wanted: Vec<_> = names.iter().map(|name| ((*name).into(), target(name))).collect();
        members(archive, ArchiveKind::TarGzip, &wanted, Compressed::Decompress)
    }

    #[test]
    fn only_wanted_members_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all("größe".as_bytes()).unwrap();
        let packed = packed.finish().unwrap();
        let archive =
            tgz(&folder, &[("./d/a.de", b"eins"), ("d/b.gz", &packed), ("d/other", b"x")]);
        let missing = take(&archive, &folder, &["d/a.de", "d/b.gz", "d/none"]).unwrap();
        assert_eq!(missing.names, ["d/none"]);
        assert_eq!(std::fs::read(folder.path().join("d_a.de")).unwrap(), b"eins");
        assert_eq!(std::fs::read(folder.path().join("d_b.gz")).unwrap(), "größe".as_bytes());
        assert!(!folder.path().join("d_other").exists());
        let error = missing.into_result(&archive).unwrap_err().to_string();
        assert!(error.contains("has no d/none; it has: d/a.de, d/b.gz, d/other"), "{error}");
    }

    #[test]
    fn members_with_paths_outside_are_refused() {
        for name in ["../evil", "d/../../evil", "/tmp/evil"] {
            let folder = tempfile::tempdir().unwrap();
            let archive = tgz(&folder, &[(name, b"x"), ("a", b"x")]);
            let error = take(&archive, &folder, &["a"]).unwrap_err().to_string();
            assert!(error.contains(&format!("member {name} lies outside")), "{error}");
        }
    }

    #[test]
    fn links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = header(0, tar::EntryType::Symlink);
        tar.append_link(&mut header, "a", "/etc/passwd").unwrap();
        let path = folder.path().join("a.tar");
        std::fs::write(&path, tar.into_inner().unwrap()).unwrap();
        let wanted = [("a".to_owned(), folder.path().join("out"))];
        let error = members(&path, ArchiveKind::Tar, &wanted, Compressed::Decompress)
            .unwrap_err()
            .to_string();
        assert!(error.contains("is a link or a folder"), "{error}");
        assert!(!folder.path().join("out").exists());
    }

    #[test]
    fn damage_is_found_anywhere_in_the_archive() {
        let folder = tempfile::tempdir().unwrap();
        let long: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let archive = tgz(&folder, &[("a", b"x"), ("long", &long)]);
        let good = std::fs::read(&archive).unwrap();
        let mut flipped = good.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0x55;
        // Truncated in the middle, truncated in the checksum at the end, changed in the middle.
        for bytes in [&good[..good.len() / 2], &good[..good.len() - 4], &flipped] {
            std::fs::write(&archive, bytes).unwrap();
            let error = take(&archive, &folder, &["a"]).unwrap_err().to_string();
            assert!(error.contains("a.tgz is damaged"), "{error}");
        }
    }

    #[test]
    fn bombs_do_not_fill_the_disk() {
        let mut source = Limited { source: io::repeat(0).take(100), left: 99 };
        let error = io::copy(&mut source, &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("absurdly many"));
        assert_eq!(
            io::copy(&mut Limited { source: &b"ab"[..], left: 2 }, &mut io::sink()).unwrap(),
            2
        );
    }
}
