//! `tandem export`: writes a trained model to a folder of its own.

use std::path::{Path, PathBuf};

use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::store::{AVERAGE, MANIFEST};
use tandem_config::RunConfig;
use tandem_config::schema::model::Objective;

use crate::coordinator::{evaluation, finish};
use crate::export::Export;
use crate::prepare;
use crate::terminal::exit::{Exit, Refused};
use crate::terminal::output;

/// Write a checkpoint as a folder that explains itself: adapters, config and README, to be used like a run
/// where its BERTs are; or, for transformers, everything.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run's folder, or its name below `runs`; or a folder of adapters that this has written.
    run: PathBuf,
    /// `average`, `best`, `latest` or a step.
    #[arg(long, default_value = AVERAGE)]
    checkpoint: String,
    /// What is written.
    #[arg(long, value_enum, default_value_t = Format::Adapters)]
    format: Format,
    /// Where to; by default `export` in the run's folder, or `export/transformers`.
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// For `--format transformers`, where a BERT lies (model.path.to.pretrained=FOLDER) or how
    /// translations are found (decoding.path.to.key=value).
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

/// What a model is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// The trained weights and the config, without the BERTs; what Tandem itself uses.
    Adapters,
    /// All weights, both tokenizers and the model in Python, for transformers.
    Transformers,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let run = prepare::find(&self.run)?;
        let launched = prepare::launched(&run)?;
        if let Objective::Mlm(_) = launched.model.objective {
            return Err(Refused(format!(
                "a run with the mlm objective exports its BERT to {} when it finishes; use that folder",
                run.export().display()
            ))
            .into());
        }
        let folder = match self.format {
            Format::Adapters => self.adapters(&run, &launched)?,
            Format::Transformers => self.transformers(&run, &launched)?,
        };
        output::print(folder.display())?;
        Ok(Exit::Done)
    }

    fn adapters(&self, run: &RunFolder, launched: &RunConfig) -> anyhow::Result<PathBuf> {
        if !self.overrides.is_empty() {
            return Err(Refused("--set is for --format transformers alone".into()).into());
        }
        let checkpoint = prepare::model(run, &self.checkpoint)?;
        let folder = self.output.clone().unwrap_or_else(|| run.export());
        finish::export(run, launched, &checkpoint, &folder)?;
        Ok(folder)
    }

    fn transformers(&self, run: &RunFolder, launched: &RunConfig) -> anyhow::Result<PathBuf> {
        let is_exported = run.path().join(MANIFEST).is_file();
        let usual = if is_exported { run.path().to_owned() } else { run.export() };
        let usual = usual.join("transformers");
        let folder = self.output.clone().unwrap_or_else(|| usual.clone());
        finish::refuse_runs(&folder, &usual)?;
        if RunFolder::new(folder.clone()).config().is_file() {
            return Err(Refused(format!(
                "{} has a config.yaml, by which Tandem knows a model of its own: name another folder",
                folder.display()
            ))
            .into());
        }
        let config = prepare::load_to_use(run, &self.overrides)?;
        if config.decoding.needs_references() {
            let message = "decoding.mask_predict.lengths must be predicted in a model that is handed on: \
                           its texts have no references";
            return Err(Refused(message.into()).into());
        }
        let model = &prepare::model(run, &self.checkpoint)?;
        let evaluation = (self.checkpoint == AVERAGE)
            .then(|| evaluation::read(&run.evaluation("test", model.step())))
            .flatten();
        let command = self.command(run.path());
        Export { run, config: &config, launched, model, evaluation, command }.write(&folder)?;
        Ok(folder)
    }

    /// The command, without what lies where on this machine.
    fn command(&self, run: &Path) -> String {
        let name = run.file_name().unwrap_or(run.as_os_str()).to_string_lossy();
        let mut command = format!("tandem export {name} --format transformers");
        if self.checkpoint != AVERAGE {
            command += &format!(" --checkpoint {}", self.checkpoint);
        }
        for text in self.overrides.iter().filter(|text| text.starts_with("decoding.")) {
            command += &format!(" --set {text}");
        }
        command
    }
}
