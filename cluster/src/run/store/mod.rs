//! Checkpoints: folders that are either complete and verified, or do not exist.
//!
//! A worker writes a [`Draft`], `step-<n>.tmp-<attempt>`, and seals it: every file synced, then
//! the [`Manifest`] with their hashes. Only the coordinator publishes, with [`Store::publish`]:
//! it verifies the draft and renames it to `step-<n>`. So a worker that was cut
//! off and comes back can write what it likes and publish nothing, and a crash between any two
//! operations leaves the checkpoints that were there before.

mod average;
mod checkpoint;
mod draft;
mod export;
mod manifest;
mod retention;
mod tensors;

pub use checkpoint::{Checkpoint, Damage, Damaged, OtherBase};
pub use draft::Draft;
pub use manifest::{Base, FileRecord, MANIFEST, Manifest, hash_file, hash_weights};
pub use retention::Retention;
pub use tensors::{MappedTensors, write_tensors};

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tandem_config::schema::run::names;

use crate::run::atomic::{self, remove_folder, replace_folder, sync_folder};
use crate::run::io_error::{IoContext, IoError};

/// The trained tensors, in a checkpoint's folder.
pub const ADAPTERS: &str = names::WEIGHTS;
/// The optimizer's state, in a checkpoint's folder.
pub const OPTIMIZER: &str = "optimizer.safetensors";
/// Where training stood, in a checkpoint's folder.
pub const TRAINER: &str = "trainer.json";

/// The name of the average of the last checkpoints.
pub const AVERAGE: &str = "average";
/// The mark of the newest checkpoint.
pub const LATEST: &str = "latest";
/// The mark of the best checkpoint.
const BEST: &str = "best";

