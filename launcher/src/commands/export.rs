//! `tandem export`: a model as one folder.

use std::path::PathBuf;

use tandem_cluster::run::store::AVERAGE;
use tandem_config::schema::model::Objective;

use crate::coordinator::finish;
use crate::prepare;
use crate::terminal::exit::{Exit, Refused};
use crate::terminal::output;

/// Write a checkpoint as a folder that explains itself and can be used like a run's: adapters, config,
/// README. The BERTs are not in it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's folder, or its name below `runs`.
    run: PathBuf,
    /// `average`, `best`, `latest` or a step.
    #[arg(long, default_value = AVERAGE)]
    checkpoint: String,
    /// Where to; by default `export` in the run's folder.
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// No such run, no such checkpoint, or a damaged one.
    pub fn run(self) -> anyhow::Result<Exit> {
        let run = prepare::find(&self.run)?;
        let config = prepare::launched(&run)?;
        if let Objective::Mlm(_) = config.model.objective {
            return Err(Refused(format!(
                "a run with the mlm objective writes its BERT when it ends, to {}; use that folder",
                run.export().display()
            ))
            .into());
        }
        let checkpoint = prepare::model(&run, &self.checkpoint)?;
        let folder = self.output.unwrap_or_else(|| run.export());
        finish::export(&run, &config, &checkpoint, &folder)?;
        output::print(folder.display())?;
        Ok(Exit::Done)
    }
}
