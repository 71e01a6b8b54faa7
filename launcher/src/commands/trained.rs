//! The arguments of the commands that use a trained model.

use std::path::PathBuf;

use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::store::{AVERAGE, Checkpoint};
use tandem_config::RunConfig;

use crate::prepare;

#[derive(Debug, clap::Args)]
pub(super) struct Trained {
    /// The run's folder, or its name in `runs`; or a folder written by `tandem export`.
    run: PathBuf,
    /// `average`, `best`, `latest` or a step.
    #[arg(long, default_value = AVERAGE)]
    pub checkpoint: String,
    /// Change the decoding, the hardware or the place of a BERT: decoding.path.to.key=value,
    /// cluster.key=value or model.path.to.pretrained=FOLDER. By default the hardware of this machine
    /// is used, whatever the run was trained on.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

impl Trained {
    /// The run, and the config with which its model is used; `settings` apply unless overridden.
    pub(super) fn load(&self, settings: &[&str]) -> anyhow::Result<(RunFolder, RunConfig)> {
        let run = prepare::find(&self.run)?;
        let settings = settings.iter().map(|&setting| setting.to_owned());
        let overrides: Vec<String> = settings.chain(self.overrides.iter().cloned()).collect();
        let config = prepare::load_to_use(&run, &overrides)?;
        Ok((run, config))
    }

    /// The verified checkpoint.
    pub(super) fn checkpoint(&self, run: &RunFolder) -> anyhow::Result<Checkpoint> {
        prepare::model(run, &self.checkpoint)
    }
}
