//! Where a step's time goes, and what the process uses.

use std::time::{Duration, Instant};

use tandem_cluster::run::records::StepTime;

/// Times since the last point in TensorBoard.
#[derive(Debug, Default)]
pub struct StepTimes {
    /// The step under way.
    started: Option<(Instant, Times)>,
    /// Of the steps since the last point.
    times: Times,
    tokens: f64,
    /// Of the steps since the pace was last read.
    pace: Times,
}

#[derive(Debug, Default, Clone, Copy)]
struct Times {
    total: Duration,
    /// Waiting for micro-batches.
    data: Duration,
    /// Waiting for other ranks' gradients after backward: communication that was not hidden.
    communication: Duration,
    micro_batches: u32,
    steps: u32,
}

impl std::ops::AddAssign for Times {
    fn add_assign(&mut self, other: Self) {
        self.total += other.total;
        self.data += other.data;
        self.communication += other.communication;
        self.micro_batches += other.micro_batches;
        self.steps += other.steps;
    }
}

/// Steps over which a rank's pace is taken.
const PACE_STEPS: u32 = 10;

impl StepTimes {
    /// A step begins.
    pub fn begin(&mut self) {
        self.started = Some((Instant::now(), Times::default()));
    }

    /// A micro-batch was waited for so long.
    pub fn batch_ready(&mut self, waited: Duration) {
        if let Some((_, times)) = &mut self.started {
            times.data += waited;
            times.micro_batches += 1;
        }
    }

    /// The gradients of the other ranks were waited for so long.
    pub fn gradients_ready(&mut self, waited: Duration) {
        if let Some((_, times)) = &mut self.started {
            times.communication += waited;
        }
    }

    /// Seconds of waiting for data and of computing, a micro-batch, every so many steps.
    pub fn pace(&mut self) -> Option<(f64, f64)> {
        let Times { total, data, communication, micro_batches, steps } = self.pace;
        if steps < PACE_STEPS || micro_batches == 0 {
            return None;
        }
        self.pace = Times::default();
        let each = |time: Duration| time.as_secs_f64() / f64::from(micro_batches);
        // A rank that waits for the gradients of others is not slow.
        Some((each(data), each(total.saturating_sub(data + communication))))
    }

    /// Ends the step.
    pub fn end(&mut self) {
        if let Some((started, mut times)) = self.started.take() {
            times.total = started.elapsed();
            times.steps = 1;
            self.times += times;
            self.pace += times;
        }
    }

    /// A step that has ended had so many tokens. Returns tokens per second since the last point.
    pub fn had(&mut self, tokens: f64) -> f64 {
        self.tokens += tokens;
        self.tokens / self.times.total.as_secs_f64().max(1e-9)
    }

    /// The mean of the steps since the last point; a new point begins.
    pub fn take_mean(&mut self) -> StepTime {
        self.tokens = 0.0;
        let times = std::mem::take(&mut self.times);
        let steps = f64::from(times.steps.max(1));
        let per_step = |time: Duration| time.as_secs_f64() * 1e3 / steps;
        StepTime {
            total_ms: per_step(times.total),
            data_ms: per_step(times.data),
            communication_ms: per_step(times.communication),
        }
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
