//! Scoring a split: its loss, and translations for the coordinator to score.
//!
//! Every rank does its share of the batches and writes its translations into a file of its own.
//! Nothing in here is collective: each rank gives up by itself when it is asked to stop.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use serde::Serialize;
use tandem_cluster::run::control::{Phase, Report};
use tch::no_grad;

use crate::data::batches::evaluation_batches;
use crate::data::corpus::{Corpus, Split};
use crate::data::example::Draw;
use crate::data::tokenizer::Tokenizer;
use crate::inference::{Translation, Translator};
use crate::model::Pass;
use crate::objective::{Examples, Objective, Sums};
use crate::session::corpora::Languages;
use crate::session::worker::{Ending, Worker};

/// A translation beside its reference, as the coordinator reads it.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    index: usize,
    source: &'a str,
    reference: &'a str,
    hypothesis: String,
    reference_tokens: String,
    hypothesis_tokens: String,
    /// Tokens of the hypothesis, with [SEP].
    length: usize,
    /// Tokens of the reference, with [SEP].
    reference_length: usize,
    passes: usize,
}

impl<'a> Line<'a> {
    /// The translation of a sample.
    ///
    /// # Errors
    /// A reference that cannot be tokenised.
    pub fn of(
        target: &Tokenizer,
        corpus: &'a Corpus,
        index: usize,
        translation: &Translation,
    ) -> anyhow::Result<Self> {
        let (source, reference) = corpus.texts(index);
        let words = target.words(&translation.ids);
        Ok(Self {
            index,
            source,
            reference,
            hypothesis: target.text(&translation.ids),
            reference_tokens: target.respell(reference)?,
            hypothesis_tokens: words,
            length: translation.ids.len(),
            reference_length: corpus.target(index).len(),
            passes: translation.passes,
        })
    }
}

/// A split, opened for scoring.
pub struct Evaluator {
    languages: Languages,
    corpus: Arc<Corpus>,
    examples: Examples,
    split: Split,
    /// At most so many sentences are translated.
    sentences: usize,
    /// So many sentences are timed one by one.
    latency_sentences: usize,
}

impl Evaluator {
    /// The split that is scored while training; none where the config has none.
    ///
    /// # Errors
    /// Unreadable data.
    pub fn for_training(worker: &Worker, languages: Languages) -> anyhow::Result<Option<Self>> {
        if worker.config.evaluation.every == 0 {
            return Ok(None);
        }
        let sentences = worker.config.evaluation.sentences;
        Self::open(worker, languages, Split::Valid, sentences, 0)
    }

    /// A split of which all sentences are translated; none where the config has no such split.
    ///
    /// # Errors
    /// Unreadable data.
    pub fn whole(
        worker: &Worker,
        languages: Languages,
        split: Split,
    ) -> anyhow::Result<Option<Self>> {
        let latency_sentences = worker.config.evaluation.latency_sentences;
        Self::open(worker, languages, split, usize::MAX, latency_sentences)
    }

    fn open(
        worker: &Worker,
        languages: Languages,
        split: Split,
        sentences: usize,
        latency_sentences: usize,
    ) -> anyhow::Result<Option<Self>> {
        let Some(corpus) = languages.corpus(worker, split)? else { return Ok(None) };
        let examples = languages.examples(worker, Arc::clone(&corpus))?;
        Ok(Some(Self { languages, corpus, examples, split, sentences, latency_sentences }))
    }

    /// Scores the split into the run's folder and tells the coordinator.
    ///
    /// # Errors
    /// Translations that cannot be written.
    pub fn run(&self, worker: &Worker, objective: &Objective, step: u64) -> anyhow::Result<Ending> {
        let name = format!("{}-step-{step:08}", self.split.name());
        self.run_into(worker, objective, step, &worker.run.join("evaluation").join(name))
    }

