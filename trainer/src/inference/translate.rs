//! Translating a task over all ranks, chunk by chunk.
//!
//! Which sentences share a batch and a chunk depends on the task alone, and chunk s is that of rank
//! s mod world size: any number of ranks, killed at any point and started again, writes the same
//! chunks, as long as each computes with as many threads.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tandem_cluster::run::atomic;
use tandem_cluster::run::chunks::{Chunks, Cut};
use tandem_cluster::run::control::{Phase, Report};
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::records::Problem;
use tandem_cluster::run::task::{self, Input, Task, TooLong};
use tandem_config::schema::data::{BadLines, Data, Text, TooLong as DataTooLong};

use crate::data::corpus::Corpus;
use crate::data::read::{Lines, Records};
use crate::data::split::{Sides, Split};
use crate::inference::Translator;
use crate::inference::evaluate::record;
use crate::inference::language_model::{self, Ngrams};
use crate::session::corpora::wait_for;
use crate::session::trained::Trained;
use crate::session::worker::{Ending, Worker};

/// A task that is ready to be done.
pub struct Translating<'a> {
    task: &'a Task,
    worker: Worker,
    trained: Trained,
    corpus: Corpus,
    language_model: Option<Ngrams>,
    chunks: Chunks,
}

impl<'a> Translating<'a> {
    /// Opens the model and the sentences of the task in `folder`.
    ///
    /// # Errors
    /// A model that is not usable or does not translate, or unreadable text.
    pub fn open(worker: &Worker, task: &'a Task, folder: &Path) -> anyhow::Result<Self> {
        let own = || RunFolder::new(task.model.clone()).config();
        let config = tandem_config::load_trained(&task.config.clone().unwrap_or_else(own))?;
        let worker = worker.with_run(&task.model, config);
        let trained = Trained::open(&worker, Some(&task.checkpoint))?;
        let corpus = corpus(&worker, &trained, task, folder)?;
        let language_model = language_model::open(&worker, &trained.languages, &task.decoding)?;
        let chunks = task.chunks(folder);
        Ok(Self { task, worker, trained, corpus, language_model, chunks })
    }

    /// Translates this rank's share of the chunks that are not there yet.
    ///
    /// # Errors
    /// Translations that cannot be written.
    pub fn run(&self) -> anyhow::Result<Ending> {
        let Self { task, worker, trained, corpus, language_model, chunks } = self;
        let (translator, target) =
            Translator::of(trained, &task.decoding, language_model.as_ref(), worker.device)?;
        let skipped = self.skipped()?;
        let batches = translator.batches(&corpus.lengths());
        let parts = parts(&batches, task.chunk);
        let cut = Cut { chunks: parts.len(), items: corpus.len() };
        let mine = parts.iter().enumerate().skip(worker.rank).step_by(worker.world_size);
        for (chunk, batches) in mine.filter(|(chunk, _)| !chunks.has(*chunk)) {
            let mut items = Vec::new();
            for samples in *batches {
                let sources: Vec<&[u32]> = samples
                    .iter()
                    .map(|sample| match skipped.contains(sample) {
                        true => &[][..],
                        false => corpus.source(*sample as usize),
                    })
                    .collect();
                let mut poll = || worker.goes_on(Phase::Translate, trained.step);
                let Some(found) = translator.translate(&sources, &[], &mut poll) else {
                    return Ok(Ending::Stopped);
                };
                for (&sample, translation) in samples.iter().zip(found) {
                    let line = record(target, corpus, sample as usize, &translation)?;
                    serde_json::to_writer(&mut items, &line)?;
                    items.push(b'\n');
                }
            }
            let items = String::from_utf8(items).context("JSON is UTF-8")?;
            chunks
                .write(chunk, cut, &items)
                .with_context(|| format!("cannot write chunk {chunk} of the translations"))?;
            worker.report(Report::Translated { chunk, chunks: cut.chunks });
        }
        Ok(Ending::Done)
    }

