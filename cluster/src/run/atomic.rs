//! Files and folders that are replaced in one step, and scratch that goes with its owner.
//!
//! Whatever is not finished has a random name that nobody else has, and goes with its owner: at once
//! where that ends by itself, else when the next one is made beside it, which the lock that every owner
//! holds on its own tells apart from those in use.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::{NamedTempFile, TempDir};

use crate::run::io_error::{IoContext, IoError};

/// What all names begin with. It must not look like what programs search folders for.
const PREFIX: &str = ".tandem-";
/// A file or folder that is younger may be without its lock yet.
const LOCK_GRACE: Duration = Duration::from_secs(60);

/// An empty file in `folder`, which goes when it is dropped.
///
/// # Errors
/// Where the file system refuses.
pub fn file_in(folder: &Path) -> io::Result<NamedTempFile> {
    sweep(folder);
    let mut builder = tempfile::Builder::new();
    let file =
        builder.prefix(PREFIX).permissions(Permissions::from_mode(0o666)).tempfile_in(folder)?;
    hold(file.as_file());
    Ok(file)
}

/// Writes a file in one step: readers see what was there before or all of the new content, which
/// is synced.
///
/// # Errors
/// Where the file system refuses; then the file is as it was.
pub fn replace(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> io::Result<()> {
    let draft = file_in(folder_of(path))?;
    let mut writer = BufWriter::with_capacity(1 << 20, draft.as_file());
    write(&mut writer)?;
    writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    draft.persist(path).map(drop).map_err(|failed| failed.error)
}

/// The folder that a file lies in, or would.
pub(super) fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// Writes a text into a file in one step, as [`replace`] does.
///
/// # Errors
/// Where the file system refuses; then the file is as it was.
pub fn write(path: &Path, text: &str) -> Result<(), IoError> {
    replace(path, |file| file.write_all(text.as_bytes())).tried("write", path)
}

/// Copies a file's content in one step, as [`replace`] does. The copy is as open as any new file,
/// whatever the mode of the original: it may be private or read-only, and there are file systems
/// that refuse to set one.
///
/// # Errors
/// Where the file system refuses; then there is no copy.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut original = File::open(from)?;
    replace(to, |file| io::copy(&mut original, file).map(drop))
}

/// Renames a finished draft to `target`. What had that name waits as `aside`, beside it, until the new
/// folder is safe, and comes back where the rename fails.
///
/// # Errors
/// Where the file system refuses.
pub fn replace_folder(draft: &Path, target: &Path, aside: &Path) -> Result<(), IoError> {
    let is_there = target.exists();
    if is_there {
        remove_folder(aside).tried("remove", aside)?;
        fs::rename(target, aside).tried("set aside", target)?;
    }
    if let Err(source) = fs::rename(draft, target) {
        if is_there {
            let _ = fs::rename(aside, target);
        }
        return Err(IoError::new("publish", draft, source));
    }
    let parent = target.parent().unwrap_or(Path::new("/"));
    sync_folder(parent).tried("sync", parent)?;
    remove_folder(aside).tried("remove", aside)
}

/// Removes a folder with everything in it; one that is not there is fine.
///
/// # Errors
/// Where the file system refuses.
pub fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes renames and new names in a folder survive a power cut.
///
/// # Errors
/// Where the file system refuses.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A folder that goes with its owner.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
    _lock: Option<File>,
}

impl Scratch {
    /// A folder in the system's folder for temporary files, which other users cannot read.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn new() -> io::Result<Self> {
        Self::make(&std::env::temp_dir(), 0o700)
    }

    /// A folder in `parent`, as open as any that is made there.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn new_in(parent: &Path) -> io::Result<Self> {
        Self::make(parent, 0o777)
    }

    fn make(parent: &Path, mode: u32) -> io::Result<Self> {
        sweep(parent);
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix(PREFIX).permissions(Permissions::from_mode(mode));
        let folder = builder.tempdir_in(parent).map_err(|error| {
            io::Error::new(error.kind(), format!("no folder in {}: {error}", parent.display()))
        })?;
        let lock = File::open(folder.path()).ok();
        lock.as_ref().inspect(|lock| hold(lock));
        Ok(Self { folder, _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Keeps the folder for inspection, under a name that is not temporary. Returns the new place of
    /// `path` in it.
    pub fn keep(self, path: &Path) -> PathBuf {
        let path = path.strip_prefix(self.folder.path()).unwrap_or(path).to_owned();
        let old = self.folder.keep();
        let name = old.file_name().unwrap_or_default().to_string_lossy();
        let new = old.with_file_name(name.trim_start_matches('.'));
        let folder = fs::rename(&old, &new).map_or(old.clone(), |()| new);
        folder.join(path)
    }
}

/// Locks what this process has made. Where the file system has no locks nobody else gets one
/// either, and what killed owners leave there stays.
fn hold(made: &File) {
    let _ = made.try_lock();
}

/// Removes what killed owners have left in a folder; what cannot be removed is somebody else's.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            let _ = remove_if_left(&entry.path());
        }
    }
}