/// Why an operation of the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A checkpoint is not what its manifest says.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// A checkpoint that this user may not read.
    #[error(
        "permission denied to read {}; whoever owns it can share it: `chmod -R g+rwX {}`",
        path.display(), folder.display()
    )]
    Denied {
        /// The file.
        path: PathBuf,
        /// The checkpoint's folder.
        folder: PathBuf,
    },
    /// A draft was written by another attempt or for another step.
    #[error("{} was written by attempt {attempt} at step {step}; it is not published", folder.display())]
    Foreign {
        /// The draft.
        folder: PathBuf,
        /// What its manifest says.
        step: u64,
        /// What its manifest says.
        attempt: u64,
    },
    /// There is no checkpoint of this name.
    #[error("there is no checkpoint `{name}` in {}; there are: {}", folder.display(), list(present))]
    Absent {
        /// What was requested.
        name: String,
        /// Where.
        folder: PathBuf,
        /// What is available.
        present: Vec<String>,
    },
    /// Checkpoints that cannot be averaged.
    #[error("cannot average {}: {reason}", path.display())]
    Average {
        /// The file that does not fit.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// A run's folder of checkpoints.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// The store in `folder`, which is created with the first draft.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of the checkpoint of `step`, which need not exist.
    pub fn step_folder(&self, step: u64) -> PathBuf {
        self.folder.join(step_name(step))
    }

    /// A new, empty draft for the checkpoint of `step`.
    ///
    /// # Errors
    /// The folder cannot be created or emptied.
    pub fn draft(&self, step: u64, attempt: u64) -> io::Result<Draft> {
        Draft::create(self.draft_folder(step, attempt), step, attempt)
    }

    /// Makes a sealed draft the checkpoint of its step.
    ///
    /// # Errors
    /// A draft that is damaged or that another attempt wrote; it stays a draft. Where the file
    /// system refuses, the checkpoints published before stay as they are.
    pub fn publish(&self, step: u64, attempt: u64) -> Result<Checkpoint, StoreError> {
        let draft = self.draft_folder(step, attempt);
        let found = Checkpoint::verify(&draft)?;
        let manifest = found.manifest();
        if (manifest.step, manifest.attempt) != (step, attempt) {
            let (step, attempt) = (manifest.step, manifest.attempt);
            return Err(StoreError::Foreign { folder: draft, step, attempt });
        }
        let name = step_name(step);
        let published = self.replace(&draft, &name)?;
        Ok(found.moved_to(published))
    }

    /// The newest checkpoint that is what its manifest says, and the damaged ones passed over.
    ///
    /// # Errors
    /// Where the folder, or a checkpoint, may not be read.
    pub fn newest_good(&self) -> Result<(Option<Checkpoint>, Vec<Damaged>), StoreError> {
        let mut damaged = Vec::new();
        for step in self.steps()?.into_iter().rev() {
            match or_damaged(self.verify(step))? {
                Ok(checkpoint) => return Ok((Some(checkpoint), damaged)),
                Err(found) => damaged.push(found),
            }
        }
        Ok((None, damaged))
    }

    /// The newest checkpoint of a step before this one that is what its manifest says.
    ///
    /// # Errors
    /// Where the folder, or a checkpoint, may not be read.
    pub fn newest_good_before(&self, step: u64) -> Result<Option<Checkpoint>, StoreError> {
        let before = self.steps()?.into_iter().rev().filter(|found| *found < step);
        before.into_iter().find_map(|step| self.good(step).transpose()).transpose()
    }

    /// The checkpoint of a step; none where it is damaged.
    fn good(&self, step: u64) -> Result<Option<Checkpoint>, StoreError> {
        Ok(or_damaged(self.verify(step))?.ok())
    }

    /// The checkpoint of a step, if it is what its manifest says.
    ///
    /// # Errors
    /// What is wrong with it, or that it may not be read.
    pub fn verify(&self, step: u64) -> Result<Checkpoint, StoreError> {
        Checkpoint::verify(&self.step_folder(step))
    }

    /// A checkpoint by name, verified: `latest`, `best`, `average`, or the number of a step.
    ///
    /// # Errors
    /// No such checkpoint, or a damaged one.
    pub fn open(&self, name: &str) -> Result<Checkpoint, StoreError> {
        let target = match (name, name.parse()) {
            (LATEST, _) => self.newest()?.map(step_name),
            (BEST, _) => self.best().map(step_name),
            (AVERAGE, _) => Some(name.into()),
            (_, Ok(step)) => Some(step_name(step)),
            _ => None,
        };
        match target.map(|target| self.folder.join(target)).filter(|folder| folder.is_dir()) {
            Some(folder) => Checkpoint::verify(&folder),
            None => {
                let steps = self.steps()?.into_iter().map(|step| step.to_string());
                let links = [LATEST, BEST, AVERAGE].map(String::from).into_iter();
                let present = links.filter(|link| self.folder.join(link).exists()).chain(steps);
                let (folder, present) = (self.folder.clone(), present.collect());
                Err(StoreError::Absent { name: name.into(), folder, present })
            }
        }
    }

    /// Makes `best` point to the checkpoint of `step`.
    ///
    /// # Errors
    /// No such checkpoint, or where the file system refuses.
    pub fn mark_best(&self, step: u64) -> Result<(), StoreError> {
        self.point(BEST, step)
    }

    /// Makes `latest` point to the newest checkpoint, for people: which one it is, the checkpoints
    /// themselves say.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn mark_latest(&self) -> Result<(), StoreError> {
        self.newest()?.map_or(Ok(()), |step| self.point(LATEST, step))
    }

    /// The step of the newest checkpoint, which may be damaged.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn newest(&self) -> Result<Option<u64>, StoreError> {
        Ok(self.steps()?.pop())
    }

    /// The step of the checkpoint to which `best` points.
    pub fn best(&self) -> Option<u64> {
        let mark = self.folder.join(BEST);
        let link = fs::read_link(&mark).ok().and_then(|link| link.to_str().map(String::from));
        step_of(link.or_else(|| fs::read_to_string(&mark).ok())?.trim_end())
    }

    /// The steps of the published checkpoints, oldest first, damaged ones included.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn steps(&self) -> Result<Vec<u64>, StoreError> {
        let mut steps: Vec<u64> = self.entries()?.iter().filter_map(|name| step_of(name)).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// The names in the folder; none where there is no folder yet.
    fn entries(&self) -> Result<Vec<String>, StoreError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(IoError::new("list", &self.folder, error).into()),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.tried("list", &self.folder)?.file_name();
            names.extend(name.into_string());
        }
        Ok(names)
    }

    fn draft_folder(&self, step: u64, attempt: u64) -> PathBuf {
        self.folder.join(format!("{}.tmp-{attempt}", step_name(step)))
    }

    /// Renames a draft to `name`; what had that name before goes when the new one is safe.
    fn replace(&self, draft: &Path, name: &str) -> Result<PathBuf, StoreError> {
        let target = self.folder.join(name);
        let aside = self.folder.join(format!("{name}.removed"));
        replace_folder(draft, &target, &aside)?;
        Ok(target)
    }

    /// Moves a mark to the checkpoint of `step` in one operation. It is a link; where the file system
    /// has none, a file with the name.
    fn point(&self, mark: &str, step: u64) -> Result<(), StoreError> {
        let name = step_name(step);
        let folder = self.folder.join(&name);
        fs::metadata(&folder).tried("find", &folder)?;
        let (mark, next) = (self.folder.join(mark), self.folder.join(format!("{mark}.next")));
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(IoError::new("remove", next, error).into());
            }
            _ => {}
        }
        match std::os::unix::fs::symlink(&name, &next) {
            Ok(()) => fs::rename(&next, &mark).tried("move the link", &mark)?,
            Err(_) => atomic::write(&mark, &format!("{name}\n"))?,
        }
        Ok(sync_folder(&self.folder).tried("sync", &self.folder)?)
    }
}

/// Distinguishes a damaged checkpoint from one that cannot be read.
fn or_damaged<T>(found: Result<T, StoreError>) -> Result<Result<T, Damaged>, StoreError> {
    match found {
        Ok(found) => Ok(Ok(found)),
        Err(StoreError::Damaged(damaged)) => Ok(Err(damaged)),
        Err(error) => Err(error),
    }
}

fn step_name(step: u64) -> String {
    format!("step-{step:08}")
}

fn step_of(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step-")?.parse().ok()?;
    (step_name(step) == name).then_some(step)
}

#[cfg(test)]
mod tests;
