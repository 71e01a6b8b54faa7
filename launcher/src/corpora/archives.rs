//! Archives of corpora: found or downloaded, and verified before they are opened.
//!
//! A checksum in the recipe is required. Without one, the first archive that could be read completely is
//! trusted: its SHA-256 is recorded in `archives.lock` next to the data and required from then on.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use md5::Md5;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tandem_cluster::run::atomic;
use tandem_cluster::run::io_error::{IoContext, IoError};

use super::download::{DownloadError, download, host};
use super::recipe::{Archive, ArchiveKind, UNKNOWN};
use super::unpack::{self, UnpackError};
use crate::terminal::progress::Progress;

/// The file of trusted checksums, in the data folder.
pub(crate) const LOCK: &str = "archives.lock";
/// The folder of downloaded archives, in the data folder.
pub(crate) const CACHE: &str = "archives";
/// The most bytes of an archive of unknown size; no corpus has a file as large.
const MAX_BYTES: u64 = 16 << 30;

/// A checksum that differs from the expected one.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} is not the archive expected by {by}: its {algorithm} is {found}, must be {expected}; {advice}",
    path.display()
)]
pub(crate) struct ChecksumMismatch {
    path: PathBuf,
    /// Where the expected checksum comes from.
    by: String,
    algorithm: &'static str,
    found: String,
    expected: String,
    advice: &'static str,
}

/// Why an archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    /// None of its addresses delivered it.
    #[error(
        "cannot download {name}:\n{}\nWithout a network: download the file on another machine and \
         give its folder with `--from FOLDER`, or a mirror with `--from http://HOST/FOLDER`{}",
        reasons(causes), hint.as_deref().unwrap_or_default()
    )]
    Download {
        /// The archive.
        name: String,
        /// The error of each address.
        causes: Vec<DownloadError>,
        /// Where else to get it, as the end of a sentence.
        hint: Option<String>,
    },
    /// It is not in the folder given with `--from`.
    #[error(
        "{name} is not in {}: looked for {}{}", folder.display(), looked_for.join(", "),
        hint.as_deref().unwrap_or_default()
    )]
    NotInFolder {
        /// The archive.
        name: String,
        folder: PathBuf,
        /// The file names that were tried.
        looked_for: Vec<String>,
        /// Where to get it, as the end of a sentence.
        hint: Option<String>,
    },
    /// It has another checksum than expected.
    #[error(transparent)]
    Checksum(#[from] Box<ChecksumMismatch>),
    /// The lock file is unreadable.
    #[error(
        "{} is not a list of checksums: {reason}; restore it, or remove it to trust the archives again",
        path.display()
    )]
    Lock {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It cannot be extracted from the bundle.
    #[error(transparent)]
    Bundle(#[from] UnpackError),
    /// The file system refuses.
    #[error(transparent)]
    Io(#[from] IoError),
}

fn reasons(causes: &[DownloadError]) -> String {
    causes.iter().map(|cause| format!("  {cause}")).collect::<Vec<_>>().join("\n")
}

/// Where to take archives from instead of their own addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mirror {
    /// A folder on this machine.
    Folder(PathBuf),
    /// The address of a folder on a server.
    Url(String),
}

impl Mirror {
    /// Parses the value of `--from`.
    pub(crate) fn parse(text: &str) -> Self {
        match text.starts_with("http://") || text.starts_with("https://") {
            true => Self::Url(text.trim_end_matches('/').to_owned()),
            false => Self::Folder(text.into()),
        }
    }
}

/// What an archive's checksum was compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Trust {
    /// The checksum in the recipe.
    Pinned,
    /// The checksum in the lock file.
    Locked,
    /// Nothing: there was no checksum yet.
    FirstUse,
}

/// An archive whose checksum is right, as far as it is known.
#[derive(Debug, Clone)]
pub(crate) struct VerifiedArchive {
    /// Its name in the recipe.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
    /// What the SHA-256 was compared with.
    pub trust: Trust,
    /// The address that it was downloaded from, or its path.
    pub origin: String,
}

/// An archive's entry in the lock file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct LockedArchive {
    bytes: u64,
    sha256: String,
    origin: String,
}

/// The archives of a data folder, and their recorded checksums.
#[derive(Debug)]
pub(crate) struct ArchiveCache {
    folder: PathBuf,
    mirror: Option<Mirror>,
    locked: BTreeMap<String, LockedArchive>,
}

impl ArchiveCache {
    /// Opens the cache in a data folder.
    ///
    /// # Errors
    /// A lock file that cannot be read.
    pub(crate) fn open(folder: &Path, mirror: Option<Mirror>) -> Result<Self, ArchiveError> {
        let path = folder.join(LOCK);
        let locked = match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text)
                .map_err(|error| ArchiveError::Lock { path, reason: error.to_string() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(IoError::new("read", path, source).into()),
        };
        Ok(Self { folder: folder.to_owned(), mirror, locked })
    }

