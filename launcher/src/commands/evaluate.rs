//! `tandem evaluate`: scores a model on a split.

use std::path::PathBuf;

use clap::ValueEnum;
use tandem_cluster::run::evaluation::EvaluationFolder;

use super::trained::Trained;
use crate::coordinator::evaluation;
use crate::coordinator::finish::table;
use crate::coordinator::session::Session;
use crate::prepare::worker::Work;
use crate::score::Scoring;
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
        let folder = self.output.unwrap_or_else(|| {
            // The hardware and the place of a BERT do not change scores.
            let changes_scores = |text: &&String| text.starts_with("decoding.");
            let decoding = self.model.overrides.iter().filter(changes_scores);
            let decoding: Vec<String> =
                decoding.map(|text| format!("-{}", text.replace('/', "_"))).collect();
            let name = format!("{split}-{}{}", self.model.checkpoint, decoding.concat());
            run.named_evaluation(&name).path().to_owned()
        });
        let folder = EvaluationFolder::new(std::path::absolute(&folder)?);
        let work = Work::Evaluate {
            model: Some(run.path().to_owned()),
            checkpoint: Some(checkpoint.folder().to_owned()),
            split: split.into(),
            output: folder.path().to_owned(),
            decoding: (!self.model.overrides.is_empty()).then(|| config.decoding.clone()),
        };
        let scoring = Scoring::from(&config.evaluation);
        let done = match Session::new(&run, config, Interrupts::catch()?)?.work(&work)? {
            Ok(done) => done,
            Err(exit) => return Ok(exit),
        };
        let (evaluation, _) =
            evaluation::finish(&folder, split, checkpoint.step(), &done.parts, scoring)?;
        if self.json {
            output::print(serde_json::to_string_pretty(&evaluation)?)?;
        } else {
            output::print(format_args!("{}\n{}", table(&evaluation), folder.path().display()))?;
        }
        Ok(Exit::Done)
    }
}
