//! From a recipe to tables that can be trained on, in a folder that is complete or not there.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tandem_cluster::run::atomic::{self, remove_folder, replace_folder};
use tandem_cluster::run::io_error::{IoContext, IoError};
use tandem_cluster::run::store::hash_file;

use super::archives::{ArchiveError, Found, Shelf, Supplier, Trust};
use super::clean::{Cleaner, Reason};
use super::recipe::{ArchiveKind, Expect, Part, Recipe, Source};
use super::texts::{self, Member, TextError};
use super::unpack::{self, Inner, UnpackError};
use crate::terminal::progress::Progress;

/// What a folder of data says about itself.
pub const MANIFEST: &str = "manifest.json";

/// Why there are no tables.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// An archive that cannot be used.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// An archive that gives nothing.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// Members that are no texts.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A sentence that cannot be left out.
    #[error(
        "pair {number} of {part} is not UTF-8: it may not be left out of a part that is not cleaned"
    )]
    NotUtf8 {
        /// The part.
        part: &'static str,
        /// The pair, counted from 1.
        number: u64,
    },
    /// Nothing is left.
    #[error("{part} has no pairs: {read} were read, and none was kept")]
    Nothing {
        /// The part.
        part: &'static str,
        /// Pairs that were read.
        read: u64,
    },
    /// Another command is at it.
    #[error("another `tandem data` works in {}; wait for it", folder.display())]
    Locked {
        /// The folder.
        folder: PathBuf,
    },
    /// Something else lies where the tables should.
    #[error("{} {what}; {advice}", folder.display())]
    Occupied {
        /// The folder.
        folder: PathBuf,
        /// What it holds.
        what: String,
        /// What can be done.
        advice: &'static str,
    },
    /// The file system refuses.
    #[error(transparent)]
    Io(#[from] IoError),
}

impl PrepareError {
    /// Whether the same command could do better another time: a network or a disk was at fault.
    pub fn may_pass(&self) -> bool {
        use ArchiveError::{Io, Unfetched};
        match self {
            Self::Archive(Unfetched { .. } | Io(_)) => true,
            Self::Archive(ArchiveError::Bundle(error)) | Self::Unpack(error) => {
                matches!(error, UnpackError::Write { .. })
            }
            Self::Locked { .. } | Self::Io(_) => true,
            _ => false,
        }
    }
}

/// What a folder of data holds and what it was made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of Tandem that made it.
    pub tandem: String,
    /// The recipe, completely.
    pub recipe: Recipe,
    /// The archives, by their names.
    pub archives: BTreeMap<String, UsedArchive>,
    /// The tables, by the names of the parts.
    pub parts: BTreeMap<String, Table>,
}

/// An archive that went into the tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UsedArchive {
    /// Its address or path.
    pub origin: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
    /// What that was held against.
    pub trust: Trust,
}

/// A table: two tab-separated columns, without a head.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// The file, in the folder.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
    /// Pairs in it.
    pub kept: u64,
    /// Pairs that were read for it; those of `valid` may be among those of `train`.
    pub read: u64,
    /// Pairs that were dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Sources that the archives do not have.
    pub absent: Vec<String>,
}

/// What to do with what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Leave it.
    Keep,
    /// Make it anew, and put it in its place when it is complete.
    Replace,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Everything was there, and is as it was made.
    There(Manifest),
    /// It was made.
    Made(Manifest),
}

/// Makes the tables of `recipe` in the folder `name` below `folder`.
///
/// # Errors
/// There are none; whatever was there before is still there.
pub fn prepare(
    recipe: &Recipe,
    name: &str,
    folder: &Path,
    supplier: Option<Supplier>,
    existing: Existing,
    progress: &mut Progress,
) -> Result<Outcome, PrepareError> {
    fs::create_dir_all(folder).tried("make", folder)?;
    let _lock = lock(folder)?;
    let target = folder.join(name);
    if existing == Existing::Keep
        && let Some(manifest) = standing(&target, recipe)?
    {
        return Ok(Outcome::There(manifest));
    }
    refuse_what_is_not_ours(&target, recipe)?;
    let draft = folder.join(format!(".{name}.draft"));
    remove_folder(&draft).tried("remove", &draft)?;
    fs::create_dir_all(&draft).tried("make", &draft)?;
    let made = Maker { recipe, draft: &draft, progress }.make(folder, supplier);
    let manifest = made.inspect_err(|_| {
        // It may have been the disk that was full.
        let _ = fs::remove_dir_all(&draft);
    })?;
    replace_folder(&draft, &target, &draft.with_added_extension("old"))?;
    Ok(Outcome::Made(manifest))
}