    /// Finds an archive, downloading it if necessary, and verifies its checksum.
    ///
    /// # Errors
    /// An archive that cannot be found or downloaded, or that has the wrong checksum.
    pub(crate) fn find(
        &self,
        name: &str,
        archive: &Archive,
        progress: &mut Progress,
    ) -> Result<VerifiedArchive, ArchiveError> {
        let cached = self.folder.join(CACHE).join(name);
        if cached.is_file() {
            let advice = "remove it to download it again, or pin its checksum in the recipe";
            return self.verify(name, archive, cached, None, advice, progress);
        }
        if let Some(Mirror::Folder(folder)) = &self.mirror {
            let path = match in_folder(folder, name, archive) {
                Some(path) => path,
                None => {
                    self.unbundle(folder, name, archive, &cached, progress)?;
                    cached
                }
            };
            let advice = "give another folder, or pin its checksum in the recipe";
            return self.verify(name, archive, path, None, advice, progress);
        }
        let (part, url) = self.download(name, archive, &cached, progress)?;
        let advice = "it was deleted. If the corpus was republished, pin the new checksum in the \
                      recipe; otherwise give another mirror with `--from`";
        let verified = self.verify(name, archive, part.clone(), Some(url), advice, progress);
        let mut verified = match verified {
            Ok(verified) => verified,
            Err(error) => {
                let _ = fs::remove_file(&part);
                return Err(error);
            }
        };
        fs::rename(&part, &cached).tried("write", &cached)?;
        verified.path = cached;
        Ok(verified)
    }

    /// Records the checksums of archives that were read completely and without errors.
    ///
    /// # Errors
    /// A lock file that cannot be written.
    pub(crate) fn trust(&mut self, archives: &[VerifiedArchive]) -> Result<(), ArchiveError> {
        for VerifiedArchive { name, bytes, sha256, origin, .. } in archives {
            let (bytes, sha256, origin) = (*bytes, sha256.clone(), origin.clone());
            self.locked.insert(name.clone(), LockedArchive { bytes, sha256, origin });
        }
        let path = self.folder.join(LOCK);
        let text = serde_json::to_string_pretty(&self.locked).unwrap_or_default() + "\n";
        Ok(atomic::write(&path, &text)?)
    }

    /// Compares a file with every known checksum.
    fn verify(
        &self,
        name: &str,
        archive: &Archive,
        path: PathBuf,
        url: Option<String>,
        advice: &'static str,
        progress: &mut Progress,
    ) -> Result<VerifiedArchive, ArchiveError> {
        let Checksums { bytes, sha256, md5 } =
            checksums(&path, archive.md5.is_some()).tried("read", &path)?;
        let mismatch = |by: String, algorithm, found: &str, expected: &str| {
            let (found, expected) = (found.to_owned(), expected.to_owned());
            let path = path.clone();
            Box::new(ChecksumMismatch { path, by, algorithm, found, expected, advice })
        };
        let mut trust = Trust::FirstUse;
        if archive.sha256 != UNKNOWN {
            if sha256 != archive.sha256 {
                return Err(
                    mismatch("the recipe".into(), "SHA-256", &sha256, &archive.sha256).into()
                );
            }
            trust = Trust::Pinned;
        }
        if let Some(expected) = &archive.md5 {
            if md5 != *expected {
                return Err(mismatch("the recipe".into(), "MD5", &md5, expected).into());
            }
            trust = Trust::Pinned;
        }
        if archive.sha256 == UNKNOWN
            && let Some(known) = self.locked.get(name)
        {
            if known.sha256 != sha256 {
                let by = format!(
                    "{} (first used from {})",
                    self.folder.join(LOCK).display(),
                    known.origin
                );
                return Err(mismatch(by, "SHA-256", &sha256, &known.sha256).into());
            }
            if trust == Trust::FirstUse {
                trust = Trust::Locked;
            }
        }
        if let Some(expected) = archive.bytes.filter(|expected| *expected != bytes) {
            progress.say(&format!(
                "warning: {} has {bytes} bytes, the recipe says {expected}",
                path.display()
            ));
        }
        let origin = url.unwrap_or_else(|| match self.locked.get(name) {
            Some(known) if known.sha256 == sha256 => known.origin.clone(),
            _ => path.display().to_string(),
        });
        Ok(VerifiedArchive { name: name.to_owned(), path, bytes, sha256, trust, origin })
    }

