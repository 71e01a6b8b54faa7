//! A run's tokenizers and texts, opened as its objective needs them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tandem_cluster::control::{Phase, Report};
use tandem_config::bases::{Base, Bases};
use tandem_config::model::{Encoder, Objective, Vocabulary};

use crate::data::corpus::{Corpus, Side, Sides, Split};
use crate::data::corrupt::Replacements;
use crate::data::example::{MlmExamples, PairExamples};
use crate::data::tokenizer::Tokenizer;
use crate::data::wordpiece;
use crate::objective::Examples;
use crate::worker::Worker;

/// The BERTs, and the tokenizers that belong to them.
pub struct Languages {
    /// The BERTs' shapes and folders.
    pub bases: Bases,
    /// The source side's tokenizer.
    pub source: Tokenizer,
    /// The target side's; none for the `mlm` objective.
    pub target: Option<Tokenizer>,
}

impl Languages {
    /// Opens the BERTs and tokenizers of a run; learns a vocabulary where the run has none.
    ///
    /// # Errors
    /// Unusable folders, or a vocabulary that does not fit its BERT.
    pub fn open(worker: &Worker) -> anyhow::Result<Self> {
        let Encoder::Bert(encoder) = &worker.config.model.encoder;
        let learnt = match &encoder.new {
            Some(new) => Some(vocabulary(worker, &new.vocabulary, new.positions)?),
            None => None,
        };
        let bases = Bases::open(&worker.config, learnt.as_deref())?;
        let source = match (&encoder.new, &learnt) {
            (Some(new), Some(path)) => {
                let (Vocabulary::File { lowercase, .. } | Vocabulary::Learn { lowercase, .. }) =
                    &new.vocabulary;
                Tokenizer::from_vocabulary(path, *lowercase)?
            }
            _ => tokenizer(&bases.encoder)?.context("the encoder has no vocabulary")?,
        };
        check_size(&source, &bases.encoder)?;
        let target = match &bases.decoder {
            Some(base) => tokenizer(base)?,
            None => None,
        };
        if let (Some(tokenizer), Some(base)) = (&target, &bases.decoder) {
            check_size(tokenizer, base)?;
        }
        Ok(Self { bases, source, target })
    }

    /// The longest source and target sentences in tokens.
    pub fn max_lengths(&self, worker: &Worker) -> (usize, usize) {
        let wanted = worker.config.data.max_length.unwrap_or(usize::MAX);
        let positions = |base: &Base| base.config.max_position_embeddings;
        let source = positions(&self.bases.encoder);
        let classes = match &worker.config.model.objective {
            Objective::Masked(masked) => masked.length_classes - 1,
            Objective::Mlm(_) => usize::MAX,
        };
        let target = self.bases.decoder.as_ref().map_or(source, positions).min(classes);
        (wanted.min(source), wanted.min(target))
    }

    /// Both sides as a corpus needs them.
    pub fn sides(&self, worker: &Worker) -> Sides<'_> {
        let (source_length, target_length) = self.max_lengths(worker);
        let source = Side { tokenizer: &self.source, max_length: source_length };
        match &self.target {
            Some(tokenizer) => {
                Sides::Pair { source, target: Side { tokenizer, max_length: target_length } }
            }
            None => Sides::Passages(source),
        }
    }

    /// A split's samples; none where the config has no such split.
    ///
    /// # Errors
    /// Unreadable files, or lines that the config refuses.
    pub fn corpus(&self, worker: &Worker, split: Split) -> anyhow::Result<Option<Arc<Corpus>>> {
        let data = &worker.config.data;
        let Some(text) = split.text(data) else { return Ok(None) };
        let beside = || worker.run.parent().unwrap_or(Path::new(".")).join("cache");
        let cache = data.cache.clone().unwrap_or_else(beside);
        worker.phase(Phase::Start, 0);
        let sides = self.sides(worker);
        let corpus = Corpus::open(data, text, split, sides, &cache, worker.threads())?;
        if worker.is_first() {
            let report = serde_json::to_value(corpus.report())?;
            worker.report(Report::Data { report });
        }
        Ok(Some(Arc::new(corpus)))
    }

    /// Makes the objective's micro-batches out of a corpus.
    ///
    /// # Errors
    /// Pairs without a target side, which validation refuses.
    pub fn examples(&self, worker: &Worker, corpus: Arc<Corpus>) -> anyhow::Result<Examples> {
        let seed = worker.config.seed;
        let source = Replacements::of(&self.source);
        Ok(match &worker.config.model.objective {
            Objective::Masked(objective) => {
                let target = self.target.as_ref().context("the model has no decoder")?;
                let (objective, target) = (objective.clone(), Replacements::of(target));
                Examples::Pair(PairExamples { corpus, objective, source, target, seed })
            }
            Objective::Mlm(objective) => {
                let objective = objective.clone();
                Examples::Passage(MlmExamples { corpus, objective, replacements: source, seed })
            }
        })
    }
}

fn tokenizer(base: &Base) -> anyhow::Result<Option<Tokenizer>> {
    let folder = base.folder.as_ref();
    Ok(folder.map(|folder| Tokenizer::open(&folder.vocabulary)).transpose()?)
}

fn check_size(tokenizer: &Tokenizer, base: &Base) -> anyhow::Result<()> {
    if tokenizer.size() > base.config.vocab_size {
        let folder = base.folder.as_ref().map(|folder| folder.path.display().to_string());
        bail!(
            "the vocabulary of {} has {} entries, but its config.json says {}: do they belong \
             together?",
            folder.unwrap_or_else(|| "the new BERT".into()),
            tokenizer.size(),
            base.config.vocab_size
        );
    }
    Ok(())
}

/// The vocab.txt of a new BERT, with the files that belong to it. Rank 0 makes it where it is not
/// yet; the others wait.
fn vocabulary(worker: &Worker, config: &Vocabulary, positions: usize) -> anyhow::Result<PathBuf> {
    let folder = worker.run.join("vocabulary");
    let path = folder.join("vocab.txt");
    if path.is_file() {
        return Ok(path);
    }
    if worker.is_first() {
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let made = match config {
            Vocabulary::File { path, lowercase } => wordpiece::Vocabulary::read(path, *lowercase)?,
            Vocabulary::Learn { size, lowercase } => {
                let text = &worker.config.data.train;
                wordpiece::learn(text, *size, *lowercase, worker.threads())?
            }
        };
        return Ok(made.write(&folder, positions)?);
    }
    let deadline = Duration::from_secs_f64(worker.config.cluster.deadlines.start);
    let start = Instant::now();
    while !path.is_file() {
        if start.elapsed() > deadline {
            bail!("rank 0 has made no vocabulary after {} seconds", deadline.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(path)
}
