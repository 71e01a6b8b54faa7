//! The hashes of text files, remembered in the cache folder: a text is read again only if it may have changed.
//!
//! What tells that is the file's inode, size and times. The time of its last change (ctime) is the file system's
//! own: programs cannot set it, as they can the time of modification. It must be some seconds old when the file
//! is hashed, since a change within the same tick of that clock would leave no trace; git calls such files racy.
//! Devices are left out, as in git: network file systems number them anew at each mount.
//!
//! A record has a name that hashes path, inode, size and times, so that one of another text is never found; it
//! holds the text's SHA-256 and a hash of both. Whatever is damaged or incomplete is taken for no record.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use tandem_cluster::run::store::hash_file;

use super::turn;

/// How old a file's last change must be: the coarsest clocks of file systems tick every two seconds, and a server's
/// may be some seconds off.
const SETTLED: Duration = Duration::from_secs(10);

/// The SHA-256 of a file in hexadecimal, as remembered in `folder`; otherwise it is computed, by one process at a
/// time, and remembered where the folder can be written.
///
/// # Errors
/// The file cannot be read.
pub(super) fn sha256(path: &Path, folder: &Path) -> io::Result<String> {
    remembered(path, folder, SystemTime::now(), |path| Ok(hash_file(path)?.1))
}

fn remembered(
    path: &Path,
    folder: &Path,
    now: SystemTime,
    hash: impl FnOnce(&Path) -> io::Result<String>,
) -> io::Result<String> {
    let identity = Identity::of(path)?;
    if !identity.is_settled(now) {
        return hash(path);
    }
    let record = folder.join(identity.name());
    let known = || identity.hash_in(&std::fs::read_to_string(&record).ok()?);
    if let Some(sha256) = known() {
        return Ok(sha256);
    }
    // Where that fails there are only no records.
    let open = || OpenOptions::new().create(true).truncate(false).write(true).open(&record);
    let file = std::fs::create_dir_all(folder).and_then(|()| open()).ok();
    if let Some(file) = &file {
        turn::wait(file);
    }
    if let Some(sha256) = known() {
        return Ok(sha256);
    }
    let sha256 = hash(path)?;
    if let Some(mut file) = file
        && Identity::of(path)? == identity
    {
        let _ = file.set_len(0).and_then(|()| file.write_all(identity.record(&sha256).as_bytes()));
    }
    Ok(sha256)
}

/// What changes with a file.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    words: String,
    changed: SystemTime,
}

impl Identity {
    fn of(path: &Path) -> io::Result<Self> {
        // Opening asks a file server, where otherwise an earlier answer might be good enough.
        let found = File::open(path)?.metadata()?;
        let words = format!(
            "{} {} {} {}.{:09} {}.{:09}",
            std::fs::canonicalize(path)?.display(),
            found.ino(),
            found.size(),
            found.mtime(),
            found.mtime_nsec(),
            found.ctime(),
            found.ctime_nsec()
        );
        let seconds = Duration::new(found.ctime().max(0) as u64, found.ctime_nsec() as u32);
        Ok(Self { words, changed: UNIX_EPOCH + seconds })
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        now.duration_since(self.changed).is_ok_and(|age| age >= SETTLED)
    }

    fn name(&self) -> String {
        format!("{}.text", hex::encode(&Sha256::digest(&self.words)[..16]))
    }

    fn record(&self, sha256: &str) -> String {
        let check = Sha256::digest(format!("{} {sha256}", self.words));
        format!("{sha256} {}\n", hex::encode(check))
    }

