//! Takes a run over from an earlier start of the same job, which Slurm has started again elsewhere.

use std::thread;
use std::time::{Duration, Instant};

use tandem_cluster::run::folder::{Lock, RunFolder, RunFolderError};

use crate::terminal::interrupts::Interrupts;
use crate::terminal::progress::Progress;

/// Who held the run folder before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// Nobody who is still running.
    Nobody,
    /// An earlier start of this very job, on a node that Slurm has lost.
    CutOff,
}

/// Takes the run folder's lock. An earlier start of the same job may still hold it, on a node that
/// is cut off: it is asked to stop, and waited for.
///
/// # Errors
/// Another launcher holds the lock, or has not released it in time; or the file system refuses.
pub(crate) fn take(
    run: &RunFolder,
    patience: Duration,
    interrupts: &Interrupts,
    progress: &mut Progress,
) -> Result<(Lock, Before), RunFolderError> {
    let started = Instant::now();
    let mut before = Before::Nobody;
    loop {
        let error = match run.lock() {
            Ok(lock) => return Ok((lock, before)),
            Err(error) => error,
        };
        let RunFolderError::Locked { holder, .. } = &error else { return Err(error) };
        if !holder.is_of_an_earlier_start()
            || started.elapsed() > patience
            || interrupts.stop_requested()
        {
            return Err(error);
        }
        if before == Before::Nobody {
            before = Before::CutOff;
            run.ask_to_stop(holder)?;
            progress.say(&format!(
                "waiting for {holder} of an earlier start of this job, at most {} s \
                 (cluster.deadlines.hosts)",
                patience.as_secs()
            ));
        }
        thread::sleep(Duration::from_secs(1));
    }
}
