//! `tandem evaluate`: scores a model on a split.

use std::path::PathBuf;

use clap::ValueEnum;
use tandem_cluster::run::evaluation::EvaluationFolder;

use super::trained::Trained;
use crate::coordinator::finish::table;
use crate::coordinator::trained;
use crate::terminal::exit::{Exit, Refused};
use crate::terminal::interrupts::Interrupts;
use crate::terminal::output;

/// Score a checkpoint on the validation or test split.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: Trained,
    /// Which split.
    #[arg(long, default_value = "test")]
    split: Split,
    /// Folder for translations and scores [default: a folder in the run's `evaluation`].
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Split {
    Valid,
    Test,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let (run, config) = self.model.load(&[])?;
        let (split, text) = match self.split {
            Split::Valid => ("valid", &config.data.valid),
            Split::Test => ("test", &config.data.test),
        };
        if text.is_none() {
            return Err(Refused(format!("the run has no data.{split}")).into());
        }
        let checkpoint = self.model.checkpoint(&run)?;
        let folder = match self.output {
            Some(folder) => EvaluationFolder::new(std::path::absolute(&folder)?),
            None => {
                // The hardware and the place of a BERT do not change scores.
                let overrides = self.model.overrides.iter();
                let decoding = overrides.filter(|text| text.starts_with("decoding."));
                trained::folder(&run, split, &self.model.checkpoint, decoding)
            }
        };
        let interrupts = Interrupts::catch()?;
        let scored = trained::evaluate(&run, config, &checkpoint, split, &folder, interrupts)?;
        let evaluation = match scored {
            Ok(evaluation) => evaluation,
            Err(exit) => return Ok(exit),
        };
        if self.json {
            output::print(serde_json::to_string_pretty(&evaluation)?)?;
        } else {
            output::print(format_args!("{}\n{}", table(&evaluation), folder.path().display()))?;
        }
        Ok(Exit::Done)
    }
}
