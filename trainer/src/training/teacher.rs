//! A BERT labels the training pairs before training begins (BERT-Distilled, Chen et al. 2020).
//!
//! It reads each pair as one row, in passes of which each masks other target tokens, so that it
//! predicts all of them once, from both sides. Chunk s of the pairs is that of rank s mod world size,
//! and what shares a batch depends on the pairs alone: any number of ranks, killed at any point and
//! started again, makes the same labels, as long as each computes with as many threads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};
use tandem_cluster::run::control::{Phase, Report};
use tandem_cluster::run::store::hash_file;
use tandem_config::parameters;
use tandem_config::parameters::limits::LABELLING_TOKENS;
use tandem_config::pretrained::bert::{Bert, BertFolder};
use tandem_config::pretrained::hub::locate;
use tandem_config::schema::model::{Train, joined};
use tandem_config::schema::soft_labels::SoftLabels as Config;
use tch::Device;

use crate::data::batches::evaluation_batches;
use crate::data::cache::{CacheError, Key};
use crate::data::corpus::Corpus;
use crate::data::example::{MlmBatch, Padded, join};
use crate::data::soft_labels::{Chunk, SoftLabels, Store};
use crate::data::tokenizer::{SpecialIds, Tokenizer};
use crate::model::Parameters;
use crate::model::parameters::Weights;
use crate::objective::mlm::Mlm;
use crate::session::corpora::Languages;
use crate::session::weights::Misfit;
use crate::session::worker::Worker;

/// How often a rank polls for the others' chunks.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The labels of all training pairs; all ranks compute those that are missing.
///
/// # Errors
/// An unusable teacher, one with another vocabulary, or labels that cannot be kept.
pub fn soft_labels(
    worker: &Worker,
    languages: &Languages,
    config: &Config,
    corpus: &Arc<Corpus>,
) -> anyhow::Result<SoftLabels> {
    let path = locate(config.bert())
        .with_context(|| format!("the teacher {} is not on this machine", config.bert()))?;
    let folder = BertFolder::open(&path)?;
    check_vocabulary(languages, &folder)?;
    let top = config.top.min(languages.source.size());
    let key = key(worker, &folder, config, corpus)?;
    let store =
        Store::new(&worker.config.data.cache(worker.run.path()), key, Arc::clone(corpus), top);
    let mut chunks: Vec<Option<Chunk>> = (0..store.chunks()).map(|i| store.open(i)).collect();
    let own = (worker.rank..store.chunks()).step_by(worker.world_size);
    let missing: Vec<usize> = own.filter(|&chunk| chunks[chunk].is_none()).collect();
    if !missing.is_empty() {
        let teacher = Teacher::load(worker, &folder, config, languages, corpus)?;
        for chunk in missing {
            let (ids, logits) =
                teacher.label(&store, chunk, worker.device, &|| worker.phase(Phase::Start, 0))?;
            store.write(chunk, &ids, &logits)?;
            worker.report(Report::Labelled { chunk, chunks: store.chunks() });
        }
    }
    wait_for_others(worker, &store, &mut chunks)?;
    Ok(SoftLabels::new(store, chunks.into_iter().flatten().collect()))
}

