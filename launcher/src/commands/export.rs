//! `tandem export`: writes a trained model to a folder of its own.

use std::path::PathBuf;

use tandem_config::schema::model::Objective;

use crate::coordinator::finish;
use crate::prepare;
use crate::terminal::exit::{Exit, Refused};
use crate::terminal::output;

/// Write a checkpoint to a folder that can be handed on and used like a run.
///
/// The folder has adapters, vocabularies, config and a README. It does not include the BERTs.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run's folder, or its name in `runs`.
    run: PathBuf,
    /// Which checkpoint: `average`, `best`, `latest` or a step.
    #[arg(long, default_value = "average")]
    checkpoint: String,
    /// Folder to write [default: `export` in the run's folder].
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let run = prepare::find(&self.run)?;
        let config = prepare::launched(&run)?;
        if let Objective::Mlm(_) = config.model.objective {
            return Err(Refused(format!(
                "a run with the mlm objective exports its BERT to {} when it finishes; use that folder",
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