fn remove_if_left(path: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    let is_old = found.modified()?.elapsed().is_ok_and(|age| age > LOCK_GRACE);
    if !is_old || !(found.is_file() || found.is_dir()) {
        return Ok(());
    }
    let lock = File::open(path)?;
    if lock.try_lock().is_err() {
        return Ok(());
    }
    if found.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn make_old(path: &Path) {
        let before = SystemTime::now() - 2 * LOCK_GRACE;
        File::open(path).unwrap().set_modified(before).unwrap();
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        for text in ["1", "2"] {
            replace(&path, |file| file.write_all(text.as_bytes())).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        // A disk that is full in the middle.
        let full = |file: &mut BufWriter<&File>| {
            file.write_all(b"3")?;
            file.flush()?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        };
        assert!(replace(&path, full).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "2");
        assert!(replace(folder.path(), |_| Ok(())).is_err(), "a folder is no file");
        assert_eq!(names(folder.path()), ["a"], "nothing is left");
    }

    #[test]
    fn a_folder_that_cannot_be_replaced_stays() {
        let parent = tempfile::tempdir().unwrap();
        let [draft, target, aside] =
            ["draft", "target", "aside"].map(|name| parent.path().join(name));
        for text in ["1", "2"] {
            fs::create_dir(&draft).unwrap();
            fs::write(draft.join("a"), text).unwrap();
            replace_folder(&draft, &target, &aside).unwrap();
            assert_eq!(fs::read_to_string(target.join("a")).unwrap(), text);
        }
        let error = replace_folder(&draft, &target, &aside).unwrap_err().to_string();
        assert!(error.starts_with("cannot publish") && error.contains("draft"), "{error}");
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "2");
        assert_eq!(names(parent.path()), ["target"], "nothing is left");
    }

    #[test]
    fn others_may_read_what_replaces_or_copies_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let [plain, replaced, copied] =
            ["plain", "replaced", "copied"].map(|name| folder.path().join(name));
        fs::write(&plain, "").unwrap();
        replace(&replaced, |_| Ok(())).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&replaced), mode(&plain));
        for original in [0o400, 0o600, 0o444] {
            fs::write(&replaced, original.to_string()).unwrap();
            fs::set_permissions(&replaced, Permissions::from_mode(original)).unwrap();
            copy(&replaced, &copied).unwrap();
            assert_eq!(mode(&copied), mode(&plain));
            assert_eq!(fs::read_to_string(&copied).unwrap(), original.to_string());
            fs::remove_file(&replaced).unwrap();
        }
    }

    #[test]
    fn what_a_killed_owner_left_goes_and_what_is_in_use_stays() {
        let folder = tempfile::tempdir().unwrap();
        let parent = folder.path();
        let [left, used] = [(); 2].map(|()| Scratch::new_in(parent).unwrap());
        let file = file_in(parent).unwrap();
        fs::write(left.path().join("a"), "").unwrap();
        for path in [left.path(), used.path(), file.path()] {
            make_old(path);
        }
        let gone = left.path().to_owned();
        // As after a kill: the lock is gone and the folder is not.
        let Scratch { folder: left, _lock: lock } = left;
        drop((lock, left.keep()));
        let dead = parent.join(format!("{PREFIX}dead"));
        fs::write(&dead, "").unwrap();
        make_old(&dead);
        let other = parent.join("other");
        fs::write(&other, "").unwrap();
        make_old(&other);

        let new = Scratch::new_in(parent).unwrap();
        assert!(!gone.exists() && !dead.exists());
        for path in [used.path(), file.path(), new.path(), &other] {
            assert!(path.exists(), "{}", path.display());
        }
        fs::write(used.path().join("log"), "said").unwrap();
        let log = used.path().join("log");
        let kept = used.keep(&log);
        assert_eq!(fs::read_to_string(&kept).unwrap(), "said");
        drop((file, new));
        make_old(kept.parent().unwrap());
        sweep(parent);
        assert!(kept.exists());
        assert_eq!(names(parent).len(), 2, "what is kept, and the other");
    }
}
