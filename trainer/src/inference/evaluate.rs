//! Scoring a split: its loss, and translations for the coordinator to score.
//!
//! Every rank does its share of the batches and writes its translations into a file of its own.
//! Nothing in here is collective: each rank stops by itself when it is asked to.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use tandem_cluster::run::atomic;
use tandem_cluster::run::control::{Phase, Report};
use tandem_cluster::run::evaluation::EvaluationFolder;
use tandem_cluster::run::records::{EvaluationSums, Latency, Translation, TranslationSums};
use tch::no_grad;

use crate::data::batches::evaluation_batches;
use crate::data::corpus::Corpus;
use crate::data::example::Draw;
use crate::data::split::Split;
use crate::data::tokenizer::Tokenizer;
use crate::inference::language_model::{self, Ngrams};
use crate::inference::{self, Translator};
use crate::model::Pass;
use crate::objective::{Examples, Objective, Sums};
use crate::session::corpora::Languages;
use crate::session::worker::{Ending, Worker};

/// The translation of a sample, with its source and reference.
///
/// # Errors
/// A reference that cannot be tokenised.
pub fn record(
    target: &Tokenizer,
    corpus: &Corpus,
    index: usize,
    translation: &inference::Translation,
) -> anyhow::Result<Translation> {
    let (source, reference) = corpus.texts(index);
    Ok(Translation {
        index,
        source: source.to_owned(),
        reference: reference.to_owned(),
        hypothesis: target.text(&translation.ids),
        reference_tokens: target.respell(reference)?,
        hypothesis_tokens: target.words(&translation.ids),
        length: translation.ids.len(),
        reference_length: corpus.target(index).len(),
        passes: translation.passes,
        rows: translation.rows,
    })
}

