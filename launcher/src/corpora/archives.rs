//! Archives: found or fetched, and checked before anybody looks into them.
//!
//! A checksum in the recipe binds. Without one, the first archive that could be used to its end is
//! trusted: its SHA-256 goes into `archives.lock` beside the data and binds from then on.

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

/// The file of trusted checksums, in the folder of the data.
pub const LOCK: &str = "archives.lock";
/// Where fetched archives are kept, in the folder of the data.
pub const SHELF: &str = "archives";
/// An archive of unknown size may have so many bytes; none of the corpora has a file as large.
const MAX_BYTES: u64 = 16 << 30;

/// A checksum that is not the one that it must be.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} is not the archive that {by} means: its {algorithm} is {found}, must be {expected}; {advice}",
    path.display()
)]
pub struct Changed {
    /// The file.
    pub path: PathBuf,
    /// Who says so.
    pub by: String,
    /// Of the checksum.
    pub algorithm: &'static str,
    /// What it is.
    pub found: String,
    /// What it must be.
    pub expected: String,
    /// What can be done.
    pub advice: &'static str,
}

/// Why an archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// No way to fetch it.
    #[error(
        "{name} cannot be fetched:\n{}\nWithout a network: fetch the file on another machine and \
         give its folder with `--from FOLDER`, or a mirror with `--from http://HOST/FOLDER`{}",
        reasons(causes), hint.as_deref().unwrap_or_default()
    )]
    Unfetched {
        /// The archive.
        name: String,
        /// What each address answered.
        causes: Vec<DownloadError>,
        /// Where else it can be had.
        hint: Option<String>,
    },
    /// It is not in the folder that was given.
    #[error(
        "{name} is not in {}: looked for {}{}", folder.display(), looked_for.join(", "),
        hint.as_deref().unwrap_or_default()
    )]
    NotThere {
        /// The archive.
        name: String,
        /// The folder.
        folder: PathBuf,
        /// File names that would do.
        looked_for: Vec<String>,
        /// Where it can be had.
        hint: Option<String>,
    },
    /// It is another one.
    #[error(transparent)]
    Changed(#[from] Box<Changed>),
    /// The lock file is unreadable.
    #[error("{} is not a list of checksums: {reason}; restore it, or remove it to trust anew", path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The bundle does not hold it.
    #[error(transparent)]
    Bundle(#[from] UnpackError),
    /// The file system refuses.
    #[error(transparent)]
    Io(#[from] IoError),
}

fn reasons(causes: &[DownloadError]) -> String {
    causes.iter().map(|cause| format!("  {cause}")).collect::<Vec<_>>().join("\n")
}

/// Where archives come from instead of their own addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Supplier {
    /// A folder on this machine.
    Folder(PathBuf),
    /// An address below which all of them lie.
    Mirror(String),
}

impl Supplier {
    /// Of what a person typed.
    pub fn parse(text: &str) -> Self {
        match text.starts_with("http://") || text.starts_with("https://") {
            true => Self::Mirror(text.trim_end_matches('/').to_owned()),
            false => Self::Folder(text.into()),
        }
    }
}

/// What an archive's checksum was held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// A checksum in the recipe.
    Pinned,
    /// The lock file's, of an earlier use.
    Locked,
    /// Nothing: it was the first of its name.
    FirstUse,
}

/// An archive that may be opened.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its name in the recipe.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
    /// What it was held against.
    pub trust: Trust,
    /// Its address or path.
    pub origin: String,
}

/// What the lock file remembers of an archive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Remembered {
    bytes: u64,
    sha256: String,
    origin: String,
}

/// The archives of a folder of data.
#[derive(Debug)]
pub struct Shelf {
    folder: PathBuf,
    from: Option<Supplier>,
    remembered: BTreeMap<String, Remembered>,
}

