//! From a recipe to tables of training data, in a folder that is either complete or absent.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tandem_cluster::run::atomic::{self, remove_folder, replace_folder};
use tandem_cluster::run::io_error::{IoContext, IoError};
use tandem_cluster::run::store::hash_file;

use super::archives::{ArchiveCache, ArchiveError, Mirror, Trust, VerifiedArchive};
use super::clean::{Cleaner, Reason};
use super::recipe::{ArchiveKind, Expect, Part, Recipe, Source};
use super::texts::{self, Member, TextError};
use super::unpack::{self, Compressed, UnpackError};
use crate::terminal::progress::Progress;

/// The file that describes a data folder.
pub(crate) const MANIFEST: &str = "manifest.json";

/// Why a corpus could not be prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    /// An archive cannot be used.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// An archive cannot be unpacked.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// A member is not a valid text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A pair of a part without cleaning, where no pair may be dropped.
    #[error(
        "pair {number} of {part} is not UTF-8, and pairs may only be dropped from parts with `clean`"
    )]
    NotUtf8 {
        part: &'static str,
        /// The pair, counted from 1.
        number: u64,
    },
    /// Every pair of a part was dropped.
    #[error("{part} has no pairs: {read} were read, and none was kept")]
    Empty {
        part: &'static str,
        /// Pairs that were read.
        read: u64,
    },
    /// Another process prepares a corpus there.
    #[error("another `tandem data` is working in {}; wait for it", folder.display())]
    Locked { folder: PathBuf },
    /// The target folder holds something that may not be replaced.
    #[error("{} {what}; {advice}", folder.display())]
    Occupied {
        folder: PathBuf,
        /// What it holds, as a predicate.
        what: String,
        /// How to resolve it.
        advice: &'static str,
    },
    /// The file system refuses.
    #[error(transparent)]
    Io(#[from] IoError),
}

impl PrepareError {
    /// Whether trying again may help: the network or the disk was at fault.
    pub(crate) fn is_transient(&self) -> bool {
        use ArchiveError::{Download, Io};
        match self {
            Self::Archive(Download { .. } | Io(_)) => true,
            Self::Archive(ArchiveError::Bundle(error)) | Self::Unpack(error) => {
                matches!(error, UnpackError::Write { .. })
            }
            Self::Locked { .. } | Self::Io(_) => true,
            _ => false,
        }
    }
}

/// What a data folder contains, and what it was prepared from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The version of Tandem that prepared it.
    pub tandem: String,
    /// The whole recipe.
    pub recipe: Recipe,
    /// The archives by name.
    pub archives: BTreeMap<String, UsedArchive>,
    /// The tables by the names of the parts.
    pub parts: BTreeMap<String, Table>,
}

/// An archive that the tables were prepared from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct UsedArchive {
    /// Its address or path.
    pub origin: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
    /// What the SHA-256 was compared with.
    pub trust: Trust,
}

/// A table of two tab-separated columns without a header.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Table {
    /// The file's name in the data folder.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
    /// The number of pairs in it.
    pub kept: u64,
    /// Pairs that were read for it; those of `valid` may be among those of `train`.
    pub read: u64,
    /// The number of dropped pairs by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Optional members that the archives lack.
    pub absent: Vec<String>,
}

/// What to do with an existing data folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    Keep,
    /// Prepare it again, and replace it when that is complete.
    Replace,
}

/// The result of preparing a corpus.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// The folder existed, and is unchanged since it was prepared.
    UpToDate(Manifest),
    /// The folder was prepared.
    Prepared(Manifest),
}

/// Prepares the tables of `recipe` in the subfolder `name` of `folder`.
///
/// # Errors
/// A corpus that could not be prepared; an existing folder is left unchanged.
pub(crate) fn prepare(
    recipe: &Recipe,
    name: &str,
    folder: &Path,
    mirror: Option<Mirror>,
    existing: Existing,
    progress: &mut Progress,
) -> Result<Outcome, PrepareError> {
    fs::create_dir_all(folder).tried("make", folder)?;
    let _lock = lock(folder)?;
    let target = folder.join(name);
    if existing == Existing::Keep
        && let Some(manifest) = up_to_date(&target, recipe)?
    {
        return Ok(Outcome::UpToDate(manifest));
    }
    refuse_foreign_files(&target, recipe)?;
    let draft = folder.join(format!(".{name}.draft"));
    remove_folder(&draft).tried("remove", &draft)?;
    fs::create_dir_all(&draft).tried("make", &draft)?;
    let built = Builder { recipe, draft: &draft, progress }.build(folder, mirror);
    let manifest = built.inspect_err(|_| {
        // The disk may be full.
        let _ = fs::remove_dir_all(&draft);
    })?;
    replace_folder(&draft, &target, &draft.with_added_extension("old"))?;
    Ok(Outcome::Prepared(manifest))
}

