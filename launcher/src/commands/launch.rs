//! `tandem launch`: a run, from its config to its report.

use std::path::PathBuf;

use crate::coordinator::teacher;
use crate::exit::Exit;
use crate::interrupts::Interrupts;
use crate::launch::launch;
use crate::{prepare, worker};

/// Train, evaluate and export what a config describes; goes on where an earlier launch ended.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's config, e.g. configs/demo.yaml.
    config: PathBuf,
    /// Change a key of the config: path.to.key=value.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Remove what an earlier launch of this run has made, and start over.
    #[arg(long)]
    restart: bool,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// Whatever keeps the run from starting.
    pub fn run(self) -> anyhow::Result<Exit> {
        let config = prepare::load(&self.config, &self.overrides)?;
        teacher::check(&config)?;
        launch(config, self.restart, worker::find()?, Interrupts::catch()?)
    }
}