impl Shelf {
    /// Of the folder in which the data lie.
    ///
    /// # Errors
    /// A lock file that cannot be read.
    pub fn open(folder: &Path, from: Option<Supplier>) -> Result<Self, ArchiveError> {
        let path = folder.join(LOCK);
        let remembered = match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text)
                .map_err(|error| ArchiveError::Lock { path, reason: error.to_string() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(IoError::new("read", path, source).into()),
        };
        Ok(Self { folder: folder.to_owned(), from, remembered })
    }

    /// An archive, fetched if need be, with the right checksum.
    ///
    /// # Errors
    /// It is not to be had, or another one.
    pub fn find(
        &self,
        name: &str,
        archive: &Archive,
        progress: &mut Progress,
    ) -> Result<Found, ArchiveError> {
        let kept = self.folder.join(SHELF).join(name);
        if kept.is_file() {
            let advice = "remove it to fetch it again, or pin its checksum in the recipe";
            return self.check(name, archive, kept, None, advice, progress);
        }
        if let Some(Supplier::Folder(folder)) = &self.from {
            let path = match in_folder(folder, name, archive) {
                Some(path) => path,
                None => {
                    self.unbundle(folder, name, archive, &kept, progress)?;
                    kept
                }
            };
            let advice = "give another folder, or pin its checksum in the recipe";
            return self.check(name, archive, path, None, advice, progress);
        }
        let (part, url) = self.fetch(name, archive, &kept, progress)?;
        let advice = "it was not kept. If the corpus was republished, pin the new checksum in the \
                      recipe; else give another mirror with `--from`";
        let checked = self.check(name, archive, part.clone(), Some(url), advice, progress);
        let mut found = match checked {
            Ok(found) => found,
            Err(error) => {
                let _ = fs::remove_file(&part);
                return Err(error);
            }
        };
        fs::rename(&part, &kept).tried("write", &kept)?;
        found.path = kept;
        Ok(found)
    }

