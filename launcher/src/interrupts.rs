//! Signals to the launcher: workers never see them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Counts the signals that ask to stop.
#[derive(Debug, Clone, Default)]
pub struct Interrupts {
    interrupts: Arc<AtomicUsize>,
    terminations: Arc<AtomicUsize>,
    /// Each asks to stop by being there.
    files: Vec<PathBuf>,
}

impl Interrupts {
    /// From now on SIGINT, SIGTERM and SIGHUP are counted and do nothing else.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn catch() -> std::io::Result<Self> {
        let caught = Self::default();
        for (signal, count) in [
            (SIGINT, &caught.interrupts),
            (SIGTERM, &caught.terminations),
            (SIGHUP, &caught.terminations),
        ] {
            let count = Arc::clone(count);
            let increment = move || {
                count.fetch_add(1, Ordering::SeqCst);
            };
            // SAFETY: adding to an atomic is async-signal-safe.
            unsafe { signal_hook::low_level::register(signal, increment) }?;
        }
        Ok(caught)
    }

    /// The same signals, besides which the presence of a file asks to stop.
    pub fn or_file(&self, file: PathBuf) -> Self {
        let mut both = self.clone();
        both.files.push(file);
        both
    }

    /// Whether somebody asked for a checkpoint and an end.
    pub fn stop_requested(&self) -> bool {
        self.files.iter().any(|file| file.exists())
            || self.interrupts.load(Ordering::SeqCst) + self.terminations.load(Ordering::SeqCst) > 0
    }

    /// Whether Ctrl-C was pressed again, after which nothing is waited for.
    pub fn kill_requested(&self) -> bool {
        self.interrupts.load(Ordering::SeqCst) > 1
    }
}