/// The manifest of what is there, if it is what the recipe makes.
fn standing(target: &Path, recipe: &Recipe) -> Result<Option<Manifest>, PrepareError> {
    let occupied = |what: String, advice| {
        Err(PrepareError::Occupied { folder: target.to_owned(), what, advice })
    };
    let again = "`--again` makes it anew";
    let Ok(text) = fs::read_to_string(target.join(MANIFEST)) else { return Ok(None) };
    let Ok(manifest) = serde_json::from_str::<Manifest>(&text) else {
        return occupied(format!("has a {MANIFEST} that cannot be read"), again);
    };
    if manifest.recipe != *recipe {
        return occupied("was made by another version of the recipe".into(), again);
    }
    for table in manifest.parts.values() {
        match hash_file(&target.join(&table.file)) {
            Ok((_, sha256)) if sha256 == table.sha256 => {}
            Ok(_) => return occupied(format!("has another {} than was made", table.file), again),
            Err(error) => return occupied(format!("lacks its {}: {error}", table.file), again),
        }
    }
    Ok(Some(manifest))
}

/// Nothing that people have put there may go with the folder.
fn refuse_what_is_not_ours(target: &Path, recipe: &Recipe) -> Result<(), PrepareError> {
    let occupied =
        |what, advice| Err(PrepareError::Occupied { folder: target.to_owned(), what, advice });
    let entries = match fs::read_dir(target) {
        Ok(entries) => entries,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(IoError::new("read", target, source).into()),
    };
    if !target.join(MANIFEST).exists() {
        return occupied(
            format!("was not made by `tandem data`: it has no {MANIFEST}"),
            "move it away, or give another folder with `--folder`",
        );
    }
    let tables = recipe.parts().map(|(part, _)| table(part));
    let is_own = |name: &String| name == MANIFEST || tables.contains(name);
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    match names.filter(|name| !is_own(name)).min() {
        Some(name) => occupied(
            format!("holds {name}, which `tandem data` has not made and would remove"),
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

/// Where a cleaned pair goes.
type Put<'a> = dyn FnMut(&mut Writer, [String; 2]) -> Result<(), PrepareError> + 'a;

/// Makes the tables in a draft.
struct Maker<'a> {
    recipe: &'a Recipe,
    draft: &'a Path,
    progress: &'a mut Progress,
}

impl Maker<'_> {
    fn make(mut self, folder: &Path, supplier: Option<Supplier>) -> Result<Manifest, PrepareError> {
        let mut shelf = Shelf::open(folder, supplier)?;
        let mut found = BTreeMap::new();
        for (name, archive) in &self.recipe.archives {
            found.insert(name.as_str(), shelf.find(name, archive, self.progress)?);
        }
        let work = self.draft.join("unpacked");
        fs::create_dir_all(&work).tried("make", &work)?;
        let unpacked = self.unpack(&found, &work)?;
        let parts = self.tables(&unpacked)?;
        remove_folder(&work).tried("remove", &work)?;
        let archives: Vec<Found> = found.into_values().collect();
        let used = |Found { name, origin, bytes, sha256, trust, .. }: Found| {
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
        shelf.trust(&archives)?;
        Ok(manifest)
    }

    /// Takes the members of all sources out of their archives, each archive once.
    fn unpack(
        &mut self,
        found: &BTreeMap<&str, Found>,
        work: &Path,
    ) -> Result<Unpacked, PrepareError> {
        let mut unpacked = Unpacked::default();
        for (number, (name, archive)) in found.iter().enumerate() {
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
                unpack::whole(&archive.path, &path)?;
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
            let mut missing = unpack::members(&archive.path, kind, &wanted, Inner::Unpacked)?;
            for (file, path) in wanted {
                if !missing.names.contains(&file) {
                    unpacked.add(name, &file, path);
                }
            }
            // Of an optional source both languages may be missing, not one of them.
            let may_lack = |file: &String| {
                sources().filter(|source| source.files.contains(file)).all(|source| {
                    source.optional
                        && source.files.iter().all(|file| unpacked.get(name, file).is_none())
                })
            };
            missing.names.retain(|file| !may_lack(file));
            missing.is_complete(&archive.path)?;
        }
        Ok(unpacked)
    }

    fn tables(&mut self, unpacked: &Unpacked) -> Result<BTreeMap<String, Table>, PrepareError> {
        let recipe = self.recipe;
        let (mut train, mut tables) = (Writer::create(self.draft, "train")?, BTreeMap::new());
        let mut valid = Writer::create(self.draft, "valid")?;
        match recipe.valid.every {
            Some(every) => {
                // As awk's NR % every == 0, over what cleaning has left.
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
                return Err(PrepareError::Nothing { part: name, read: table.read });
            }
            tables.insert(name.to_owned(), table);
        }
        Ok(tables)
    }

    /// Cleans the pairs of a part and hands them on.
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
                match cleaner.pass(pair) {
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

/// Where the members of archives lie.
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
        if source.is_whole() {
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

/// Writes a table and hashes it on the way.
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

/// Numbers that are known and did not come out, one a line, each with both.
pub fn surprises(manifest: &Manifest) -> Vec<String> {
    let mut surprises = Vec::new();
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
                surprises.push(format!("{name}: {found} pairs were {what}, {expected} are known"));
            }
        }
    }
    surprises
}
