//! `tandem stop`: a checkpoint, and then the end for now.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::coordinator::journal::read_state;
use crate::exit::{Exit, Refused};
use crate::prepare;

/// How often the run is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Ask a running launch to write a checkpoint and stop, and wait until it has.
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
    /// No such run, or nobody works on it.
    pub fn run(self) -> anyhow::Result<Exit> {
        let run = prepare::find(&self.run)?;
        let Some(holder) = run.holder() else {
            return Err(Refused(format!("{} is not running", run.path().display())).into());
        };
        // A file and no signal: it reaches launchers on other machines, and nobody else.
        run.replace(&run.stop_request(), "stop\n")?;
        eprintln!("asked {holder} to write a checkpoint and stop");
        let deadline = Instant::now() + Duration::from_secs(self.wait);
        while run.holder().is_some() {
            if Instant::now() > deadline {
                eprintln!("error: it has not stopped within {} s", self.wait);
                return Ok(Exit::Deadline);
            }
            std::thread::sleep(LOOK);
        }
        let latest = read_state(&run).and_then(|state| state.latest);
        match latest {
            Some(step) => eprintln!("stopped; the newest checkpoint is of step {step}"),
            None => eprintln!("stopped; there is no checkpoint"),
        }
        Ok(Exit::Done)
    }
}
