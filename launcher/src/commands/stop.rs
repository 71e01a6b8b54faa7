//! `tandem stop`: has a running launch write a checkpoint and exit.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tandem_cluster::process::say;
use tandem_cluster::run::folder::RunFolder;

use crate::journal::read_state;
use crate::prepare;
use crate::slurm::job;
use crate::terminal::exit::{Exit, Refused};

/// How often the run is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long a launcher may take to write its name into the lock file.
const HOLDER_TIMEOUT: Duration = Duration::from_secs(1);

/// Stop a running launch after a checkpoint, and cancel the queued Slurm job that would resume it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run's folder, or its name in `runs`.
    run: PathBuf,
    /// How many seconds to wait for it to stop.
    #[arg(long, default_value_t = 300)]
    wait: u64,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let run = prepare::find(&self.run)?;
        let begun = Instant::now();
        let holder = loop {
            match run.holder() {
                None if cancel_waiting(&run)? => return Ok(Exit::Done),
                None => {
                    let path = run.path().display();
                    return Err(Refused(format!("{path} is not running")).into());
                }
                // It has just taken the folder, and not yet said who it is.
                Some(holder) if holder.id.is_empty() && begun.elapsed() < HOLDER_TIMEOUT => {
                    std::thread::sleep(POLL_INTERVAL);
                }
                Some(holder) => break holder,
            }
        };
        // A file rather than a signal: it also reaches a launcher on another machine, and only it.
        run.ask_to_stop(&holder)?;
        say(format_args!("asked {holder} to write a checkpoint and stop"));
        let deadline = Instant::now() + Duration::from_secs(self.wait);
        while run.holder().is_some_and(|now| now.id == holder.id) {
            if Instant::now() > deadline {
                say(format_args!("error: it did not stop within {} s", self.wait));
                return Ok(Exit::Deadline);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        let latest = read_state(&run).and_then(|state| state.latest);
        match latest {
            Some(step) => {
                say(format_args!("stopped; the newest checkpoint is from step {step}"));
            }
            None => say("stopped; there is no checkpoint"),
        }
        cancel_waiting(&run)?;
        Ok(Exit::Done)
    }
}

/// Cancels the queued job that would resume a run, and returns whether there was one.
fn cancel_waiting(run: &RunFolder) -> Result<bool, Refused> {
    let cancelled = job::cancel_waiting(run)?;
    if let Some(id) = &cancelled {
        say(format_args!("cancelled job {id}, which would have resumed the run"));
    }
    Ok(cancelled.is_some())
}
