//! The run folder: everything that a run writes, and the lock that keeps a second launcher out.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tandem_config::schema::run::names;

use crate::hosts::network;
use crate::process;
use crate::run::atomic;
use crate::run::evaluation::EvaluationFolder;
use crate::run::io_error::{IoContext, IoError};
use crate::run::store::{AVERAGE, Checkpoint, MANIFEST, Store, StoreError};
use crate::slurm::Job;

/// How long those who look for a lock's holder may keep it from being taken.
const LOOKERS_DEADLINE: Duration = Duration::from_secs(5);

/// Why a run folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunFolderError {
    /// Another launcher works in it.
    #[error("{} is in use by {holder}; stop it with `tandem stop {}`", path.display(), path.display())]
    Locked {
        /// The run folder.
        path: PathBuf,
        /// Who works in it.
        holder: Holder,
    },
    /// The file system has no locks.
    #[error(
        "cannot lock {}: {source}: its file system has no locks, without which two launchers could write \
         there; choose another with `run.folder`, or have this one mounted with locks (Lustre: `flock`; \
         NFS 3: a running lockd)",
        path.display()
    )]
    NoLocks {
        /// The lock's file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// The launcher that works in a run folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its machine.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// Slurm's job in which it runs.
    #[serde(default)]
    pub job: Option<String>,
    /// How often Slurm had started that job again.
    #[serde(default)]
    pub restarts: u64,
    /// A name that no other launcher has or had.
    #[serde(default)]
    pub id: String,
}

impl Holder {
    /// This process.
    fn this() -> io::Result<Self> {
        Ok(Self {
            id: process::random_name()?,
            host: network::own_name(),
            pid: std::process::id(),
            job: Job::this().map(|job| job.id),
            restarts: Job::restarts(),
        })
    }

    /// Whether it belongs to an earlier start of the Slurm job in which this process runs.
    pub fn is_of_an_earlier_start(&self) -> bool {
        let job = Job::this().map(|job| job.id);
        self.is_of_an_earlier_start_than(&Self {
            job,
            restarts: Job::restarts(),
            ..Self::default()
        })
    }

    fn is_of_an_earlier_start_than(&self, other: &Self) -> bool {
        self.job.is_some() && self.job == other.job && self.restarts < other.restarts
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the launcher with process number {} on {}", self.pid, self.host)
    }
}

/// A run's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFolder {
    path: PathBuf,
}

/// A run folder's lock; it ends with the process, however that ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    request: StopRequest,
}

impl Lock {
    /// The file by which this process is asked to stop.
    pub fn stop_request(&self) -> &StopRequest {
        &self.request
    }
}

/// The place where one launcher is asked to write a checkpoint and stop. A request that was meant
/// for another launcher is none.
#[derive(Debug, Clone)]
pub struct StopRequest {
    path: PathBuf,
    id: String,
}

impl StopRequest {
    /// Whether a stop was requested.
    pub fn is_made(&self) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|id| id.trim_end() == self.id)
    }
}

/// Whether it is the file system, and not this file, that cannot be locked.
fn has_no_locks(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(libc::ENOLCK)
}

impl RunFolder {
    /// The run folder at `path`, which need not exist.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The resolved config.
    pub fn config(&self) -> PathBuf {
        self.path.join(names::CONFIG)
    }

    /// Where the run stands, rewritten as it goes.
    pub fn state(&self) -> PathBuf {
        self.path.join(names::STATE)
    }

    /// What happened, a line each.
    pub fn events(&self) -> PathBuf {
        self.path.join("events.jsonl")
    }

    /// The newest data report: what became of a split's lines.
    pub fn data_report(&self) -> PathBuf {
        self.path.join("data.json")
    }

    /// The finished run's report.
    pub fn report(&self) -> PathBuf {
        self.path.join("report.md")
    }

    /// The picture of the report.
    pub fn report_picture(&self) -> PathBuf {
        self.path.join("report.svg")
    }