    /// Remembers archives that were read to their end without a fault.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn trust(&mut self, archives: &[Found]) -> Result<(), ArchiveError> {
        for Found { name, bytes, sha256, origin, .. } in archives {
            let (bytes, sha256, origin) = (*bytes, sha256.clone(), origin.clone());
            self.remembered.insert(name.clone(), Remembered { bytes, sha256, origin });
        }
        let path = self.folder.join(LOCK);
        let text = serde_json::to_string_pretty(&self.remembered).unwrap_or_default() + "\n";
        Ok(atomic::write(&path, &text)?)
    }

    /// Holds a file against every checksum that is known.
    fn check(
        &self,
        name: &str,
        archive: &Archive,
        path: PathBuf,
        url: Option<String>,
        advice: &'static str,
        progress: &mut Progress,
    ) -> Result<Found, ArchiveError> {
        let Checksums { bytes, sha256, md5 } =
            checksums(&path, archive.md5.is_some()).tried("read", &path)?;
        let changed = |by: String, algorithm, found: &str, expected: &str| {
            let (found, expected) = (found.to_owned(), expected.to_owned());
            let path = path.clone();
            Box::new(Changed { path, by, algorithm, found, expected, advice })
        };
        let mut trust = Trust::FirstUse;
        if archive.sha256 != UNKNOWN {
            if sha256 != archive.sha256 {
                return Err(
                    changed("the recipe".into(), "SHA-256", &sha256, &archive.sha256).into()
                );
            }
            trust = Trust::Pinned;
        }
        if let Some(expected) = &archive.md5 {
            if md5 != *expected {
                return Err(changed("the recipe".into(), "MD5", &md5, expected).into());
            }
            trust = Trust::Pinned;
        }
        if archive.sha256 == UNKNOWN
            && let Some(known) = self.remembered.get(name)
        {
            if known.sha256 != sha256 {
                let by = format!(
                    "{} (first used from {})",
                    self.folder.join(LOCK).display(),
                    known.origin
                );
                return Err(changed(by, "SHA-256", &sha256, &known.sha256).into());
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
        let origin = url.unwrap_or_else(|| match self.remembered.get(name) {
            Some(known) if known.sha256 == sha256 => known.origin.clone(),
            _ => path.display().to_string(),
        });
        Ok(Found { name: name.to_owned(), path, bytes, sha256, trust, origin })
    }

    /// Fetches an archive from the first address that gives it; answers the file and the address.
    fn fetch(
        &self,
        name: &str,
        archive: &Archive,
        kept: &Path,
        progress: &mut Progress,
    ) -> Result<(PathBuf, String), ArchiveError> {
        let folder = self.folder.join(SHELF);
        fs::create_dir_all(&folder).tried("make", &folder)?;
        let part = kept.with_added_extension("part");
        let urls = match &self.from {
            Some(Supplier::Mirror(mirror)) => {
                names(name, archive).iter().map(|name| format!("{mirror}/{name}")).collect()
            }
            _ => archive.urls.clone(),
        };
        // Some hosts compress anew: a little more than the known size is no reason to give up.
        let limit = archive.bytes.map_or(MAX_BYTES, |bytes| bytes + bytes / 4 + (1 << 20));
        let mut causes = Vec::new();
        for url in urls {
            progress.say(&format!("fetching {name} from {url}"));
            let mut show = |have: u64, total: Option<u64>| {
                let total = total.or(archive.bytes);
                let of = total.map_or(String::new(), |total| format!(" of {}", mebibytes(total)));
                progress
                    .show_line(&format!("{name}: {}{of}", mebibytes(have)), total == Some(have));
            };
            match download(&url, &part, limit, &mut show) {
                Ok(()) if is_packed(&part, name).tried("read", &part)? => return Ok((part, url)),
                Ok(()) => {
                    let _ = fs::remove_file(&part);
                    causes.push(DownloadError::Other { url });
                }
                Err(error @ (DownloadError::Unreachable { .. } | DownloadError::Status { .. })) => {
                    causes.push(error);
                }
                Err(error) => {
                    if let DownloadError::TooLarge { .. } = error {
                        let _ = fs::remove_file(&part);
                    }
                    return Err(ArchiveError::Unfetched {
                        name: name.to_owned(),
                        causes: vec![error],
                        hint: None,
                    });
                }
            }
        }
        let (name, hint) = (name.to_owned(), hint(archive));
        Err(ArchiveError::Unfetched { name, causes, hint })
    }

    /// Takes an archive out of the larger one that a folder has.
    fn unbundle(
        &self,
        folder: &Path,
        name: &str,
        archive: &Archive,
        kept: &Path,
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
            return Err(ArchiveError::NotThere { name, folder, looked_for, hint: hint(archive) });
        };
        progress.say(&format!("taking {} out of {}", bundle.member, path.display()));
        let shelf = self.folder.join(SHELF);
        fs::create_dir_all(&shelf).tried("make", &shelf)?;
        let part = kept.with_added_extension("part");
        let kind = ArchiveKind::of(&bundle.file).unwrap_or(ArchiveKind::TarGzip);
        let wanted = [(bundle.member.clone(), part.clone())];
        // As it is: what is packed inside stays packed.
        let missing = unpack::members(&path, kind, &wanted, unpack::Inner::Packed)?;
        missing.is_complete(&path)?;
        Ok(fs::rename(&part, kept).tried("write", kept)?)
    }
}

/// Where else an archive can be had, as the end of a message.
fn hint(archive: &Archive) -> Option<String> {
    let bundle = archive.bundle.as_ref()?;
    let page = bundle.page.as_ref().map_or(String::new(), |page| format!(", which is at {page}"));
    Some(format!("; {} will do as well{page}", bundle.file))
}

/// File names under which people have an archive.
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

/// Whether a file begins as its name says: some hosts answer with a page instead.
fn is_packed(path: &Path, name: &str) -> io::Result<bool> {
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

/// A size as people say it.
pub fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The hosts that a recipe's archives come from.
pub fn hosts<'a>(archives: impl Iterator<Item = &'a Archive>) -> Vec<String> {
    let mut hosts: Vec<String> =
        archives.flat_map(|archive| &archive.urls).map(|url| host(url)).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}
