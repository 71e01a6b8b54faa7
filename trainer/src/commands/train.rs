//! `tandem-worker train`.

use std::path::PathBuf;

use crate::train::{Ending, Trainer};

/// Train the run in a folder.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's folder, with its config.yaml.
    #[arg(long)]
    run: PathBuf,
    /// Go on from this checkpoint's folder.
    #[arg(long)]
    resume: Option<PathBuf>,
}

impl Args {
    pub fn run(self) -> anyhow::Result<u8> {
        super::rank::run(&self.run, |worker, collective| {
            let trainer = Trainer::new(worker, collective, self.resume.as_deref())?;
            Ok(match trainer.run()? {
                Ending::Done => 0,
                Ending::Stopped => 75,
            })
        })
    }
}
