//! An n-gram model as it lies in its file, and the probabilities that it gives.
//!
//! The n-grams are a trie (see [`super::kneser_ney`]). A word behind a context has the probability of the
//! longest n-gram of both that is there, times the backoff of each longer context that is there.
//!
//! Layout, little-endian, after the head of [`NgramsFile`]: the key of the training data (32 bytes), the order,
//! the size of the vocabulary and the number of n-grams of each level (u32 each); then for each level the last
//! words (u32, but of the first level, which has all words and the beginning of a sentence behind them), natural
//! logarithms of probabilities and, but for the last level, of backoffs (f32), and where the n-grams of the next
//! level begin, and end (u32).

use std::ops::Range;
use std::path::Path;

use tandem_cluster::run::io_error::IoError;
use tandem_cluster::run::ngrams::{NgramsError, NgramsFile};
use tandem_config::schema::decoding::LanguageModel;

use crate::data::cache::Key;

const KEY: usize = 32;

/// The n-grams of one length, before they are written.
#[derive(Debug, Default, PartialEq)]
pub struct Level {
    /// Their last words.
    pub words: Vec<u32>,
    pub log_probs: Vec<f32>,
    pub log_backoffs: Vec<f32>,
    /// Where the longer n-grams that begin with each of them start, and the end.
    pub first: Vec<u32>,
}

/// A verified, memory-mapped model.
#[derive(Debug)]
pub struct Ngrams {
    file: NgramsFile,
    vocabulary: u32,
    levels: Vec<Sections>,
}

/// Where a level lies in its file, in bytes.
#[derive(Debug)]
struct Sections {
    words: Range<usize>,
    log_probs: Range<usize>,
    log_backoffs: Range<usize>,
    first: Range<usize>,
}

/// What a word is predicted from: of the words before it, as many as the model has seen in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Context {
    length: usize,
    /// The n-gram of the last word, of the last two, and so on.
    ngrams: [u32; LanguageModel::MAX_ORDER - 1],
}

impl Ngrams {
    /// Writes a model in one step.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn write(path: &Path, key: &Key, levels: &[Level]) -> Result<(), IoError> {
        let counts = levels.iter().map(|level| level.log_probs.len() as u32);
        let vocabulary = levels[0].words.len() as u32 - 1;
        let head: Vec<u32> = [levels.len() as u32, vocabulary].into_iter().chain(counts).collect();
        let mut parts: Vec<&[u8]> = vec![key, bytemuck::cast_slice(&head)];
        for (place, level) in levels.iter().enumerate() {
            if place > 0 {
                parts.push(bytemuck::cast_slice(&level.words));
            }
            parts.push(bytemuck::cast_slice(&level.log_probs));
            parts.push(bytemuck::cast_slice(&level.log_backoffs));
            parts.push(bytemuck::cast_slice(&level.first));
        }
        NgramsFile::write(path, &parts)
    }

    /// Opens the model of a file; none if there is no such file.
    ///
    /// # Errors
    /// A damaged file.
    pub fn open(path: &Path) -> Result<Option<Self>, NgramsError> {
        let Some(file) = NgramsFile::open(path)? else { return Ok(None) };
        let damaged = || NgramsError::Damaged { path: path.to_owned() };
        let (vocabulary, levels) = sections(&file).ok_or_else(damaged)?;
        Ok(Some(Self { file, vocabulary, levels }))
    }

    /// The words that it knows: all ids below this.
    pub fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// The key of the corpus that it was estimated from.
    pub fn key(&self) -> Key {
        self.file[..KEY].try_into().expect("32 bytes")
    }

    /// What the first word of a sentence is predicted from.
    pub fn begin(&self) -> Context {
        self.next(&Context::default(), self.vocabulary).1
    }

    /// The log-probability of a word behind its context, and the context of the word after it.
    pub fn next(&self, context: &Context, word: u32) -> (f64, Context) {
        let (mut backoff, mut found, mut next) = (0.0, None, Context::default());
        // The longest first. The ends of an n-gram that is there are there, too.
        for length in (0..=context.length).rev() {
            let ngram = match length {
                0 => Some(word as usize),
                _ => self.longer(length, context.ngrams[length - 1] as usize, word),
            };
            match ngram {
                Some(ngram) => {
                    let log_prob = self.floats(&self.levels[length].log_probs)[ngram];
                    found.get_or_insert(backoff + f64::from(log_prob));
                    if length + 1 < self.levels.len() {
                        next.ngrams[length] = ngram as u32;
                        next.length = next.length.max(length + 1);
                    }
                }
                None => {
                    let level = &self.levels[length - 1];
                    let log_backoffs = self.floats(&level.log_backoffs);
                    backoff += f64::from(log_backoffs[context.ngrams[length - 1] as usize]);
                }
            }
        }
        (found.expect("every word is an n-gram"), next)
    }

    /// The n-gram that is one of so many words and this word behind it.
    fn longer(&self, length: usize, ngram: usize, word: u32) -> Option<usize> {
        let first = self.integers(&self.levels[length - 1].first);
        let range = first[ngram] as usize..first[ngram + 1] as usize;
        let words = &self.integers(&self.levels[length].words)[range.clone()];
        Some(range.start + words.binary_search(&word).ok()?)
    }

    fn integers(&self, section: &Range<usize>) -> &[u32] {
        bytemuck::cast_slice(&self.file[section.clone()])
    }

    fn floats(&self, section: &Range<usize>) -> &[f32] {
        bytemuck::cast_slice(&self.file[section.clone()])
    }
}

/// The size of the vocabulary and the sections of each level; none if they do not fit the file.
fn sections(file: &[u8]) -> Option<(u32, Vec<Sections>)> {
    let head: &[u32] = bytemuck::try_cast_slice(file.get(KEY..)?.get(..8)?).ok()?;
    let (order, vocabulary) = (head[0] as usize, head[1]);
    if !(1..=LanguageModel::MAX_ORDER).contains(&order) {
        return None;
    }
    let mut end = KEY + 8 + 4 * order;
    let counts: &[u32] = bytemuck::try_cast_slice(file.get(KEY + 8..end)?).ok()?;
    let mut section = |count: usize| {
        let start = end;
        end = start.checked_add(count.checked_mul(4)?)?;
        Some(start..end)
    };
    let mut levels = Vec::with_capacity(order);
    for (place, &count) in counts.iter().enumerate() {
        let (count, is_last) = (count as usize, place + 1 == order);
        levels.push(Sections {
            words: section(if place == 0 { 0 } else { count })?,
            log_probs: section(count)?,
            log_backoffs: section(if is_last { 0 } else { count })?,
            first: section(if is_last { 0 } else { count + 1 })?,
        });
    }
    (end == file.len() && counts[0] == vocabulary.checked_add(1)?).then_some((vocabulary, levels))
}