/// The manifest of an existing folder, if it was prepared with this recipe and is unchanged.
fn up_to_date(target: &Path, recipe: &Recipe) -> Result<Option<Manifest>, PrepareError> {
    let occupied = |what: String, advice| {
        Err(PrepareError::Occupied { folder: target.to_owned(), what, advice })
    };
    let again = "`--again` prepares it again";
    let Ok(text) = fs::read_to_string(target.join(MANIFEST)) else { return Ok(None) };
    let Ok(manifest) = serde_json::from_str::<Manifest>(&text) else {
        return occupied(format!("has a {MANIFEST} that cannot be read"), again);
    };
    if manifest.recipe != *recipe {
        return occupied("was prepared with another version of the recipe".into(), again);
    }
    for table in manifest.parts.values() {
        match hash_file(&target.join(&table.file)) {
            Ok((_, sha256)) if sha256 == table.sha256 => {}
            Ok(_) => {
                return occupied(format!("has a {} that was changed since", table.file), again);
            }
            Err(error) => return occupied(format!("lacks its {}: {error}", table.file), again),
        }
    }
    Ok(Some(manifest))
}

/// Refuses to replace a folder with files that `tandem data` did not write.
fn refuse_foreign_files(target: &Path, recipe: &Recipe) -> Result<(), PrepareError> {
    let occupied =
        |what, advice| Err(PrepareError::Occupied { folder: target.to_owned(), what, advice });
    let entries = match fs::read_dir(target) {
        Ok(entries) => entries,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(IoError::new("read", target, source).into()),
    };
    if !target.join(MANIFEST).exists() {
        return occupied(
            format!("was not written by `tandem data`: it has no {MANIFEST}"),
            "move it away, or give another folder with `--folder`",
        );
    }
    let tables = recipe.parts().map(|(part, _)| table(part));
    let is_own = |name: &String| name == MANIFEST || tables.contains(name);
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    match names.filter(|name| !is_own(name)).min() {
        Some(name) => occupied(
            format!("holds {name}, which `tandem data` did not write and would remove"),
            "move it out of the folder first",
        ),
        None => Ok(()),
    }
}

/// The file name of a part's table.
fn table(part: &str) -> String {
    format!("{part}.tsv")
}

/// Two at once would take each other's drafts.
fn lock(folder: &Path) -> Result<File, PrepareError> {
    let path = folder.join(".lock");
    let file = File::create(&path).tried("lock", &path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(PrepareError::Locked { folder: folder.to_owned() }),
        Err(TryLockError::Error(source)) => Err(IoError::new("lock", path, source).into()),
    }
}

/// Called with each cleaned pair.
type Put<'a> = dyn FnMut(&mut Writer, [String; 2]) -> Result<(), PrepareError> + 'a;

/// Builds the tables in a draft folder.
struct Builder<'a> {
    recipe: &'a Recipe,
    draft: &'a Path,
    progress: &'a mut Progress,
}

