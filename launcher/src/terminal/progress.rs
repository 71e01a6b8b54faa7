//! The progress of a run: one line that is rewritten on a terminal, separate lines elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const PLAIN_INTERVAL: Duration = Duration::from_secs(10);
const TERMINAL_INTERVAL: Duration = Duration::from_millis(100);

/// The progress of training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Standing {
    /// The number of finished steps.
    pub step: u64,
    /// The number of all steps.
    pub steps: u64,
    /// The step's loss.
    pub loss: f64,
    /// Target tokens per second, over all ranks.
    pub tokens_per_second: f64,
}

/// Prints progress to standard error.
#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
    shown: Option<Instant>,
    line_open: bool,
    /// The time and step from which the pace is measured.
    start: Option<(Instant, u64)>,
}

impl Default for Progress {
    fn default() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { terminal, shown: None, line_open: false, start: None }
    }
}

impl Progress {
    /// Measures the pace anew, after an interruption.
    pub(crate) fn restart(&mut self) {
        self.start = None;
    }

    /// Shows the progress if it is time to, and returns the estimated seconds left, if known.
    pub(crate) fn show(&mut self, standing: Standing) -> Option<f64> {
        let now = Instant::now();
        let (start, first) = *self.start.get_or_insert((now, standing.step));
        let left = time_left(standing, first, now.duration_since(start).as_secs_f64());
        self.show_line(&line(standing, left), standing.step == standing.steps);
        left
    }

    /// Shows a line in place of the previous one, if it is time to or it is the last.
    pub(crate) fn show_line(&mut self, line: &str, last: bool) {
        let now = Instant::now();
        let interval = if self.terminal { TERMINAL_INTERVAL } else { PLAIN_INTERVAL };
        if last || self.shown.is_none_or(|shown| now.duration_since(shown) >= interval) {
            self.shown = Some(now);
            let mut output = std::io::stderr().lock();
            // Nothing can be done if standard error is closed.
            let _ = if self.terminal {
                self.line_open = true;
                write!(output, "\r\x1b[K{line}").and_then(|()| output.flush())
            } else {
                writeln!(output, "{line}")
            };
        }
    }

    /// Prints a permanent line.
    pub(crate) fn say(&mut self, text: &str) {
        let mut output = std::io::stderr().lock();
        let start = if self.line_open { "\r\x1b[K" } else { "" };
        self.line_open = false;
        let _ = writeln!(output, "{start}{text}");
    }
}

/// Seconds until the last step, by the pace since step `first`, `elapsed` seconds ago.
fn time_left(standing: Standing, first: u64, elapsed: f64) -> Option<f64> {
    let done = standing.step.checked_sub(first).filter(|done| *done > 0)?;
    Some(elapsed / done as f64 * standing.steps.saturating_sub(standing.step) as f64)
}

fn line(standing: Standing, left: Option<f64>) -> String {
    let Standing { step, steps, loss, tokens_per_second } = standing;
    let left = left.map_or("?".into(), duration);
    format!("step {step}/{steps}  loss {loss:.4}  {tokens_per_second:.0} tokens/s  {left} left")
}

/// Formats a duration: `45s`, `3m20s`, `2h05m`.
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_step_loss_rate_and_time_left() {
        let standing = Standing { step: 30, steps: 100, loss: 2.34567, tokens_per_second: 1234.5 };
        // 20 steps in 10 s: 70 more take 35 s.
        let left = time_left(standing, 10, 10.0);
        assert_eq!(line(standing, left), "step 30/100  loss 2.3457  1234 tokens/s  35s left");
        assert_eq!(time_left(standing, 30, 10.0), None);
        assert!(line(standing, None).ends_with("? left"));
    }

    #[test]
    fn durations_are_short() {
        assert_eq!(duration(45.4), "45s");
        assert_eq!(duration(200.0), "3m20s");
        assert_eq!(duration(7500.0), "2h05m");
    }
}
