//! A run's tokenizers and texts, opened as its objective needs them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tandem_cluster::run::control::{Phase, Report};
use tandem_cluster::run::synthetic;
use tandem_config::composition::Composition;
use tandem_config::pretrained::network::Network;
use tandem_config::schema::data::Text;
use tandem_config::schema::model::{Ctc, Decoder, Model, Objective, Vocabulary};

use crate::data::corpus::Corpus;
use crate::data::corrupt::Replacements;
use crate::data::ctc::CtcExamples;
use crate::data::example::{MlmExamples, PairExamples, Prediction};
use crate::data::read::Column;
use crate::data::split::{DataError, Side, Sides, Split};
use crate::data::tokenizer::Tokenizer;
use crate::data::wordpiece;
use crate::objective::Examples;
use crate::session::worker::Worker;

/// The networks of both sides, and the tokenizers that belong to them.
pub struct Languages {
    /// The sides' networks.
    pub composition: Composition,
    /// The source side's tokenizer.
    pub source: Tokenizer,
    /// The target side's; none for the `mlm` objective.
    pub target: Option<Tokenizer>,
}

impl Languages {
    /// Opens the BERTs and tokenizers of a run; learns vocabularies that are not there yet.
    ///
    /// # Errors
    /// Unusable folders, or a vocabulary that does not fit its BERT.
    pub fn open(worker: &Worker) -> anyhow::Result<Self> {
        let Model { encoder, decoder, .. } = &worker.config.model;
        let composition = Composition::open(&worker.config)?;
        let vocabulary = worker.run.vocabulary();
        let folder = |side: &str| match decoder {
            Some(_) => vocabulary.join(side),
            None => vocabulary.clone(),
        };
        let (network, own) = (composition.encoder.network(), encoder.vocabulary());
        let source = tokenizer(worker, network, own, Column::Source, &folder("source"))?;
        let own = decoder.as_ref().and_then(Decoder::vocabulary);
        let target = composition.decoder.as_ref().map(|decoder| {
            tokenizer(worker, decoder.network(), own, Column::Target, &folder("target"))
        });
        Ok(Self { source, target: target.transpose()?, composition })
    }

    /// The longest source and target sentences in tokens.
    pub fn max_lengths(&self, worker: &Worker) -> (usize, usize) {
        self.composition.max_lengths(&worker.config)
    }

    /// Both sides as a corpus needs them.
    pub fn sides(&self, worker: &Worker) -> Sides<'_> {
        let (source_length, target_length) = self.max_lengths(worker);
        let source = Side { tokenizer: &self.source, max_length: source_length };
        match &self.target {
            Some(tokenizer) => {
                Sides::Pair { source, target: Side { tokenizer, max_length: target_length } }
            }
            None if worker.config.model.joins_pairs() => Sides::Pair { source, target: source },
            None => Sides::Passages(source),
        }
    }

    /// The texts of a split; for training, these include synthetic data.
    fn texts(worker: &Worker, split: Split) -> Option<Vec<Text>> {
        let data = &worker.config.data;
        let mut texts = vec![split.text(data)?.clone()];
        if split == Split::Train {
            let run = &worker.run;
            if data.distillation.is_some() {
                texts = vec![synthetic::text(&run.distilled())];
            }
            if data.back_translation.is_some() {
                texts.push(synthetic::text(&run.back_translated()));
            }
        }
        Some(texts)
    }

    /// A split's samples; none where the config has no such split.
    ///
    /// # Errors
    /// Unreadable files, or lines that the config refuses.
    pub fn corpus(&self, worker: &Worker, split: Split) -> anyhow::Result<Option<Arc<Corpus>>> {
        let Some(corpus) = self.opened(worker, split)? else { return Ok(None) };
        let fact = (format!("data.{} (SHA-256)", split.name()), hex::encode(corpus.key()));
        worker.report(Report::Identity { facts: [fact].into() });
        if worker.is_first() {
            eprintln!("{}", corpus.report());
            worker.report(Report::Data { report: corpus.report().clone() });
        }
        Ok(Some(Arc::new(corpus)))
    }

    /// The samples of the training split, which others are used beside.
    ///
    /// # Errors
    /// As [`Languages::corpus`].
    pub fn training_corpus(&self, worker: &Worker) -> anyhow::Result<Corpus> {
        self.opened(worker, Split::Train)?.context("data.train is missing")
    }

    fn opened(&self, worker: &Worker, split: Split) -> anyhow::Result<Option<Corpus>> {
        let data = &worker.config.data;
        let Some(texts) = Self::texts(worker, split) else { return Ok(None) };
        worker.phase(Phase::Start, 0);
        let (sides, cache) = (self.sides(worker), data.cache(worker.run.path()));
        Ok(Some(Corpus::open(data, &texts, split, sides, &cache, worker.threads())?))
    }

    /// The SHA-256 of every split's samples, by its name, and of what teachers were given. `train` is the
    /// opened corpus of training.
    ///
    /// # Errors
    /// Unreadable files.
    pub fn data_hashes(
        &self,
        worker: &Worker,
        train: &Corpus,
    ) -> anyhow::Result<BTreeMap<String, String>> {
        let mut hashes: BTreeMap<_, _> =
            [(Split::Train.name().into(), hex::encode(train.key()))].into();
        // Synthetic data lies in the run; the text that it was made from does not.
        let (data, sides) = (&worker.config.data, self.sides(worker));
        if data.distillation.is_some() {
            let texts = std::slice::from_ref(&data.train);
            let key = Corpus::key_of(data, texts, Split::Train, sides)?;
            hashes.insert("distillation".into(), hex::encode(key));
        }
        if let Some(back_translation) = &data.back_translation {
            let texts = [Text::Lines { path: back_translation.text.clone() }];
            let key = Corpus::key_of(data, &texts, Split::Train, sides)?;
            hashes.insert("back_translation".into(), hex::encode(key));
        }
        for split in [Split::Valid, Split::Test] {
            if let Some(texts) = Self::texts(worker, split) {
                let key = Corpus::key_of(&worker.config.data, &texts, split, self.sides(worker))?;
                hashes.insert(split.name().into(), hex::encode(key));
            }
        }
        Ok(hashes)
    }

    /// Makes the objective's micro-batches out of the corpus of a split.
    ///
    /// # Errors
    /// Pairs without a target side, which validation refuses; or, with CTC, too many training pairs whose
    /// targets do not fit into their positions.
    pub fn examples(
        &self,
        worker: &Worker,
        corpus: Arc<Corpus>,
        split: Split,
    ) -> anyhow::Result<Examples> {
        let seed = worker.config.seed;
        let source = Replacements::of(&self.source);
        let prediction = match &worker.config.model.objective {
            Objective::Masked(objective) => Prediction::Masked(objective.clone()),
            Objective::Autoregressive(_) => Prediction::Autoregressive,
            Objective::Ctc(objective) => {
                let examples = self.ctc_examples(worker, corpus, objective.clone(), split)?;
                return Ok(Examples::Ctc(examples));
            }
            Objective::Mlm(objective) => {
                let objective = objective.clone();
                let examples = MlmExamples { corpus, objective, replacements: source, seed };
                return Ok(Examples::Passage(examples));
            }
        };
        let target = self.target.as_ref().context("the model has no decoder")?;
        let target = Replacements::of(target);
        Ok(Examples::Pair(PairExamples {
            corpus,
            prediction,
            soft_labels: None,
            source,
            target,
            seed,
        }))
    }

    fn ctc_examples(
        &self,
        worker: &Worker,
        corpus: Arc<Corpus>,
        objective: Ctc,
        split: Split,
    ) -> anyhow::Result<CtcExamples> {
        let target = self.target.as_ref().context("the model has no decoder")?;
        let upsampling = objective.upsampling;
        let examples = CtcExamples {
            corpus,
            objective,
            source: self.source.special(),
            target: target.special(),
            steps: worker.config.training.steps,
            seed: worker.config.seed,
        };
        let (misfits, pairs) = (examples.misfits(), examples.corpus.len());
        let max_bad = worker.config.data.max_bad;
        let is_too_much = misfits as f64 > max_bad * pairs as f64 || misfits == pairs;
        if split == Split::Train && is_too_much {
            bail!(DataError::Misfits { misfits, pairs, upsampling, max_bad });
        }
        if misfits > 0 && worker.is_first() {
            worker.notice(format!(
                "data.{}: {misfits} of {pairs} pairs have more target tokens than their positions can \
                 hold, {upsampling} for each source token: the loss leaves them out",
                split.name()
            ));
        }
        Ok(examples)
    }
}

