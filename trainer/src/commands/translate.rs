//! `tandem-worker translate`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use tandem_cluster::control::Phase;

use crate::data::corpus::{Side, read_sentences};
use crate::data::detokenize::detokenize;
use crate::decode::Translator;
use crate::objective::Objective;
use crate::trained::Trained;
use crate::worker::Ending;

/// Translate a file, line by line.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's folder, with its config.yaml.
    #[arg(long)]
    run: PathBuf,
    /// The checkpoint's folder.
    #[arg(long)]
    checkpoint: PathBuf,
    /// Source sentences, one a line.
    #[arg(long)]
    input: PathBuf,
    /// Where the ranks' translations are written.
    #[arg(long)]
    output: PathBuf,
}

impl Args {
    pub fn run(self) -> anyhow::Result<u8> {
        super::rank::run(&self.run, |worker, _| {
            let Trained { languages, objective, step } = Trained::open(worker, &self.checkpoint)?;
            let (Objective::Translation(translation), Some(target)) =
                (&objective, &languages.target)
            else {
                bail!("a run with the mlm objective cannot translate");
            };
            let (model, config) = (&translation.model, &worker.config.decoding);
            let translator = Translator::new(model, &languages, target, config, worker.device);
            let max_length = languages.max_lengths(worker).0;
            let side = Side { tokenizer: &languages.source, max_length };
            let sentences = read_sentences(&self.input, side)?;
            for (number, sentence) in sentences.iter().enumerate() {
                if let (Some(problem), true) = (sentence.problem, worker.is_first()) {
                    worker.notice(format!("line {}: {}", number + 1, problem.describe()));
                }
            }
            std::fs::create_dir_all(&self.output)
                .with_context(|| format!("cannot make {}", self.output.display()))?;
            let path = self.output.join(format!("rank-{}.jsonl", worker.rank));
            let unwritable = || format!("cannot write {}", path.display());
            let mut file = BufWriter::new(File::create(&path).with_context(unwritable)?);
            let lengths: Vec<_> =
                sentences.iter().map(|sentence| (sentence.ids.len() as u32, 0)).collect();
            let batches = translator.batches(&lengths);
            for samples in batches.iter().skip(worker.rank).step_by(worker.world_size) {
                let sources: Vec<&[u32]> =
                    samples.iter().map(|&sample| &sentences[sample as usize].ids[..]).collect();
                let mut poll = || worker.goes_on(Phase::Translate, step);
                let Some(found) = translator.translate(&sources, &mut poll) else {
                    return Ok(Ending::Stopped.code());
                };
                for (index, translation) in samples.iter().zip(found) {
                    let hypothesis = detokenize(&target.words(&translation.ids));
                    let line = serde_json::json!({ "index": index, "hypothesis": hypothesis });
                    writeln!(file, "{line}").with_context(unwritable)?;
                }
            }
            file.flush().with_context(unwritable)?;
            Ok(0)
        })
    }
}
