//! `tandem stop`: a checkpoint, and then the end for now.

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

/// Ask a running launch to write a checkpoint and stop, and wait until it has; a job of Slurm's that
/// waits to go on with the run is cancelled.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's folder, or its name below `runs`.
    run: PathBuf,
    /// Seconds to wait.
    #[arg(long, default_value_t = 300)]
    wait: u64,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// No such run, or nobody works on it and nothing waits to.
    pub fn run(self) -> anyhow::Result<Exit> {
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
        // A file and no signal: it reaches launchers on other machines, and nobody else.
        run.ask_to_stop(&holder)?;
        say(format_args!("asked {holder} to write a checkpoint and stop"));
        let deadline = Instant::now() + Duration::from_secs(self.wait);
        while run.holder().is_some_and(|now| now.id == holder.id) {
            if Instant::now() > deadline {
                say(format_args!("error: it has not stopped within {} s", self.wait));
                return Ok(Exit::Deadline);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        let latest = read_state(&run).and_then(|state| state.latest);
        match latest {
            Some(step) => {
                say(format_args!("stopped; the newest checkpoint is of step {step}"));
            }
            None => say("stopped; there is no checkpoint"),
        }
        cancel_waiting(&run)?;
        Ok(Exit::Done)
    }
}

/// Whether a job waited to go on with a run, and was cancelled.
fn cancel_waiting(run: &RunFolder) -> Result<bool, Refused> {
    let cancelled = job::cancel_waiting(run)?;
    if let Some(id) = &cancelled {
        say(format_args!("cancelled job {id}, which was to go on with the run"));
    }
    Ok(cancelled.is_some())
}
