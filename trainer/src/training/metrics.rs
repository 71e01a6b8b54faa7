//! Where a step's time goes, and what the process uses.

use std::time::{Duration, Instant};

use tandem_cluster::run::records::StepTime;

/// Times since the last point in TensorBoard.
#[derive(Debug, Default)]
pub struct StepTimes {
    /// Waiting for micro-batches.
    data_wait: Duration,
    /// Waiting for other ranks' gradients after backward: communication that was not hidden.
    communication_wait: Duration,
    total: Duration,
    steps: u32,
    tokens: f64,
    started: Option<Instant>,
    pace: Pace,
}

/// Times since the pace was last read.
#[derive(Debug, Default, Clone, Copy)]
struct Pace {
    total: Duration,
    data: Duration,
    communication: Duration,
    micro_batches: u32,
    steps: u32,
}

/// Steps over which a rank's pace is taken.
const PACE_STEPS: u32 = 10;

impl StepTimes {
    /// A step begins.
    pub fn begin(&mut self) {
        self.started = Some(Instant::now());
    }

    /// A micro-batch was waited for so long.
    pub fn batch_ready(&mut self, waited: Duration) {
        self.data_wait += waited;
        self.pace.data += waited;
        self.pace.micro_batches += 1;
    }

    /// The gradients of the other ranks were waited for so long, at the step's end.
    pub fn gradients_ready(&mut self, waited: Duration) {
        self.communication_wait += waited;
        self.pace.communication += waited;
    }

    /// Seconds of waiting for data and of computing, a micro-batch, every so many steps.
    pub fn pace(&mut self) -> Option<(f64, f64)> {
        let Pace { total, data, communication, micro_batches, steps } = self.pace;
        if steps < PACE_STEPS || micro_batches == 0 {
            return None;
        }
        self.pace = Pace::default();
        let each = |time: Duration| time.as_secs_f64() / f64::from(micro_batches);
        // A rank that waits for the gradients of others is not slow.
        Some((each(data), each(total.saturating_sub(data + communication))))
    }

    /// Ends a step of so many tokens. Returns tokens per second since the last point.
    pub fn end(&mut self, tokens: f64) -> f64 {
        if let Some(started) = self.started.take() {
            let elapsed = started.elapsed();
            self.total += elapsed;
            self.steps += 1;
            self.pace.total += elapsed;
            self.pace.steps += 1;
            self.tokens += tokens;
        }
        self.tokens / self.total.as_secs_f64().max(1e-9)
    }

    /// The mean of the steps since the last point; a new point begins.
    pub fn take_mean(&mut self) -> StepTime {
        let steps = f64::from(self.steps.max(1));
        let per_step = |time: Duration| time.as_secs_f64() * 1e3 / steps;
        let mean = StepTime {
            total_ms: per_step(self.total),
            data_ms: per_step(self.data_wait),
            communication_ms: per_step(self.communication_wait),
        };
        *self = Self { pace: std::mem::take(&mut self.pace), ..Self::default() };
        mean
    }
}

/// The process's CPU time in user mode, in seconds.
pub fn user_seconds() -> f64 {
    let time = usage().ru_utime;
    time.tv_sec as f64 + time.tv_usec as f64 * 1e-6
}

/// The process's peak resident memory.
pub fn peak_rss_bytes() -> u64 {
    usage().ru_maxrss as u64 * 1024
}

fn usage() -> libc::rusage {
    let mut usage = std::mem::MaybeUninit::zeroed();
    // SAFETY: getrusage fills the struct, and all zeros is valid too.
    unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    }
}