    /// TensorBoard's files.
    pub fn tensorboard(&self) -> PathBuf {
        self.path.join("tensorboard")
    }

    /// The finished model.
    pub fn export(&self) -> PathBuf {
        self.path.join(names::EXPORT)
    }

    /// The finished model while it is written.
    pub fn export_draft(&self) -> PathBuf {
        self.path.join("export.tmp")
    }

    /// The former model while the new one takes its place.
    pub fn export_aside(&self) -> PathBuf {
        self.path.join("export.removed")
    }

    /// The vocabularies that the run has learnt.
    pub fn vocabulary(&self) -> PathBuf {
        self.path.join("vocabulary")
    }

    /// The files of these, as paths in the run folder.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn vocabulary_files(&self) -> io::Result<Vec<PathBuf>> {
        let (mut folders, mut files) = (vec![self.vocabulary()], Vec::new());
        while let Some(folder) = folders.pop().filter(|folder| folder.is_dir()) {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Ok(file) = path.strip_prefix(&self.path) {
                    files.push(file.to_owned());
                }
            }
        }
        Ok(files)
    }

    fn language_models(&self) -> PathBuf {
        self.path.join("language_models")
    }

    /// The n-gram model of this order of the run's training targets; see
    /// [`NgramsFile`](crate::run::ngrams::NgramsFile).
    pub fn language_model(&self, order: usize) -> PathBuf {
        self.language_models().join(format!("order-{order}.ngrams"))
    }

    /// All logs.
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// One attempt's logs.
    pub fn attempt_logs(&self, attempt: u64) -> PathBuf {
        self.logs().join(format!("attempt-{attempt}"))
    }

    /// What one rank printed.
    pub fn rank_log(&self, attempt: u64, rank: usize) -> PathBuf {
        self.attempt_logs(attempt).join(format!("rank-{rank}.log"))
    }

    /// What the engine printed.
    pub fn engine_log(&self, attempt: u64) -> PathBuf {
        self.attempt_logs(attempt).join("engine.log")
    }

    /// The checkpoints.
    pub fn store(&self) -> Store {
        Store::new(self.path.join(names::CHECKPOINTS))
    }

    /// A trained model by its checkpoint's name, verified: that of the run, or the one that an exported
    /// folder holds, whose name is `average`.
    ///
    /// # Errors
    /// No such checkpoint, or a damaged one.
    pub fn model(&self, checkpoint: &str) -> Result<Checkpoint, StoreError> {
        if !self.path.join(MANIFEST).is_file() {
            return self.store().open(checkpoint);
        }
        if checkpoint != AVERAGE {
            let (name, folder) = (checkpoint.into(), self.path.clone());
            return Err(StoreError::Absent { name, folder, present: vec![AVERAGE.into()] });
        }
        Checkpoint::verify(&self.path)
    }

    fn evaluations(&self) -> PathBuf {
        self.path.join("evaluation")
    }

    /// The evaluation of a split at a step.
    pub fn evaluation(&self, split: &str, step: u64) -> EvaluationFolder {
        self.named_evaluation(&format!("{split}-step-{step:08}"))
    }

    /// An evaluation by `tandem evaluate`.
    pub fn named_evaluation(&self, name: &str) -> EvaluationFolder {
        EvaluationFolder::new(self.evaluations().join(name))
    }

    /// The evaluation of the untrained model, which only measures its speed.
    pub fn untrained_evaluation(&self) -> EvaluationFolder {
        EvaluationFolder::new(self.path.join("latency"))
    }

    /// What training and evaluating leave in the folder, apart from logs.
    pub fn products(&self) -> Vec<PathBuf> {
        vec![
            self.config(),
            self.state(),
            self.events(),
            self.data_report(),
            self.report(),
            self.report_picture(),
            self.stop_request(),
            self.job_script(),
            self.vocabulary(),
            self.language_models(),
            self.store().folder().to_owned(),
            self.tensorboard(),
            self.evaluations(),
            self.export(),
            self.export_draft(),
            self.export_aside(),
        ]
    }

    /// What teachers leave in the folder.
    pub fn synthetic_data(&self) -> Vec<PathBuf> {
        vec![self.distilled(), self.back_translated()]
    }

    /// Training data in which a teacher replaced the targets.
    pub fn distilled(&self) -> PathBuf {
        self.path.join("distilled")
    }

    /// Training data whose sources a teacher wrote.
    pub fn back_translated(&self) -> PathBuf {
        self.path.join("back_translated")
    }

    /// The batch script of the run's job.
    pub fn job_script(&self) -> PathBuf {
        self.path.join("job.sh")
    }

    /// Names the launcher that is to write a checkpoint and stop.
    pub fn stop_request(&self) -> PathBuf {
        self.path.join("stop.request")
    }

    fn lock_file(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Makes the folder, if need be, and takes its lock.
    ///
    /// # Errors
    /// Another launcher has it, or the file system refuses.
    pub fn lock(&self) -> Result<Lock, RunFolderError> {
        fs::create_dir_all(&self.path).tried("make", &self.path)?;
        let path = self.lock_file();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .tried("open", &path)?;
        match lock_beside_lookers(&file) {
            Ok(true) => {}
            Ok(false) => {
                let holder = read_holder(&mut file);
                return Err(RunFolderError::Locked { path: self.path.clone(), holder });
            }
            Err(source) if has_no_locks(&source) => {
                return Err(RunFolderError::NoLocks { path, source });
            }
            Err(source) => return Err(IoError::new("lock", path, source).into()),
        }
        let write = |file: &mut File| {
            let holder = Holder::this()?;
            let text = serde_json::to_vec(&holder)?;
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(&text)?;
            Ok(holder.id)
        };
        let id = write(&mut file).tried("write", &path)?;
        Ok(Lock { _file: file, request: StopRequest { path: self.stop_request(), id } })
    }

    /// The launcher that works in this folder now.
    pub fn holder(&self) -> Option<Holder> {
        let mut file = File::open(self.lock_file()).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(read_holder(&mut file)),
            _ => None,
        }
    }

    /// Asks a launcher to write a checkpoint and stop.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn ask_to_stop(&self, holder: &Holder) -> Result<(), IoError> {
        atomic::write(&self.stop_request(), &format!("{}\n", holder.id))
    }

    /// Appends one line to a file of the run folder. Half a line, which a full disk or a kill has
    /// left, stays a line of its own.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn append(&self, path: &Path, line: &str) -> Result<(), IoError> {
        let appended = OpenOptions::new().create(true).read(true).append(true).open(path).and_then(
            |mut file| {
                let start = if ends_a_line(&mut file)? { "" } else { "\n" };
                file.write_all(format!("{start}{line}\n").as_bytes())
            },
        );
        appended.tried("write", path)
    }

    /// Gives a group of workers its number, one above all before, by making its folder of logs.
    ///
    /// Several launchers may do so at once, as when a running model translates.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn begin_attempt(&self) -> Result<u64, IoError> {
        let logs = self.logs();
        fs::create_dir_all(&logs).tried("make", &logs)?;
        let mut attempt = self.newest_attempt() + 1;
        loop {
            let folder = self.attempt_logs(attempt);
            match fs::create_dir(&folder) {
                Ok(()) => return Ok(attempt),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => attempt += 1,
                Err(source) => return Err(IoError::new("make", folder, source)),
            }
        }
    }

    /// The number of the newest group of workers; 0 if there was none.
    pub fn newest_attempt(&self) -> u64 {
        let Ok(entries) = fs::read_dir(self.logs()) else { return 0 };
        let number = |name: &str| name.strip_prefix("attempt-")?.parse().ok();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter_map(|name| number(&name)).max().unwrap_or(0)
    }
}