    /// Downloads an archive from the first address that delivers it, and returns the file and the
    /// address.
    fn download(
        &self,
        name: &str,
        archive: &Archive,
        cached: &Path,
        progress: &mut Progress,
    ) -> Result<(PathBuf, String), ArchiveError> {
        let folder = self.folder.join(CACHE);
        fs::create_dir_all(&folder).tried("make", &folder)?;
        let part = cached.with_added_extension("part");
        let urls = match &self.mirror {
            Some(Mirror::Url(mirror)) => {
                names(name, archive).iter().map(|name| format!("{mirror}/{name}")).collect()
            }
            _ => archive.urls.clone(),
        };
        // Some hosts compress again, so the file may be a little larger than the recipe says.
        let limit = archive.bytes.map_or(MAX_BYTES, |bytes| bytes + bytes / 4 + (1 << 20));
        let mut causes = Vec::new();
        for url in urls {
            progress.say(&format!("downloading {name} from {url}"));
            let mut show = |have: u64, total: Option<u64>| {
                let total = total.or(archive.bytes);
                let of = total.map_or(String::new(), |total| format!(" of {}", mebibytes(total)));
                progress
                    .show_line(&format!("{name}: {}{of}", mebibytes(have)), total == Some(have));
            };
            match download(&url, &part, limit, &mut show) {
                Ok(()) if is_archive(&part, name).tried("read", &part)? => return Ok((part, url)),
                Ok(()) => {
                    let _ = fs::remove_file(&part);
                    causes.push(DownloadError::NotAnArchive { url });
                }
                Err(error @ (DownloadError::Unreachable { .. } | DownloadError::Status { .. })) => {
                    causes.push(error);
                }
                Err(error) => {
                    if let DownloadError::TooLarge { .. } = error {
                        let _ = fs::remove_file(&part);
                    }
                    return Err(ArchiveError::Download {
                        name: name.to_owned(),
                        causes: vec![error],
                        hint: None,
                    });
                }
            }
        }
        let (name, hint) = (name.to_owned(), hint(archive));
        Err(ArchiveError::Download { name, causes, hint })
    }

    /// Extracts an archive from the larger one that a folder has.
    fn unbundle(
        &self,
        folder: &Path,
        name: &str,
        archive: &Archive,
        cached: &Path,
        progress: &mut Progress,
    ) -> Result<(), ArchiveError> {
        let bundle = archive.bundle.as_ref();
        let Some((bundle, path)) = bundle
            .map(|bundle| (bundle, folder.join(&bundle.file)))
            .filter(|(_, path)| path.is_file())
        else {
            let mut looked_for = names(name, archive);
            looked_for.extend(bundle.map(|bundle| bundle.file.clone()));
            let (name, folder) = (name.to_owned(), folder.to_owned());
            return Err(ArchiveError::NotInFolder {
                name,
                folder,
                looked_for,
                hint: hint(archive),
            });
        };
        progress.say(&format!("taking {} out of {}", bundle.member, path.display()));
        let cache = self.folder.join(CACHE);
        fs::create_dir_all(&cache).tried("make", &cache)?;
        let part = cached.with_added_extension("part");
        let kind = ArchiveKind::of(&bundle.file).unwrap_or(ArchiveKind::TarGzip);
        let wanted = [(bundle.member.clone(), part.clone())];
        // As it is: what is packed inside stays packed.
        let missing = unpack::members(&path, kind, &wanted, unpack::Compressed::Keep)?;
        missing.into_result(&path)?;
        Ok(fs::rename(&part, cached).tried("write", cached)?)
    }
}

/// Where else to get an archive, as the end of a message.
fn hint(archive: &Archive) -> Option<String> {
    let bundle = archive.bundle.as_ref()?;
    let page = bundle.page.as_ref().map_or(String::new(), |page| format!(", from {page}"));
    Some(format!("; {} works as well{page}", bundle.file))
}

/// The file names that an archive may have: its name in the recipe, and the last parts of its addresses.
fn names(name: &str, archive: &Archive) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    for url in &archive.urls {
        let last = url.split(['/', '=']).next_back().unwrap_or_default();
        if !last.is_empty() && !names.iter().any(|known| known == last) {
            names.push(last.to_owned());
        }
    }
    names
}

fn in_folder(folder: &Path, name: &str, archive: &Archive) -> Option<PathBuf> {
    names(name, archive).into_iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

/// Whether a file begins like an archive of its name: some hosts answer with a web page instead.
fn is_archive(path: &Path, name: &str) -> io::Result<bool> {
    let mut start = [0; 2];
    let read = File::open(path)?.read(&mut start)?;
    Ok(match ArchiveKind::of(name) {
        // tar has no mark at its start, a page has.
        Some(ArchiveKind::Tar) => start[0] != b'<',
        _ => read == 2 && start == [0x1f, 0x8b],
    })
}

struct Checksums {
    bytes: u64,
    sha256: String,
    md5: String,
}

fn checksums(path: &Path, with_md5: bool) -> io::Result<Checksums> {
    let mut file = File::open(path)?;
    let (mut sha256, mut md5, mut bytes) = (Sha256::new(), Md5::new(), 0);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        sha256.update(&buffer[..count]);
        if with_md5 {
            md5.update(&buffer[..count]);
        }
        bytes += count as u64;
    }
    Ok(Checksums {
        bytes,
        sha256: hex::encode(sha256.finalize()),
        md5: hex::encode(md5.finalize()),
    })
}

/// Formats a size: `1616.5 MiB`.
pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The hosts that a recipe's archives come from.
pub(crate) fn hosts<'a>(archives: impl Iterator<Item = &'a Archive>) -> Vec<String> {
    let mut hosts: Vec<String> =
        archives.flat_map(|archive| &archive.urls).map(|url| host(url)).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}