/// A split, opened for scoring.
pub struct Evaluator {
    languages: Languages,
    corpus: Arc<Corpus>,
    examples: Examples,
    language_model: Option<Ngrams>,
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
        let examples = languages.examples(worker, Arc::clone(&corpus), split)?;
        let language_model = language_model::open(worker, &languages, &worker.config.decoding)?;
        Ok(Some(Self {
            languages,
            corpus,
            examples,
            language_model,
            split,
            sentences,
            latency_sentences,
        }))
    }

    /// Scores the split into the run folder and reports to the coordinator.
    ///
    /// # Errors
    /// Translations that cannot be written.
    pub fn run(&self, worker: &Worker, objective: &Objective, step: u64) -> anyhow::Result<Ending> {
        self.run_into(worker, objective, step, &worker.run.evaluation(self.split.name(), step))
    }

    /// Scores the split into `folder` and reports to the coordinator.
    ///
    /// # Errors
    /// Translations that cannot be written.
    pub fn run_into(
        &self,
        worker: &Worker,
        objective: &Objective,
        step: u64,
        folder: &EvaluationFolder,
    ) -> anyhow::Result<Ending> {
        std::fs::create_dir_all(folder.path())
            .with_context(|| format!("cannot make {}", folder.path().display()))?;
        let part = folder.part(worker.rank);
        let mut poll = || worker.goes_on(Phase::Evaluate, step);
        let Some(mut sums) = self.losses(worker, objective, &mut poll) else {
            return Ok(Ending::Stopped);
        };
        let ending = self
            .translate(worker, objective, folder, &mut poll)
            .with_context(|| format!("cannot translate into {}", part.display()))?;
        match ending {
            Translated::Done(translation) => {
                sums.translation = translation;
                let split = self.split.name().to_owned();
                worker.report(Report::Evaluated { step, split, rank: worker.rank, part, sums });
            }
            Translated::Stopped => {
                std::fs::remove_file(&part)
                    .with_context(|| format!("cannot remove {}", part.display()))?;
                return Ok(Ending::Stopped);
            }
        }
        Ok(Ending::Done)
    }

    /// This rank's share of the loss on the whole split; none if `poll` says to give up.
    fn losses(
        &self,
        worker: &Worker,
        objective: &Objective,
        poll: &mut dyn FnMut() -> bool,
    ) -> Option<EvaluationSums> {
        let max_tokens = worker.config.training.max_tokens;
        let batches = evaluation_batches(&self.examples.lengths(), max_tokens);
        let mut sums = Sums::default();
        for samples in batches.iter().skip(worker.rank).step_by(worker.world_size) {
            if !poll() {
                return None;
            }
            let batch = self.examples.batch(samples, Draw::Evaluation);
            sums += no_grad(|| objective.loss(&batch, worker.device, &Pass::eval()).sums());
        }
        let Sums { loss, nll, predicted, length_nll, sentences, denominator, .. } = sums;
        Some(EvaluationSums {
            loss,
            denominator,
            nll,
            predicted,
            length_nll: (length_nll > 0.0).then_some(length_nll),
            sentences,
            translation: None,
        })
    }

    /// Writes this rank's share of the translations; none for an objective that has none.
    fn translate(
        &self,
        worker: &Worker,
        objective: &Objective,
        folder: &EvaluationFolder,
        poll: &mut dyn FnMut() -> bool,
    ) -> anyhow::Result<Translated> {
        let mut file = BufWriter::new(File::create(folder.part(worker.rank))?);
        let (Some(model), Some(target)) = (objective.model(), &self.languages.target) else {
            file.flush()?;
            return Ok(Translated::Done(None));
        };
        let (source, config) = (&self.languages.source, &worker.config.decoding);
        let language_model = self.language_model.as_ref();
        let translator =
            Translator::new(model, source, target, config, language_model, worker.device);
        let mut lengths = self.corpus.lengths();
        lengths.truncate(self.sentences);
        let batches = translator.batches(&lengths);
        let mut sums = TranslationSums::default();
        for samples in batches.iter().skip(worker.rank).step_by(worker.world_size) {
            let started = Instant::now();
            let sources: Vec<&[u32]> =
                samples.iter().map(|&sample| self.corpus.source(sample as usize)).collect();
            let references: Vec<usize> =
                samples.iter().map(|&sample| self.corpus.target(sample as usize).len()).collect();
            let Some(found) = translator.translate(&sources, &references, poll) else {
                return Ok(Translated::Stopped);
            };
            sums.seconds += started.elapsed().as_secs_f64();
            for (&sample, translation) in samples.iter().zip(found) {
                let line = record(target, &self.corpus, sample as usize, &translation)?;
                sums.sentences += 1;
                sums.passes += line.passes;
                sums.rows += line.rows;
                sums.length_correct += usize::from(line.length == line.reference_length);
                serde_json::to_writer(&mut file, &line)?;
                file.write_all(b"\n")?;
            }
        }
        file.flush()?;
        if worker.is_first() && self.latency_sentences > 0 {
            let Some(times) = self.time_sentences(&translator, poll) else {
                return Ok(Translated::Stopped);
            };
            let device = if worker.device.is_cuda() { "gpu" } else { "cpu" };
            let latency = Latency::of(times, device, worker.threads());
            let json = serde_json::to_string_pretty(&latency.context("no sentence was timed")?)?;
            atomic::write(&folder.latency(), &(json + "\n"))?;
        }
        Ok(Translated::Done(Some(sums)))
    }

    /// Milliseconds of the first sentences, one by one, as the paper times them; none if `poll`
    /// says to give up.
    fn time_sentences(
        &self,
        translator: &Translator,
        poll: &mut dyn FnMut() -> bool,
    ) -> Option<Vec<f64>> {
        let count = self.corpus.len().min(self.latency_sentences);
        let mut times = Vec::with_capacity(count);
        for sample in 0..count {
            let started = Instant::now();
            let reference = self.corpus.target(sample).len();
            translator.translate(&[self.corpus.source(sample)], &[reference], poll)?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        Some(times)
    }
}

/// How translating a rank's share ended.
enum Translated {
    /// With these sums; none for an objective that does not translate.
    Done(Option<TranslationSums>),
    /// It was asked to stop.
    Stopped,
}
