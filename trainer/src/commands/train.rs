//! `tandem-worker train`.

use std::path::PathBuf;

use tandem_cluster::run::exit::Exit;

use crate::training::train::Trainer;

/// Train the run in a folder.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run's folder, with its config.yaml.
    #[arg(long)]
    run: PathBuf,
    /// Resume from the checkpoint in this folder.
    #[arg(long)]
    resume: Option<PathBuf>,
    /// Score that checkpoint first: an earlier attempt was to, and did not get round to it.
    #[arg(long, requires = "resume")]
    evaluate_first: bool,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        super::rank::run(&self.run, |worker, mpi| {
            let collective = super::rank::collective(worker, mpi)?;
            let trainer = Trainer::new(worker, collective, self.resume.as_deref())?;
            Ok(trainer.run(self.evaluate_first)?.into())
        })
    }
}
