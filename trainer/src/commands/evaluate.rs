//! `tandem-worker evaluate`.

use std::path::PathBuf;

use anyhow::Context;
use clap::ValueEnum;
use tandem_cluster::run::evaluation::EvaluationFolder;
use tandem_cluster::run::exit::Exit;

use crate::data::split::Split;
use crate::inference::evaluate::Evaluator;
use crate::session::trained::Trained;

/// Score a checkpoint on a split.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run's folder, with its config.yaml.
    #[arg(long)]
    run: PathBuf,
    /// The folder of the run whose model it is; by default the same.
    #[arg(long)]
    model: Option<PathBuf>,
    /// The checkpoint's folder; by default untrained weights, whose speed can be measured.
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// Which held-out text.
    #[arg(long)]
    split: HeldOut,
    /// Where the ranks' translations are written.
    #[arg(long)]
    output: PathBuf,
    /// How translations are found, as JSON; by default as the config says.
    #[arg(long)]
    decoding: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum HeldOut {
    Valid,
    Test,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        super::rank::run_trained(&self.run, |worker, _| {
            let mut config = worker.config.clone();
            if let Some(decoding) = &self.decoding {
                config.decoding =
                    serde_json::from_str(decoding).context("--decoding is no decoding")?;
            }
            let model = self.model.as_ref().unwrap_or(&self.run);
            let worker = &worker.with_run(model, config);
            let Trained { languages, objective, step } =
                Trained::open(worker, self.checkpoint.as_deref())?;
            let split = match self.split {
                HeldOut::Valid => Split::Valid,
                HeldOut::Test => Split::Test,
            };
            let evaluator = Evaluator::whole(worker, languages, split)?
                .with_context(|| format!("the config has no data.{}", split.name()))?;
            let output = EvaluationFolder::new(self.output);
            Ok(evaluator.run_into(worker, &objective, step, &output)?.into())
        })
    }
}
