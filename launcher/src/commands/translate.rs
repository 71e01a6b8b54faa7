//! `tandem translate`: translates lines of text.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;

use anyhow::Context;
use tandem_cluster::run::chunks::Chunks;
use tandem_cluster::run::records::Translation;
use tandem_cluster::run::task::{Input, Task, TooLong};

use super::trained::Trained;
use crate::coordinator::session::Session;
use crate::prepare;
use crate::prepare::worker::Work;
use crate::terminal::exit::Exit;
use crate::terminal::interrupts::Interrupts;
use crate::terminal::output;
use crate::terminal::text;

/// Translate lines of text from a file or standard input.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: Trained,
    /// File to translate, one sentence a line [default: standard input].
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// File for the translations [default: standard output].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let (run, config) = self.model.load(&[])?;
        prepare::refuse_without_translations(&config)?;
        let checkpoint = self.model.checkpoint(&run)?;
        let text = match &self.input {
            Some(path) => text::read(path)?,
            None => {
                let mut bytes = Vec::new();
                io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
                text::utf8(bytes, "standard input")?
            }
        };
        let mut translations = String::new();
        if !text.is_empty() {
            let model = run.path().to_owned();
            let decoding = config.decoding.clone();
            let session = Session::new(&run, config, Interrupts::catch()?)?;
            let folder = session.task();
            let input = folder.join("input.txt");
            let task = Task {
                model,
                config: Some(session.config()),
                checkpoint: checkpoint.folder().to_owned(),
                decoding,
                input: Input::Lines(input.clone()),
                too_long: TooLong::Cut,
                chunk: 1,
                key: String::new(),
            };
            task.write(&folder)
                .and_then(|()| fs::write(&input, &text))
                .with_context(|| format!("cannot write {}", input.display()))?;
            let done = match session.work(&Work::Translate { task: folder.clone() })? {
                Ok(done) => done,
                Err(exit) => return Ok(exit),
            };
            translations = lines_of(&task.chunks(&folder))?;
            drop(done);
        }
        match &self.output {
            Some(path) => fs::write(path, translations)
                .with_context(|| format!("cannot write {}", path.display()))?,
            None => drop(output::write(translations)?),
        }
        Ok(Exit::Done)
    }
}

/// The translations in the order of the input: one line in, one line out, whatever the model says.
fn lines_of(chunks: &Chunks) -> anyhow::Result<String> {
    let mut text = String::new();
    for line in chunks.merge()? {
        let translation: Translation = serde_json::from_str(&line)?;
        text += &(translation.hypothesis.replace(['\n', '\r'], " ") + "\n");
    }
    Ok(text)
}