impl Builder<'_> {
    fn build(mut self, folder: &Path, mirror: Option<Mirror>) -> Result<Manifest, PrepareError> {
        let mut cache = ArchiveCache::open(folder, mirror)?;
        let mut archives = BTreeMap::new();
        for (name, archive) in &self.recipe.archives {
            archives.insert(name.as_str(), cache.find(name, archive, self.progress)?);
        }
        let work = self.draft.join("unpacked");
        fs::create_dir_all(&work).tried("make", &work)?;
        let unpacked = self.unpack(&archives, &work)?;
        let parts = self.tables(&unpacked)?;
        remove_folder(&work).tried("remove", &work)?;
        let archives: Vec<VerifiedArchive> = archives.into_values().collect();
        let used = |VerifiedArchive { name, origin, bytes, sha256, trust, .. }: VerifiedArchive| {
            (name, UsedArchive { origin, bytes, sha256, trust })
        };
        let manifest = Manifest {
            tandem: env!("CARGO_PKG_VERSION").into(),
            recipe: self.recipe.clone(),
            archives: archives.iter().cloned().map(used).collect(),
            parts,
        };
        let text = serde_json::to_string_pretty(&manifest).unwrap_or_default() + "\n";
        atomic::write(&self.draft.join(MANIFEST), &text)?;
        cache.trust(&archives)?;
        Ok(manifest)
    }

    /// Extracts the members of all sources, reading each archive once.
    fn unpack(
        &mut self,
        archives: &BTreeMap<&str, VerifiedArchive>,
        work: &Path,
    ) -> Result<Unpacked, PrepareError> {
        let mut unpacked = Unpacked::default();
        for (number, (name, archive)) in archives.iter().enumerate() {
            let sources = || {
                let parts = self.recipe.parts().into_iter();
                let sources = parts.flat_map(|(_, part)| &part.sources);
                sources.filter(|source| source.archives().any(|archive| archive == *name))
            };
            if sources().next().is_none() {
                continue;
            }
            self.progress.say(&format!("unpacking {}", archive.path.display()));
            let kind = ArchiveKind::of(name).unwrap_or(ArchiveKind::TarGzip);
            if kind == ArchiveKind::Gzip {
                let path = work.join(format!("{number}"));
                unpack::single_file(&archive.path, &path)?;
                unpacked.add(name, "", path);
                continue;
            }
            let mut files: Vec<&String> = sources().flat_map(|source| &source.files).collect();
            files.sort();
            files.dedup();
            let place = |place: usize| work.join(format!("{number}-{place}"));
            let wanted: Vec<(String, PathBuf)> = files
                .iter()
                .enumerate()
                .map(|(index, file)| ((*file).clone(), place(index)))
                .collect();
            let mut missing =
                unpack::members(&archive.path, kind, &wanted, Compressed::Decompress)?;
            for (file, path) in wanted {
                if !missing.names.contains(&file) {
                    unpacked.add(name, &file, path);
                }
            }
            // An optional source may lack both languages, but not only one of them.
            let may_lack = |file: &String| {
                sources().filter(|source| source.files.contains(file)).all(|source| {
                    source.optional
                        && source.files.iter().all(|file| unpacked.get(name, file).is_none())
                })
            };
            missing.names.retain(|file| !may_lack(file));
            missing.into_result(&archive.path)?;
        }
        Ok(unpacked)
    }

    fn tables(&mut self, unpacked: &Unpacked) -> Result<BTreeMap<String, Table>, PrepareError> {
        let recipe = self.recipe;
        let (mut train, mut tables) = (Writer::create(self.draft, "train")?, BTreeMap::new());
        let mut valid = Writer::create(self.draft, "valid")?;
        match recipe.valid.every {
            Some(every) => {
                // Like awk's NR % every == 0, over the cleaned pairs.
                let mut number = 0;
                self.write("train", &recipe.train, unpacked, &mut train, &mut |train, pair| {
                    number += 1;
                    match number % every == 0 {
                        true => valid.write(pair),
                        false => train.write(pair),
                    }
                })?;
                valid.table.read = train.table.read;
            }
            None => {
                self.write("train", &recipe.train, unpacked, &mut train, &mut Writer::write)?;
                self.write("valid", &recipe.valid, unpacked, &mut valid, &mut Writer::write)?;
            }
        }
        let mut test = Writer::create(self.draft, "test")?;
        self.write("test", &recipe.test, unpacked, &mut test, &mut Writer::write)?;
        for (name, writer) in [("train", train), ("valid", valid), ("test", test)] {
            let table = writer.finish()?;
            if table.kept == 0 {
                return Err(PrepareError::Empty { part: name, read: table.read });
            }
            tables.insert(name.to_owned(), table);
        }
        Ok(tables)
    }

    /// Cleans the pairs of a part and calls `put` with the ones that are kept.
    fn write(
        &mut self,
        name: &'static str,
        part: &Part,
        unpacked: &Unpacked,
        writer: &mut Writer,
        put: &mut Put,
    ) -> Result<(), PrepareError> {
        let languages = &self.recipe.languages;
        let cleaner = Cleaner::new(part, languages);
        for source in &part.sources {
            let Some(members) = unpacked.members(source) else {
                writer.table.absent.extend(source.files.clone());
                self.progress.say(&format!(
                    "{name}: {} has no {}, which is optional",
                    source.archive,
                    source.files.join(", ")
                ));
                continue;
            };
            let progress = &mut *self.progress;
            texts::read::<PrepareError>(source, &members, languages, &mut |pair| {
                writer.table.read += 1;
                let read = writer.table.read;
                if read.is_multiple_of(100_000) {
                    progress.show_line(&format!("{name}: {read} pairs read"), false);
                }
                match cleaner.clean(pair) {
                    Ok(pair) => put(writer, pair),
                    Err(Reason::NotUtf8) if part.clean.is_none() => {
                        Err(PrepareError::NotUtf8 { part: name, number: read })
                    }
                    Err(reason) => {
                        let dropped = &mut writer.table.dropped;
                        *dropped.entry(reason.name().to_owned()).or_default() += 1;
                        Ok(())
                    }
                }
            })?;
        }
        Ok(())
    }
}

