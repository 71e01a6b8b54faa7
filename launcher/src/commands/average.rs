//! `tandem average`: the newest checkpoints as one model.

use std::path::PathBuf;

use crate::coordinator::journal::read_state;
use crate::coordinator::training::extra;
use crate::exit::{Exit, Refused};
use crate::{output, prepare};

/// Average the newest checkpoints of a run into checkpoints/average.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's folder, or its name below `runs`.
    run: PathBuf,
    /// How many, at least 1; by default what the config says.
    #[arg(long, value_name = "COUNT")]
    last: Option<usize>,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// No such run, a launcher that works on it, or no good checkpoint.
    pub fn run(self) -> anyhow::Result<Exit> {
        if self.last == Some(0) {
            let message = "--last 0: an average is of at least 1 checkpoint";
            return Err(Refused(message.into()).into());
        }
        let run = prepare::find(&self.run)?;
        let _lock = run.lock()?;
        let config = prepare::load_to_use(&run, &[])?;
        let attempt = read_state(&run).map_or(0, |state| state.attempt);
        let count = self.last.unwrap_or(config.checkpoints.average);
        let store = run.store();
        let average = store.average(count, &extra(&config, &store.steps()?), attempt)?;
        let steps = &average.manifest().average_of;
        let folder = average.folder().display();
        output::print(format_args!("{folder}: the average of steps {steps:?}"))?;
        Ok(Exit::Done)
    }
}
