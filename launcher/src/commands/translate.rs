//! `tandem translate`: lines in, translations out.

use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use anyhow::Context;
use tandem_cluster::shards::Shards;
use tandem_cluster::task::{Input, Task, TooLong};

use crate::exit::{Exit, Refused};
use crate::interrupts::Interrupts;
use crate::prepare;
use crate::score::Translation;
use crate::session::Session;
use crate::text;
use crate::worker::Work;

/// Translate lines from a file or from standard input, in their order.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's folder, or its name below `runs`.
    run: PathBuf,
    /// The lines; by default standard input.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Where translations go; by default standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// `average`, `best`, `latest` or a step.
    #[arg(long, default_value = "average")]
    checkpoint: String,
    /// Change how translations are found: decoding.path.to.key=value.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// No such run or checkpoint, input that is not UTF-8, or workers that fail.
    pub fn run(self) -> anyhow::Result<Exit> {
        let run = prepare::find(&self.run)?;
        let config = prepare::load_to_use(&run, &self.overrides)?;
        if config.decoding.needs_references() {
            let message = "decoding.mask_predict.lengths must be predicted here: these lines have no \
                           references";
            return Err(Refused(message.into()).into());
        }
        let checkpoint = run.store().open(&self.checkpoint)?;
        let text = match &self.input {
            Some(path) => {
                let origin = path.display().to_string();
                let bytes = fs::read(path).with_context(|| format!("cannot read {origin}"))?;
                text::utf8(bytes, &origin)?
            }
            None => {
                let mut bytes = Vec::new();
                io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
                text::utf8(bytes, "standard input")?
            }
        };
        let mut translations = String::new();
        if !text.is_empty() {
            let name = format!("translate-{}", std::process::id());
            let folder = run.path().join(name);
            let input = folder.join("input.txt");
            let task = Task {
                model: run.path().to_owned(),
                checkpoint: checkpoint.folder().to_owned(),
                decoding: config.decoding.clone(),
                input: Input::Lines(input.clone()),
                too_long: TooLong::Cut,
                shard: 1,
                key: String::new(),
            };
            task.write(&folder)
                .and_then(|()| fs::write(&input, &text))
                .with_context(|| format!("cannot write {}", input.display()))?;
            let work = Work::Translate { task: folder.clone() };
            let ended = Session::new(run, config, Interrupts::catch()?)?.work(&work)?;
            let merged = ended.map(|_| lines_of(&task.shards(&folder)));
            let _ = fs::remove_dir_all(&folder);
            translations = match merged {
                Ok(merged) => merged?,
                Err(exit) => return Ok(exit),
            };
        }
        match &self.output {
            Some(path) => fs::write(path, translations)
                .with_context(|| format!("cannot write {}", path.display()))?,
            None => io::stdout().write_all(translations.as_bytes())?,
        }
        Ok(Exit::Done)
    }
}

/// The translations in the order of the input: one line in, one line out, whatever the model says.
fn lines_of(shards: &Shards) -> anyhow::Result<String> {
    let mut text = String::new();
    for line in shards.merge()? {
        let translation: Translation = serde_json::from_str(&line)?;
        text += &(translation.hypothesis.replace(['\n', '\r'], " ") + "\n");
    }
    Ok(text)
}