/// The tokenizer of one side: a BERT's, or that of the side's `own` vocabulary, which is made in
/// `folder`.
fn tokenizer(
    worker: &Worker,
    network: &dyn Network,
    own: Option<&Vocabulary>,
    column: Column,
    folder: &Path,
) -> anyhow::Result<Tokenizer> {
    let tokenizer = match (network.tokenizer(), own) {
        (Some(path), _) => Tokenizer::open(path)?,
        (
            None,
            Some(own @ (Vocabulary::File { lowercase, .. } | Vocabulary::Learn { lowercase, .. })),
        ) => {
            let path = vocabulary(worker, own, column, folder, network.shape().positions)?;
            Tokenizer::from_vocabulary(&path, *lowercase)?
        }
        (None, _) => bail!("a side of the model has no vocabulary"),
    };
    check_size(&tokenizer, network)?;
    Ok(tokenizer)
}

fn check_size(tokenizer: &Tokenizer, network: &dyn Network) -> anyhow::Result<()> {
    if tokenizer.size() > network.vocab_size() {
        let file = network.tokenizer().map(|path| path.display().to_string());
        bail!(
            "the vocabulary {} has {} entries, but the model has embeddings for {}: do they belong \
             together?",
            file.unwrap_or_else(|| "of the run".into()),
            tokenizer.size(),
            network.vocab_size()
        );
    }
    Ok(())
}

/// The vocab.txt in `folder`, with the files that belong to it. Rank 0 makes it where it is not
/// yet; the others wait.
fn vocabulary(
    worker: &Worker,
    config: &Vocabulary,
    column: Column,
    folder: &Path,
    positions: usize,
) -> anyhow::Result<PathBuf> {
    let path = folder.join("vocab.txt");
    if path.is_file() {
        return Ok(path);
    }
    if worker.is_first() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let made = match config {
            Vocabulary::File { path, lowercase } => wordpiece::Vocabulary::read(path, *lowercase)?,
            Vocabulary::Learn { size, lowercase } => {
                let text = &worker.config.data.train;
                wordpiece::learn(text, column, *size, *lowercase, worker.threads())?
            }
            Vocabulary::Bert(name) => bail!("the vocabulary of {name} is not made by the run"),
        };
        return Ok(made.write(folder, positions)?);
    }
    wait_for(worker, &path, "vocabulary")?;
    Ok(path)
}

/// Waits for a file that rank 0 makes.
///
/// # Errors
/// It is not there within `cluster.deadlines.start`.
pub fn wait_for(worker: &Worker, path: &Path, what: &str) -> anyhow::Result<()> {
    let deadline = Duration::from_secs_f64(worker.config.cluster.deadlines.start);
    let start = Instant::now();
    while !path.is_file() {
        if start.elapsed() > deadline {
            bail!("rank 0 has made no {what} after {} seconds", deadline.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
