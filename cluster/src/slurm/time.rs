//! Slurm's times.

use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::ask;

/// A span of time as Slurm writes it: `minutes`, `minutes:seconds`, `hours:minutes:seconds`,
/// `days-hours`, `days-hours:minutes` or `days-hours:minutes:seconds`; none if it is none, as
/// `UNLIMITED`.
pub fn duration(text: &str) -> Option<Duration> {
    let (days, rest) = match text.split_once('-') {
        Some((days, rest)) => (Some(days.parse::<u64>().ok()?), rest),
        None => (None, text),
    };
    let numbers: Option<Vec<u64>> = rest.split(':').map(|part| part.parse().ok()).collect();
    let [hours, minutes, seconds] = match (days, numbers?.as_slice()) {
        (None, &[minutes]) => [0, minutes, 0],
        (None, &[minutes, seconds]) => [0, minutes, seconds],
        (Some(_), &[hours]) => [hours, 0, 0],
        (Some(_), &[hours, minutes]) => [hours, minutes, 0],
        (_, &[hours, minutes, seconds]) => [hours, minutes, seconds],
        _ => return None,
    };
    let hours = days.unwrap_or(0).checked_mul(24)?.checked_add(hours)?;
    let minutes = hours.checked_mul(60)?.checked_add(minutes)?;
    Some(Duration::from_secs(minutes.checked_mul(60)?.checked_add(seconds)?))
}

/// What time it is for Slurm's controller. Its times are those of its own clock; even how long a job
/// has run is what a program of Slurm's computes by the clock of the machine that asks.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Seconds since 1970 when it was read.
    read: u64,
    at: Instant,
}

impl Clock {
    /// The controller's; this machine's where it does not say.
    pub fn of_controller() -> Self {
        let mut command = Command::new("scontrol");
        command.args(["show", "config"]).env("SLURM_TIME_FORMAT", "%s");
        let said = ask(&mut command).ok().and_then(|config| as_of(&config));
        let here = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        Self { read: said.unwrap_or_else(here), at: Instant::now() }
    }

    /// How long it is until a time of this clock's; nothing if that is over.
    pub fn until(&self, time: u64) -> Duration {
        Duration::from_secs(time.saturating_sub(self.read)).saturating_sub(self.at.elapsed())
    }
}

/// The time in the first line, `Configuration data as of 1700000000`.
fn as_of(config: &str) -> Option<u64> {
    config.lines().next()?.strip_prefix("Configuration data as of ")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_slurm_reads_them() {
        let seconds = |text: &str| duration(text).map(|span| span.as_secs());
        for (text, wanted) in [
            ("2", 120),
            ("2:30", 150),
            ("1:00:05", 3605),
            ("1-0", 86_400),
            ("1-2:03", 93_780),
            ("1-02:03:04", 93_784),
        ] {
            assert_eq!(seconds(text), Some(wanted), "{text}");
        }
        for text in ["", "UNLIMITED", "x", "1:2:3:4", "1-", "-1", "18446744073709551615-0"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn a_clock_goes_on_from_what_was_said() {
        assert_eq!(as_of("Configuration data as of 1700000000\nX = 1\n"), Some(1_700_000_000));
        assert_eq!(as_of("Configuration data as of 2026-11-28T06:37:09\n"), None);
        let clock = Clock { read: 1000, at: Instant::now() };
        let left = clock.until(1100);
        assert!(left <= Duration::from_secs(100) && left > Duration::from_secs(90), "{left:?}");
        assert_eq!(clock.until(900), Duration::ZERO);
    }
}
