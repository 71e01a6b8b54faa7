//! Signals to the launcher: workers never see them.

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

/// Counts the signals that ask to stop.
#[derive(Debug, Clone, Default)]
pub struct Interrupts {
    interrupts: Arc<AtomicUsize>,
    terminations: Arc<AtomicUsize>,
    warnings: Arc<AtomicUsize>,
    ending: Arc<OnceLock<Ending>>,
    /// Where else this process is asked to stop.
    requests: Vec<StopRequest>,
}

impl Interrupts {
    /// From now on SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 are counted and do nothing else. A
    /// SIGHUP that was ignored before, as under `nohup`, stays ignored.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn catch() -> std::io::Result<Self> {
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

    /// The same signals, besides which a request asks to stop.
    pub fn or_request(&self, request: &StopRequest) -> Self {
        let mut both = self.clone();
        both.requests.push(request.clone());
        both
    }

    /// Whether somebody asked for a checkpoint and an end.
    pub fn stop_requested(&self) -> bool {
        self.requests.iter().any(StopRequest::is_made)
            || self.interrupts.load(Ordering::SeqCst) > 0
            || self.was_terminated()
            || self.was_warned()
            || self.ending.get().is_some()
    }

    /// Whether SIGTERM or SIGHUP came.
    pub fn was_terminated(&self) -> bool {
        self.terminations.load(Ordering::SeqCst) > 0
    }

    /// Whether SIGUSR1 or SIGUSR2 came, by which schedulers tell of an end in advance.
    pub fn was_warned(&self) -> bool {
        self.warnings.load(Ordering::SeqCst) > 0
    }

    /// The job of this process ends, which asks to stop.
    pub fn end(&self, ending: Ending) {
        // The first that is known is the cause.
        let _ = self.ending.set(ending);
    }

    /// How the job of this process ends, if it does.
    pub fn ending(&self) -> Option<Ending> {
        self.ending.get().cloned()
    }

    /// The same; where a signal has ended the job and why is not known yet, that is waited for.
    pub fn ending_within(&self, patience: Duration) -> Option<Ending> {
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

    /// Whether Ctrl-C was pressed again, after which nothing is waited for.
    pub fn kill_requested(&self) -> bool {
        self.interrupts.load(Ordering::SeqCst) > 1
    }
}

#[cfg(test)]
mod tests {
    use crate::journal::ending::Next;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(300);

    #[test]
    fn why_a_job_ends_is_waited_for_where_a_signal_has_ended_it() {
        let interrupts = Interrupts::default();
        let started = Instant::now();
        assert_eq!(interrupts.ending_within(10 * PATIENCE), None);
        assert!(started.elapsed() < PATIENCE, "nothing has ended it");

        interrupts.terminations.fetch_add(1, Ordering::SeqCst);
        let started = Instant::now();
        assert_eq!(interrupts.ending_within(PATIENCE), None);
        assert!(started.elapsed() >= PATIENCE, "Slurm was not given its time");

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