/// Takes the lock of a file; false if another launcher has it. Whoever looks for the holder has a shared
/// lock for a moment, and keeps nobody out.
fn lock_beside_lookers(file: &File) -> io::Result<bool> {
    let deadline = Instant::now() + LOOKERS_DEADLINE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
        match file.try_lock_shared() {
            Ok(()) => file.unlock()?,
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn ends_a_line(file: &mut File) -> io::Result<bool> {
    let length = file.seek(SeekFrom::End(0))?;
    let Some(last) = length.checked_sub(1) else { return Ok(true) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte == *b"\n")
}

fn read_holder(file: &mut File) -> Holder {
    let mut text = String::new();
    // An empty lock file still locks.
    let _ = file.read_to_string(&mut text);
    serde_json::from_str(&text)
        .unwrap_or_else(|_| Holder { host: "an unknown machine".into(), ..Holder::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn launchers_side_by_side_in_a_job_are_not_of_an_earlier_start() {
        let holder = |job: Option<&str>, restarts| Holder {
            job: job.map(Into::into),
            restarts,
            ..Holder::default()
        };
        let first = holder(Some("7"), 0);
        assert!(first.is_of_an_earlier_start_than(&holder(Some("7"), 1)));
        for other in [holder(Some("7"), 0), holder(Some("8"), 1), holder(None, 1)] {
            assert!(!first.is_of_an_earlier_start_than(&other), "{other:?}");
        }
        assert!(!holder(None, 0).is_of_an_earlier_start_than(&holder(None, 1)));
    }

    #[test]
    fn a_run_folder_has_one_launcher() {
        let folder = TempDir::new().unwrap();
        let run = RunFolder::new(folder.path().join("run"));
        assert_eq!(run.holder(), None);
        let lock = run.lock().unwrap();
        let error = run.lock().unwrap_err().to_string();
        assert!(error.contains(&format!("process number {}", std::process::id())), "{error}");
        assert_eq!(run.holder().unwrap().pid, std::process::id());
        drop(lock);
        assert_eq!(run.holder(), None);
        run.lock().unwrap();
    }

    #[test]
    fn who_looks_for_the_launcher_keeps_none_out() {
        let folder = TempDir::new().unwrap();
        let run = RunFolder::new(folder.path().join("run"));
        drop(run.lock().unwrap());
        let looker = File::open(run.lock_file()).unwrap();
        looker.lock_shared().unwrap();
        let looks = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            drop(looker);
        });
        run.lock().unwrap();
        looks.join().unwrap();
    }

    #[test]
    fn a_request_to_stop_is_meant_for_one_launcher() {
        let folder = TempDir::new().unwrap();
        let run = RunFolder::new(folder.path().join("run"));
        let first = run.lock().unwrap();
        run.ask_to_stop(&run.holder().unwrap()).unwrap();
        assert!(first.stop_request().is_made());
        drop(first);
        let second = run.lock().unwrap();
        assert!(!second.stop_request().is_made(), "it died with the one that was asked");
        run.ask_to_stop(&run.holder().unwrap()).unwrap();
        assert!(second.stop_request().is_made());
    }

    #[test]
    fn half_a_line_stays_alone() {
        let folder = TempDir::new().unwrap();
        let run = RunFolder::new(folder.path().to_owned());
        run.append(&run.events(), "1").unwrap();
        fs::write(run.events(), "1\nhal").unwrap();
        run.append(&run.events(), "2").unwrap();
        run.append(&run.events(), "3").unwrap();
        assert_eq!(fs::read_to_string(run.events()).unwrap(), "1\nhal\n2\n3\n");
    }

    #[test]
    fn no_two_attempts_have_the_same_number() {
        let folder = TempDir::new().unwrap();
        let run = RunFolder::new(folder.path().to_owned());
        assert_eq!(run.begin_attempt().unwrap(), 1);
        fs::create_dir_all(run.attempt_logs(10)).unwrap();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let run = run.clone();
                std::thread::spawn(move || run.begin_attempt().unwrap())
            })
            .collect();
        let mut numbers: Vec<u64> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [11, 12, 13, 14]);
    }
}