/// Paths of extracted members, by archive and member name; the name is empty for an archive that is a
/// single file.
#[derive(Default)]
struct Unpacked(BTreeMap<(String, String), PathBuf>);

impl Unpacked {
    fn add(&mut self, archive: &str, file: &str, path: PathBuf) {
        self.0.insert((archive.to_owned(), file.to_owned()), path);
    }

    fn get(&self, archive: &str, file: &str) -> Option<&PathBuf> {
        self.0.get(&(archive.to_owned(), file.to_owned()))
    }

    /// The members of a source, if the archive has them.
    fn members(&self, source: &Source) -> Option<Vec<Member>> {
        if source.is_single_file() {
            let whole = |archive: &str| {
                let path = self.get(archive, "")?.clone();
                Some(Member { name: archive.to_owned(), path })
            };
            return source.archives().map(whole).collect();
        }
        let archive = &source.archive;
        let member = |file: &String| {
            let path = self.get(archive, file)?.clone();
            Some(Member { name: format!("{archive}: {file}"), path })
        };
        source.files.iter().map(member).collect()
    }
}

/// Writes a table and computes its hash.
struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    hasher: Sha256,
    table: Table,
}

impl Writer {
    fn create(folder: &Path, name: &str) -> Result<Self, PrepareError> {
        let table = Table { file: table(name), ..Table::default() };
        let path = folder.join(&table.file);
        let file = File::create(&path).tried("write", &path)?;
        Ok(Self { path, file: BufWriter::new(file), hasher: Sha256::new(), table })
    }

    fn write(&mut self, [first, second]: [String; 2]) -> Result<(), PrepareError> {
        let line = first + "\t" + &second + "\n";
        self.hasher.update(&line);
        self.table.bytes += line.len() as u64;
        self.table.kept += 1;
        self.file.write_all(line.as_bytes()).map_err(|source| self.error(source))
    }

    fn finish(mut self) -> Result<Table, PrepareError> {
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        synced.map_err(|source| self.error(source))?;
        Ok(Table { sha256: hex::encode(self.hasher.finalize()), ..self.table })
    }

    fn error(&self, source: io::Error) -> PrepareError {
        IoError::new("write", &self.path, source).into()
    }
}

/// Describes the numbers of pairs that differ from those in the recipe's `expect`.
pub(crate) fn unexpected_counts(manifest: &Manifest) -> Vec<String> {
    let mut unexpected = Vec::new();
    for (name, part) in manifest.recipe.parts() {
        let Some(table) = manifest.parts.get(name) else { continue };
        let Expect { read, filled, kept } = part.expect;
        let empty = table.dropped.get(Reason::Empty.name()).copied().unwrap_or_default();
        for (what, found, expected) in [
            ("read from the archives", table.read, read),
            ("read with text on both sides", table.read - empty, filled),
            ("kept", table.kept, kept),
        ] {
            if let Some(expected) = expected.filter(|expected| *expected != found) {
                unexpected
                    .push(format!("{name}: {found} pairs were {what}, {expected} were expected"));
            }
        }
    }
    unexpected
}
