//! `tandem-worker translate`.

use std::path::PathBuf;

use anyhow::Context;
use tandem_cluster::run::exit::Exit;
use tandem_cluster::run::task::Task;

use crate::inference::translate::Translating;

/// Translate what the task in a folder says, chunk by chunk.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder of the run for which it is done, with its config.yaml.
    #[arg(long)]
    run: PathBuf,
    /// The folder with the task, into which the translations go.
    #[arg(long)]
    task: PathBuf,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let task = Task::read(&self.task)
            .with_context(|| format!("there is no task in {}", self.task.display()))?;
        super::rank::run_trained(&self.run, |worker, _| {
            Ok(Translating::open(worker, &task, &self.task)?.run()?.into())
        })
    }
}