    /// Scores the split into `folder` and tells the coordinator.
    ///
    /// # Errors
    /// Translations that cannot be written.
    pub fn run_into(
        &self,
        worker: &Worker,
        objective: &Objective,
        step: u64,
        folder: &Path,
    ) -> anyhow::Result<Ending> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let part = folder.join(format!("rank-{}.jsonl", worker.rank));
        let mut poll = || worker.goes_on(Phase::Evaluate, step);
        let Some(mut sums) = self.losses(worker, objective, &mut poll) else {
            return Ok(Ending::Stopped);
        };
        let ending = self
            .translate(worker, objective, &part, &mut sums, &mut poll)
            .with_context(|| format!("cannot translate into {}", part.display()))?;
        match ending {
            Ending::Done => {
                let split = self.split.name().to_owned();
                worker.report(Report::Evaluated { step, split, rank: worker.rank, part, sums });
            }
            Ending::Stopped => std::fs::remove_file(&part)
                .with_context(|| format!("cannot remove {}", part.display()))?,
        }
        Ok(ending)
    }

    /// This rank's share of the loss on the whole split; none if `poll` says to give up.
    fn losses(
        &self,
        worker: &Worker,
        objective: &Objective,
        poll: &mut dyn FnMut() -> bool,
    ) -> Option<BTreeMap<String, f64>> {
        let max_tokens = worker.config.training.max_tokens;
        let batches = evaluation_batches(&self.examples.lengths(), max_tokens);
        let mut sums = Sums::default();
        for samples in batches.iter().skip(worker.rank).step_by(worker.world_size) {
            if !poll() {
                return None;
            }
            let batch = self.examples.batch(samples, Draw::Evaluation);
            sums += no_grad(|| objective.loss(&batch, worker.device, &Pass::eval())).sums;
        }
        let Sums { loss, nll, predicted, length_nll, sentences, denominator, .. } = sums;
        let named = [
            ("loss", loss),
            ("nll", nll),
            ("predicted", predicted),
            ("sentences", sentences),
            ("denominator", denominator),
        ];
        let lengths = (length_nll > 0.0).then_some(("length_nll", length_nll));
        let named = named.into_iter().chain(lengths);
        Some(named.map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// Writes this rank's share of the translations; none for an objective that has none.
    fn translate(
        &self,
        worker: &Worker,
        objective: &Objective,
        part: &Path,
        sums: &mut BTreeMap<String, f64>,
        poll: &mut dyn FnMut() -> bool,
    ) -> anyhow::Result<Ending> {
        let mut file = BufWriter::new(File::create(part)?);
        let (Objective::Translation(translation), Some(target)) =
            (objective, &self.languages.target)
        else {
            file.flush()?;
            return Ok(Ending::Done);
        };
        let (model, config) = (&translation.model, &worker.config.decoding);
        let translator =
            Translator::new(model, &self.languages.source, target, config, worker.device);
        let mut lengths = self.corpus.lengths();
        lengths.truncate(self.sentences);
        let batches = translator.batches(&lengths);
        let (mut seconds, mut passes, mut translated, mut right_lengths) = (0.0, 0, 0, 0);
        for samples in batches.iter().skip(worker.rank).step_by(worker.world_size) {
            let started = Instant::now();
            let sources: Vec<&[u32]> =
                samples.iter().map(|&sample| self.corpus.source(sample as usize)).collect();
            let references: Vec<usize> =
                samples.iter().map(|&sample| self.corpus.target(sample as usize).len()).collect();
            let Some(found) = translator.translate(&sources, &references, poll) else {
                return Ok(Ending::Stopped);
            };
            seconds += started.elapsed().as_secs_f64();
            for (&sample, translation) in samples.iter().zip(found) {
                let line = Line::of(target, &self.corpus, sample as usize, &translation)?;
                translated += 1;
                passes += line.passes;
                right_lengths += usize::from(line.length == line.reference_length);
                serde_json::to_writer(&mut file, &line)?;
                file.write_all(b"\n")?;
            }
        }
        file.flush()?;
        for (name, value) in
            [("translated", translated), ("passes", passes), ("length_correct", right_lengths)]
        {
            sums.insert(name.into(), value as f64);
        }
        sums.insert("decode_seconds".into(), seconds);
        if worker.is_first() && self.latency_sentences > 0 {
            let Some(latency) = self.latency(worker, &translator, poll) else {
                return Ok(Ending::Stopped);
            };
            std::fs::write(part.with_file_name("latency.json"), format!("{latency:#}\n"))?;
        }
        Ok(Ending::Done)
    }

    /// Milliseconds of the first sentences, one by one, as the paper times them; none if `poll`
    /// says to give up.
    fn latency(
        &self,
        worker: &Worker,
        translator: &Translator,
        poll: &mut dyn FnMut() -> bool,
    ) -> Option<serde_json::Value> {
        let count = self.corpus.len().min(self.latency_sentences);
        let mut times = Vec::with_capacity(count);
        for sample in 0..count {
            let started = Instant::now();
            let reference = self.corpus.target(sample).len();
            translator.translate(&[self.corpus.source(sample)], &[reference], poll)?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((count - 1) as f64 * share).round() as usize];
        Some(serde_json::json!({
            "sentences": count,
            "device": if worker.device.is_cuda() { "gpu" } else { "cpu" },
            "threads": worker.threads(),
            "median_ms": at(0.5),
            "p90_ms": at(0.9),
            "mean_ms": times.iter().sum::<f64>() / count as f64,
        }))
    }
}
