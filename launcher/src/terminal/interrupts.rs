//! Requests to stop the launcher: signals, which workers never see, stop files and the end of a job.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use tandem_cluster::process::is_ignored;
use tandem_cluster::run::folder::StopRequest;

use crate::journal::ending::Ending;

/// How often a wait for an ending polls.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Counts the signals that ask the launcher to stop.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupts {
    interrupts: Arc<AtomicUsize>,
    terminations: Arc<AtomicUsize>,
    warnings: Arc<AtomicUsize>,
    ending: Arc<OnceLock<Ending>>,
    /// Stop requests of run folders.
    requests: Vec<StopRequest>,
}

impl Interrupts {
    /// Installs handlers that count SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 and do nothing else. If
    /// SIGHUP is ignored, as under `nohup`, it stays ignored.
    ///
    /// # Errors
    /// A handler that cannot be installed.
    pub(crate) fn catch() -> std::io::Result<Self> {
        let caught = Self::default();
        for (signal, count) in [
            (SIGINT, &caught.interrupts),
            (SIGTERM, &caught.terminations),
            (SIGHUP, &caught.terminations),
            (SIGUSR1, &caught.warnings),
            (SIGUSR2, &caught.warnings),
        ] {
            if signal == SIGHUP && is_ignored(signal) {
                continue;
            }
            let count = Arc::clone(count);
            let increment = move || {
                count.fetch_add(1, Ordering::SeqCst);
            };
            // SAFETY: adding to an atomic is async-signal-safe.
            unsafe { signal_hook::low_level::register(signal, increment) }?;
        }
        Ok(caught)
    }

    /// The same signals and a stop request.
    pub(crate) fn or_request(&self, request: &StopRequest) -> Self {
        let mut both = self.clone();
        both.requests.push(request.clone());
        both
    }

    /// Whether the launcher was asked to write a checkpoint and stop, by any of these.
    pub(crate) fn stop_requested(&self) -> bool {
        self.requests.iter().any(StopRequest::is_made)
            || self.interrupts.load(Ordering::SeqCst) > 0
            || self.was_terminated()
            || self.was_warned()
            || self.ending.get().is_some()
    }

    /// Whether SIGTERM or SIGHUP was received.
    pub(crate) fn was_terminated(&self) -> bool {
        self.terminations.load(Ordering::SeqCst) > 0
    }

    /// Whether SIGUSR1 or SIGUSR2 was received, with which schedulers announce the end of a job.
    pub(crate) fn was_warned(&self) -> bool {
        self.warnings.load(Ordering::SeqCst) > 0
    }

    /// Asks to stop, as SIGTERM does.
    pub(crate) fn stop(&self) {
        self.terminations.fetch_add(1, Ordering::SeqCst);
    }

    /// Asks to stop without waiting for anything, as a second Ctrl-C does.
    pub(crate) fn kill(&self) {
        self.interrupts.fetch_add(2, Ordering::SeqCst);
    }

    /// Records that this process's job is ending, which asks to stop.
    pub(crate) fn end(&self, ending: Ending) {
        // Only the first one is the cause.
        let _ = self.ending.set(ending);
    }

    /// How this process's job is ending, if it is.
    pub(crate) fn ending(&self) -> Option<Ending> {
        self.ending.get().cloned()
    }

    /// Like [`Self::ending`], but after SIGTERM or SIGHUP waits up to `patience` for the ending to be known.
    pub(crate) fn ending_within(&self, patience: Duration) -> Option<Ending> {
        let started = Instant::now();
        while self.ending().is_none()
            && self.was_terminated()
            && !self.kill_requested()
            && started.elapsed() < patience
        {
            thread::sleep(POLL_INTERVAL);
        }
        self.ending()
    }

    /// Whether Ctrl-C was pressed twice, which stops without waiting for anything.
    pub(crate) fn kill_requested(&self) -> bool {
        self.interrupts.load(Ordering::SeqCst) > 1
    }
}

#[cfg(test)]
mod tests {
    use crate::journal::ending::Next;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(300);

    #[test]
    fn after_a_signal_the_cause_of_a_jobs_end_is_waited_for() {
        let interrupts = Interrupts::default();
        let started = Instant::now();
        assert_eq!(interrupts.ending_within(10 * PATIENCE), None);
        assert!(started.elapsed() < PATIENCE, "waited without a signal");

        interrupts.terminations.fetch_add(1, Ordering::SeqCst);
        let started = Instant::now();
        assert_eq!(interrupts.ending_within(PATIENCE), None);
        assert!(started.elapsed() >= PATIENCE, "did not wait for Slurm");

        let (job, next) = ("7".into(), Next::BySlurm);
        let (cause, latest, steps) = (None, None, None);
        let ending = Ending { job, restarts: 0, cause, next, latest, steps, time: 0.0 };
        let (watcher, told) = (interrupts.clone(), ending.clone());
        let watching = thread::spawn(move || {
            thread::sleep(PATIENCE);
            watcher.end(told);
        });
        assert_eq!(interrupts.ending_within(100 * PATIENCE), Some(ending));
        watching.join().unwrap();
    }
}
