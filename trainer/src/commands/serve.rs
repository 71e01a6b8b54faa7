//! `tandem-worker serve`.

use std::path::PathBuf;

use tandem_cluster::run::exit::Exit;

use crate::inference::serve;
use crate::session::trained::Trained;

/// Translate sentences that the coordinator sends, until it asks to stop.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder with the config.yaml that the model is used with.
    #[arg(long)]
    run: PathBuf,
    /// The folder of the run whose model it is.
    #[arg(long)]
    model: PathBuf,
    /// The checkpoint's folder.
    #[arg(long)]
    checkpoint: PathBuf,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        super::rank::run_trained(&self.run, |worker, _| {
            let worker = worker.with_run(&self.model, worker.config.clone());
            let trained = Trained::open(&worker, Some(&self.checkpoint))?;
            Ok(serve::run(&worker, &trained)?.into())
        })
    }
}