    /// The file's hash in its record; none if that is damaged.
    fn hash_in(&self, record: &str) -> Option<String> {
        let (sha256, _) = record.split_once(' ')?;
        (self.record(sha256) == record).then(|| sha256.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Instant;

    use super::*;

    struct Fixture {
        folder: tempfile::TempDir,
        text: PathBuf,
        hashed: AtomicU32,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let text = folder.path().join("text");
            std::fs::write(&text, "eins").unwrap();
            Self { folder, text, hashed: AtomicU32::new(0) }
        }

        fn cache(&self) -> PathBuf {
            self.folder.path().join("cache")
        }

        /// The hash of a file as it is asked for long after all its changes, and whether it was read.
        fn ask(&self, path: &Path) -> (String, bool) {
            self.ask_at(path, SystemTime::now() + 2 * SETTLED)
        }

        fn ask_at(&self, path: &Path, now: SystemTime) -> (String, bool) {
            let before = self.hashed.load(Ordering::SeqCst);
            let hash = |path: &Path| {
                self.hashed.fetch_add(1, Ordering::SeqCst);
                Ok(hash_file(path)?.1)
            };
            let found = remembered(path, &self.cache(), now, hash).unwrap();
            (found, self.hashed.load(Ordering::SeqCst) > before)
        }

        /// Changes a text, keeps its size, and sets its time of modification back.
        fn change(&self, content: &str) {
            let before = self.text.metadata().unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            loop {
                std::fs::write(&self.text, content).unwrap();
                let file = File::options().write(true).open(&self.text).unwrap();
                file.set_modified(before.modified().unwrap()).unwrap();
                let after = self.text.metadata().unwrap();
                assert_eq!(
                    (before.size(), before.mtime_nsec(), before.ino()),
                    (after.size(), after.mtime_nsec(), after.ino())
                );
                let changed = |file: &std::fs::Metadata| (file.ctime(), file.ctime_nsec());
                if changed(&before) != changed(&after) {
                    return;
                }
                assert!(Instant::now() < deadline, "the clock of the file system does not tick");
            }
        }

        fn record(&self) -> PathBuf {
            self.folder.path().join("cache").join(Identity::of(&self.text).unwrap().name())
        }
    }

    fn sha(text: &str) -> String {
        hex::encode(Sha256::digest(text))
    }

    #[test]
    fn a_text_is_read_once() {
        let fixture = Fixture::new();
        assert_eq!(fixture.ask(&fixture.text), (sha("eins"), true));
        assert_eq!(fixture.ask(&fixture.text), (sha("eins"), false));
        assert_eq!(sha256(&fixture.text, &fixture.cache()).unwrap(), sha("eins"));
    }

    #[test]
    fn a_change_of_equal_size_and_time_is_noticed() {
        let fixture = Fixture::new();
        fixture.ask(&fixture.text);
        fixture.change("zwei");
        assert_eq!(fixture.ask(&fixture.text), (sha("zwei"), true));
        assert_eq!(fixture.ask(&fixture.text), (sha("zwei"), false));
    }

    #[test]
    fn a_text_that_has_just_changed_is_not_remembered() {
        let fixture = Fixture::new();
        let changed = Identity::of(&fixture.text).unwrap().changed;
        let early = [changed - SETTLED, changed, changed + SETTLED - Duration::from_nanos(1)];
        for now in [early, early].concat() {
            assert_eq!(fixture.ask_at(&fixture.text, now), (sha("eins"), true));
        }
        assert!(!fixture.cache().exists());
        assert!(fixture.ask_at(&fixture.text, changed + SETTLED).1);
        assert!(!fixture.ask_at(&fixture.text, changed + SETTLED).1);
    }

    #[test]
    fn a_text_that_changes_while_it_is_read_is_not_remembered() {
        let fixture = Fixture::new();
        let now = SystemTime::now() + 2 * SETTLED;
        let while_read = |path: &Path| {
            let found = Ok(hash_file(path)?.1);
            fixture.change("zwei");
            found
        };
        let found = remembered(&fixture.text, &fixture.cache(), now, while_read);
        assert_eq!(found.unwrap(), sha("eins"));
        assert_eq!(fixture.ask(&fixture.text), (sha("zwei"), true));
    }

    #[test]
    fn a_damaged_record_is_none_and_is_written_anew() {
        let fixture = Fixture::new();
        fixture.ask(&fixture.text);
        let good = std::fs::read(fixture.record()).unwrap();
        let flipped = (0..good.len()).map(|place| {
            let mut bytes = good.clone();
            bytes[place] ^= 1;
            bytes
        });
        let cut = (0..good.len()).map(|end| good[..end].to_vec());
        let longer = [good.clone(), good.clone()].concat();
        for bytes in flipped.chain(cut).chain([longer]) {
            std::fs::write(fixture.record(), bytes).unwrap();
            assert_eq!(fixture.ask(&fixture.text), (sha("eins"), true));
            assert_eq!(std::fs::read(fixture.record()).unwrap(), good);
        }
    }

    #[test]
    fn records_of_other_texts_are_not_trusted() {
        let fixture = Fixture::new();
        fixture.ask(&fixture.text);
        // As when the cache comes to another machine with a copy of the text.
        let copy = fixture.folder.path().join("copy");
        std::fs::copy(&fixture.text, &copy).unwrap();
        let modified = fixture.text.metadata().unwrap().modified().unwrap();
        File::options().write(true).open(&copy).unwrap().set_modified(modified).unwrap();
        assert!(fixture.ask(&copy).1);
        // The same inode under another path.
        let link = fixture.folder.path().join("link");
        std::fs::hard_link(&copy, &link).unwrap();
        assert!(fixture.ask(&link).1);
        // Another's record under the name of this one.
        let own = fixture.record();
        std::fs::copy(fixture.cache().join(Identity::of(&link).unwrap().name()), own).unwrap();
        assert!(fixture.ask(&fixture.text).1);
    }

    #[test]
    fn of_several_ranks_one_reads_the_text() {
        let fixture = Fixture::new();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(fixture.ask(&fixture.text).0, sha("eins")));
            }
        });
        assert_eq!(fixture.hashed.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn without_a_folder_to_write_to_texts_are_read_each_time() {
        let fixture = Fixture::new();
        std::fs::write(fixture.cache(), "a file").unwrap();
        for _ in 0..2 {
            assert_eq!(fixture.ask(&fixture.text), (sha("eins"), true));
        }
    }
}
