//! The language model of a run: n-grams of its training's targets, estimated once ([`kneser_ney`]) and kept in
//! the run's folder ([`ngrams`]), where whatever uses the run finds them.

pub(super) mod kneser_ney;
mod ngrams;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tandem_cluster::process;
use tandem_cluster::run::control::Phase;
use tandem_config::schema::decoding::Decoding;

use crate::data::corpus::Corpus;
use crate::data::split::DataError;
use crate::data::turn;
use crate::session::corpora::Languages;
use crate::session::worker::Worker;

pub use kneser_ney::TooManyTokens;
pub use ngrams::{Context, Ngrams};

/// Why there is no language model.
#[derive(Debug, thiserror::Error)]
pub enum LanguageModelError {
    /// It would have to be estimated first.
    #[error(
        "{} is not there, which decoding.ctc.language_model needs, and it cannot be estimated from the training \
         data: {reason}; have the texts of data.train where the run's config.yaml says, or use the run where it \
         was trained, or set decoding.ctc.language_model to null", path.display()
    )]
    NoTexts {
        /// The file of the language model.
        path: PathBuf,
        /// What is wrong with the training data.
        reason: String,
    },
    /// It belongs to another decoder.
    #[error(
        "the language model {} knows {found} words and the decoder {expected}: it belongs to another run; remove \
         it, and it is estimated again where the training data are", path.display()
    )]
    OtherVocabulary {
        /// Its file.
        path: PathBuf,
        /// Its words.
        found: u32,
        /// The decoder's.
        expected: u32,
    },
}

/// The language model that a decoding needs, if any: that of the run's folder, or else one that is estimated
/// from the training data and left there.
///
/// # Errors
/// A damaged one; or there is none, and the training data are not there or the folder cannot be written.
pub fn open(
    worker: &Worker,
    languages: &Languages,
    decoding: &Decoding,
) -> anyhow::Result<Option<Ngrams>> {
    let Some((order, vocabulary)) = shape(languages, decoding) else { return Ok(None) };
    let path = worker.run.language_model(order);
    if let Some(found) = of_decoder(&path, vocabulary)? {
        return Ok(Some(found));
    }
    let corpus = languages.training_corpus(worker).map_err(|error| {
        match error.downcast_ref::<DataError>() {
            Some(DataError::Read(reason)) => {
                let (path, reason) = (path.clone(), reason.to_string());
                LanguageModelError::NoTexts { path, reason }.into()
            }
            _ => error,
        }
    })?;
    make(worker, &corpus, order, vocabulary).map(Some)
}

/// Estimates the language model that a decoding needs, if any, from the corpus that is trained on; one of the
/// same corpus stays.
///
/// # Errors
/// As [`open`].
pub fn prepare(
    worker: &Worker,
    languages: &Languages,
    corpus: &Corpus,
    decoding: &Decoding,
) -> anyhow::Result<()> {
    let Some((order, vocabulary)) = shape(languages, decoding) else { return Ok(()) };
    make(worker, corpus, order, vocabulary).map(drop)
}

/// The one of `corpus`, which the first rank to come here writes while the others wait.
fn make(worker: &Worker, corpus: &Corpus, order: usize, vocabulary: u32) -> anyhow::Result<Ngrams> {
    let path = worker.run.language_model(order);
    let of_corpus = || -> anyhow::Result<Option<Ngrams>> {
        Ok(of_decoder(&path, vocabulary)?.filter(|found| found.key() == corpus.key()))
    };
    if let Some(found) = of_corpus()? {
        return Ok(found);
    }
    let unwritable = || format!("cannot write the language model {}", path.display());
    path.parent().map_or(Ok(()), fs::create_dir_all).with_context(unwritable)?;
    let lock = File::create(path.with_extension("lock")).with_context(unwritable)?;
    turn::wait(&lock);
    if let Some(found) = of_corpus()? {
        return Ok(found);
    }
    let (file, targets) = (path.display(), corpus.len());
    worker.phase(Phase::Start, 0);
    process::say(format_args!("estimating {file} from the targets of {targets} training pairs"));
    let targets = (0..corpus.len()).map(|sample| corpus.target(sample));
    let targets: Vec<&[u32]> = targets.collect::<Result<_, _>>()?;
    let levels = kneser_ney::estimate(targets.into_iter(), order, vocabulary)?;
    Ngrams::write(&path, &corpus.key(), &levels)?;
    of_decoder(&path, vocabulary)?.with_context(unwritable)
}

/// The one of a file, if it is there.
fn of_decoder(path: &Path, vocabulary: u32) -> anyhow::Result<Option<Ngrams>> {
    let Some(found) = Ngrams::open(path)? else { return Ok(None) };
    if found.vocabulary() != vocabulary {
        let (path, found, expected) = (path.to_owned(), found.vocabulary(), vocabulary);
        return Err(LanguageModelError::OtherVocabulary { path, found, expected }.into());
    }
    Ok(Some(found))
}

/// The order of the language model that a decoding needs, if any, and the words that the decoder predicts: all
/// ids below this.
fn shape(languages: &Languages, decoding: &Decoding) -> Option<(usize, u32)> {
    let (model, decoder) = (decoding.language_model()?, languages.composition.decoder.as_ref()?);
    Some((model.order, decoder.network().vocab_size() as u32))
}