/// Fills in the chunks that are not there yet.
fn wait_for_others(
    worker: &Worker,
    store: &Store,
    chunks: &mut [Option<Chunk>],
) -> anyhow::Result<()> {
    let deadline = Duration::from_secs_f64(worker.config.cluster.deadlines.start);
    let mut since = Instant::now();
    loop {
        let mut missing = 0;
        for (index, chunk) in chunks.iter_mut().enumerate().filter(|(_, chunk)| chunk.is_none()) {
            *chunk = store.open(index);
            match chunk {
                None => missing += 1,
                Some(_) => {
                    since = Instant::now();
                    worker.phase(Phase::Start, 0);
                }
            }
        }
        if missing == 0 {
            return Ok(());
        }
        if since.elapsed() > deadline {
            bail!(
                "{missing} of {} chunks of soft labels are not in {} after {} seconds: can all \
                 workers write there?",
                chunks.len(),
                store.folder().display(),
                deadline.as_secs()
            );
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// The teacher reads the encoder's ids, and its words are labels for the decoder's.
fn check_vocabulary(languages: &Languages, folder: &BertFolder) -> anyhow::Result<()> {
    let own = Tokenizer::open(&folder.vocabulary)?.fingerprint();
    for (side, tokenizer) in
        [("encoder", Some(&languages.source)), ("decoder", languages.target.as_ref())]
    {
        ensure!(
            tokenizer.is_some_and(|tokenizer| tokenizer.fingerprint() == own),
            Misfit(format!(
                "the {side} has another vocabulary than the teacher of soft_labels, whose is {}: \
                 give both sides `vocabulary: {{bert: {}}}`, or train a teacher that has theirs",
                folder.vocabulary.display(),
                folder.path.display()
            ))
        );
    }
    Ok(())
}

/// The hash of everything that the labels depend on.
fn key(
    worker: &Worker,
    folder: &BertFolder,
    config: &Config,
    corpus: &Corpus,
) -> anyhow::Result<Key> {
    let weights = folder.path.join("model.safetensors");
    let (_, sha256) =
        hash_file(&weights).with_context(|| format!("cannot read {}", weights.display()))?;
    let Config { top, passes, .. } = config;
    let settings = format!("soft labels 1 {top} {passes} {:?} {sha256}", worker.kinds());
    let mut key = Sha256::new_with_prefix(settings);
    key.update(serde_json::to_vec(&folder.config)?);
    key.update(corpus.key());
    Ok(key.finalize().into())
}

/// A BERT and the pairs that it labels.
pub struct Teacher<'a> {
    /// The BERT with its head.
    pub model: Mlm,
    /// The pairs, in its ids.
    pub corpus: &'a Corpus,
    /// The special ones of these.
    pub special: SpecialIds,
    /// Its number of positions.
    pub positions: usize,
    /// Passes over a pair.
    pub passes: usize,
    /// Entries of the vocabulary: its labels are among them.
    pub words: usize,
}

impl<'a> Teacher<'a> {
    fn load(
        worker: &Worker,
        folder: &BertFolder,
        config: &Config,
        languages: &Languages,
        corpus: &'a Corpus,
    ) -> anyhow::Result<Self> {
        worker.phase(Phase::Start, 0);
        let shape = &folder.config;
        let bert = Bert { config: shape.clone(), folder: Some(folder.clone()) };
        let list = parameters::mlm(&bert, Train::Frozen);
        let file = Weights::read(&folder.path.join("model.safetensors"))?;
        let (seed, kinds) = (worker.config.seed, worker.kinds());
        let parameters =
            Parameters::new(&list, &[("encoder", file)], seed, kinds.frozen, worker.device)?;
        Ok(Self {
            model: Mlm::new(&parameters, shape, None, kinds.compute),
            corpus,
            special: languages.source.special(),
            positions: shape.positions(),
            passes: config.passes,
            words: languages.source.size(),
        })
    }

    /// The labels of a chunk, [`Store::top`] for each target token, and their logits; `begin` hears
    /// of each batch.
    ///
    /// # Errors
    /// A damaged cache.
    pub fn label(
        &self,
        store: &Store,
        chunk: usize,
        device: Device,
        begin: &dyn Fn(),
    ) -> Result<(Vec<u32>, Vec<f32>), CacheError> {
        let top = store.top();
        let count = store.tokens(chunk) * top;
        let (mut ids, mut logits) = (vec![0; count], vec![0.0; count]);
        let mut rows = Vec::new();
        for sample in store.samples(chunk) {
            let (source, target) = self.corpus.length(sample);
            if joined(source as usize, target as usize) <= self.positions {
                let passes = self.passes.min(target as usize);
                rows.extend((0..passes).map(|first| Row { sample, first, step: passes }));
                continue;
            }
            // Too long for the teacher: the data's own words, with all of the probability.
            let start = store.offset(sample) * top;
            for (place, &label) in self.corpus.target(sample)?.iter().enumerate() {
                let range = start + place * top..start + (place + 1) * top;
                ids[range.clone()].fill(label);
                logits[range.start + 1..range.end].fill(f32::NEG_INFINITY);
            }
        }
        let length = |row: &Row| {
            let (source, target) = self.corpus.length(row.sample);
            (joined(source as usize, target as usize) as u32, 0)
        };
        let lengths: Vec<_> = rows.iter().map(length).collect();
        for batch in evaluation_batches(&lengths, LABELLING_TOKENS) {
            begin();
            let batch: Vec<&Row> = batch.iter().map(|&row| &rows[row as usize]).collect();
            let (found, scores) =
                self.model.most_probable(&self.batch(&batch)?, top, self.words, device);
            let found = Vec::<i64>::try_from(found.view([-1])).expect("[N * top]");
            let scores = Vec::<f32>::try_from(scores.view([-1])).expect("[N * top]");
            let mut found = found.chunks(top).zip(scores.chunks(top));
            for row in batch {
                for place in row.places(self.corpus.length(row.sample).1 as usize) {
                    let (words, scores) = found.next().expect("each place has its words");
                    let start = (store.offset(row.sample) + place) * top;
                    for (slot, &word) in ids[start..start + top].iter_mut().zip(words) {
                        *slot = word as u32;
                    }
                    logits[start..start + top].copy_from_slice(scores);
                }
            }
        }
        Ok((ids, logits))
    }

    fn batch(&self, rows: &[&Row]) -> Result<MlmBatch, CacheError> {
        let (mut inputs, mut second, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            let target = self.corpus.target(row.sample)?;
            let (mut ids, start) = join(self.corpus.source(row.sample)?, target, self.special.cls);
            let masked: Vec<usize> = row.places(target.len()).map(|place| start + place).collect();
            masked.iter().for_each(|&place| ids[place] = self.special.mask);
            inputs.push(ids);
            second.push(start as i64);
            places.push(masked);
        }
        let input = Padded::new(&inputs, self.special.pad);
        let columns = input.columns;
        let flat = |(row, places): (usize, &Vec<usize>)| {
            places.iter().map(|place| (row * columns + place) as i64).collect::<Vec<_>>()
        };
        Ok(MlmBatch {
            loss_positions: places.iter().enumerate().flat_map(flat).collect(),
            input,
            second: Some(second),
            labels: vec![],
            samples: rows.iter().map(|row| row.sample as u32).collect(),
        })
    }
}

/// One pass over a pair: every `step`-th target token is masked, from the `first` on.
struct Row {
    sample: usize,
    first: usize,
    step: usize,
}

impl Row {
    /// The masked places of a target of this length, ascending.
    fn places(&self, length: usize) -> impl Iterator<Item = usize> + use<> {
        (self.first..length).step_by(self.step)
    }
}