    fn tell_problems(&self) {
        for (problem, counted) in &self.corpus.report().problems {
            let lines: Vec<String> =
                counted.examples.iter().map(|example| example.line.to_string()).collect();
            let more = match counted.count - counted.examples.len() as u64 {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let what = match problem {
                Problem::TooLong => {
                    let tokens = self.trained.languages.max_lengths(&self.worker).0;
                    format!("cut to the model's {tokens} tokens")
                }
                problem => problem.describe().to_owned(),
            };
            self.worker.notice(format!("line {}{more}: {what}", lines.join(", ")));
        }
    }

    /// Sentences that are not translated but have an empty translation: those that were cut, and
    /// those that are not UTF-8.
    fn skipped(&self) -> anyhow::Result<BTreeSet<u32>> {
        let Self { task, worker, trained, corpus, .. } = self;
        if task.too_long == TooLong::Cut {
            if worker.is_first() {
                self.tell_problems();
            }
            return Ok(BTreeSet::new());
        }
        let longest = trained.languages.max_lengths(worker).0;
        let mut encoder = trained.languages.source.encoder();
        let mut skipped = BTreeSet::new();
        for sample in 0..corpus.len() {
            let (text, _) = corpus.texts(sample);
            let is_cut =
                corpus.source(sample).len() == longest && encoder.encode(text)?.len() >= longest;
            if is_cut || text.contains(char::REPLACEMENT_CHARACTER) {
                skipped.insert(sample as u32);
            }
        }
        Ok(skipped)
    }
}

/// The batches of each chunk: whole batches, at least `least` sentences.
fn parts(batches: &[Vec<u32>], least: usize) -> Vec<&[Vec<u32>]> {
    let (mut parts, mut start, mut sentences) = (Vec::new(), 0, 0);
    for (place, batch) in batches.iter().enumerate() {
        sentences += batch.len();
        if sentences >= least || place + 1 == batches.len() {
            parts.push(&batches[start..=place]);
            (start, sentences) = (place + 1, 0);
        }
    }
    parts
}

/// The sentences, none left out: what cannot be translated has an empty translation.
fn corpus(
    worker: &Worker,
    trained: &Trained,
    task: &Task,
    folder: &Path,
) -> anyhow::Result<Corpus> {
    worker.phase(Phase::Start, 0);
    let sides = trained.languages.sides(worker);
    let (Sides::Pair { source, .. } | Sides::Passages(source) | Sides::Sentences(source)) = sides;
    let (text, sides) = match &task.input {
        Input::Sources(text) => (text.clone(), sides),
        Input::Lines(path) => (Text::Lines { path: path.clone() }, Sides::Sentences(source)),
        Input::Choice { path, ratio, of } => {
            let path = chosen(worker, path, *ratio, of, folder)?;
            (Text::Lines { path }, Sides::Sentences(source))
        }
    };
    let data = Data {
        too_long: DataTooLong::Cut,
        bad_lines: BadLines::Drop,
        ..worker.config.data.clone()
    };
    // As a test split: no sentence is left out.
    let (texts, cache) = ([text], task::cache(folder));
    Ok(Corpus::open(&data, &texts, Split::Test, sides, &cache, worker.threads())?)
}

/// The file with the chosen lines. Rank 0 makes it where it is not yet; the others wait.
fn chosen(
    worker: &Worker,
    path: &Path,
    ratio: f64,
    pairs: &Text,
    folder: &Path,
) -> anyhow::Result<PathBuf> {
    let file = task::chosen(folder);
    if file.is_file() {
        return Ok(file);
    }
    if !worker.is_first() {
        wait_for(worker, &file, "choice of lines")?;
        return Ok(file);
    }
    let mut wanted = 0;
    for record in Records::open(pairs)? {
        wanted += usize::from(record?.problem.is_none());
    }
    let wanted = (wanted as f64 * ratio).round().max(1.0) as usize;
    let mut all = 0;
    for line in Lines::open(path)? {
        line?;
        all += 1;
    }
    if wanted > all {
        worker.notice(format!(
            "{} has {all} lines, fewer than data.back_translation.ratio asks for ({wanted}): all \
             are translated",
            path.display()
        ));
    }
    let mut lines = Lines::open(path)?;
    atomic::replace(&file, |writer| {
        for (line, place) in lines.by_ref().zip(0..) {
            let line = line.map_err(std::io::Error::other)?;
            if is_chosen(place, wanted, all) {
                writer.write_all(&line)?;
                writer.write_all(b"\n")?;
            }
        }
        Ok(())
    })
    .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// Whether the line at `place` is one of `wanted` lines that are spread evenly over `all`.
fn is_chosen(place: usize, wanted: usize, all: usize) -> bool {
    let before = |place: usize| place as u128 * wanted.min(all) as u128 / all.max(1) as u128;
    before(place + 1) > before(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_whole_batches() {
        let batches = [vec![3, 1], vec![2], vec![0, 5, 6], vec![4]];
        let lengths =
            |least| parts(&batches, least).iter().map(|part| part.len()).collect::<Vec<_>>();
        assert_eq!(lengths(1), [1, 1, 1, 1]);
        assert_eq!(lengths(3), [2, 1, 1]);
        assert_eq!(lengths(4), [3, 1]);
        assert_eq!(lengths(100), [4]);
        assert!(parts(&[], 1).is_empty());
    }

    #[test]
    fn chosen_lines_are_spread_evenly() {
        let chosen =
            |wanted, all| (0..all).filter(|p| is_chosen(*p, wanted, all)).collect::<Vec<_>>();
        assert_eq!(chosen(2, 6), [2, 5]);
        assert_eq!(chosen(4, 6), [1, 2, 4, 5]);
        assert_eq!(chosen(9, 3), [0, 1, 2]);
        assert_eq!(chosen(1000, 3000).len(), 1000);
    }
}
