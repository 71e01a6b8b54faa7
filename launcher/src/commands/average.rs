//! `tandem average`: averages the newest checkpoints of a run.

use std::path::PathBuf;

use anyhow::Context;
use tandem_cluster::run::atomic::Scratch;
use tandem_cluster::run::store::AVERAGE;

use crate::coordinator::finish;
use crate::coordinator::training::extra;
use crate::journal::read_state;
use crate::prepare;
use crate::terminal::exit::{Exit, Refused};
use crate::terminal::output;

/// Average the newest checkpoints of a run, into its checkpoints/average or an exported folder.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run's folder, or its name in `runs`.
    run: PathBuf,
    /// How many checkpoints to average, at least 1 [default: the config's checkpoints.average].
    #[arg(long, value_name = "COUNT")]
    last: Option<usize>,
    /// Export the average to this folder, like `tandem export`, and leave the run unchanged.
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        if self.last == Some(0) {
            let message = "--last 0: an average needs at least 1 checkpoint";
            return Err(Refused(message.into()).into());
        }
        let run = prepare::find(&self.run)?;
        let config = prepare::launched(&run)?;
        let count = self.last.unwrap_or(config.checkpoints.average);
        let store = run.store();
        let extra = extra(&config, &store.steps()?);
        let (average, folder) = match self.output {
            Some(output) => {
                let scratch = Scratch::new().context("cannot create a temporary folder")?;
                let average =
                    store.average_into(&scratch.path().join(AVERAGE), count, &extra, 0)?;
                finish::export(&run, &config, &average, &output)?;
                (average, output)
            }
            None => {
                let _lock = run.lock()?;
                let attempt = read_state(&run).map_or(0, |state| state.attempt);
                let average = store.average(count, &extra, attempt)?;
                let folder = average.folder().to_owned();
                (average, folder)
            }
        };
        let (steps, folder) = (&average.manifest().average_of, folder.display());
        output::print(format_args!("{folder}: the average of steps {steps:?}"))?;
        Ok(Exit::Done)
    }
}
