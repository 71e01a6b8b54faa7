//! Learns a WordPiece vocabulary from text.
//!
//! The most frequent pairs of adjacent symbols are merged (Sennrich et al. 2016), as in Hugging Face's WordPiece
//! trainer. That trainer breaks ties in the order of a hash map, so that its result is not deterministic; here
//! the same text always gives the same vocabulary.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

use tandem_cluster::run::atomic;
use tandem_config::pretrained::tokenizer::{Casing, entries};
use tandem_config::schema::data::Text;
use tokenizers::decoders::wordpiece::WordPiece;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer,
};

use super::parallel::map_slices;
use super::read::{Column, ReadError, Records};
use super::tokenizer::{bert_tokenizer, is_space, normalizer};

/// The special tokens, in the order of their ids.
pub const SPECIAL_TOKENS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// The most letters of a word; longer ones are `[UNK]` in a BERT tokenizer.
const MAX_WORD_LETTERS: usize = 100;
/// The most different letters, as in Hugging Face's BERT trainer.
const MAX_LETTERS: usize = 1000;

/// Why a vocabulary could not be learnt.
#[derive(Debug, thiserror::Error)]
pub enum WordpieceError {
    /// The text cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The text has no words.
    #[error("{} has no words to learn a vocabulary from", path.display())]
    NoWords {
        /// The file.
        path: PathBuf,
    },
    /// A vocab.txt cannot be read.
    #[error("cannot read the vocabulary {}", path.display())]
    Vocabulary {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The files cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The tokenizer cannot be built.
    #[error("cannot write the tokenizer: {reason}")]
    Tokenizer {
        /// Why.
        reason: String,
    },
}

/// A WordPiece vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    entries: Vec<String>,
    lowercase: bool,
}

/// Learns a vocabulary of exactly `size` entries from one column of a text.
///
/// The special tokens come first, then single letters by code point, then merges in order. If the text has too
/// few merges, `[unused0]`, ... fill up the rest. Letters rarer than one in a million and bad lines are ignored.
///
/// # Errors
/// The text cannot be read, or has no words.
pub fn learn(
    text: &Text,
    column: Column,
    size: usize,
    lowercase: bool,
    threads: usize,
) -> Result<Vocabulary, WordpieceError> {
    let counts = count_words(text, column, lowercase, threads)?;
    if counts.is_empty() {
        let path = text.files()[0].to_owned();
        return Err(WordpieceError::NoWords { path });
    }
    Ok(Vocabulary { entries: Learner::new(&counts, size).learn(size), lowercase })
}

impl Vocabulary {
    /// The vocabulary of a vocab.txt.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(path: &Path, lowercase: bool) -> Result<Self, WordpieceError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| WordpieceError::Vocabulary { path: path.to_owned(), source })?;
        Ok(Self { entries: entries(&text).lines().map(str::to_owned).collect(), lowercase })
    }

    /// The entries in the order of their ids.
    pub fn entries(&self) -> &[String] {
        &self.entries
    }

    /// Writes vocab.txt, tokenizer_config.json and tokenizer.json, as Hugging Face's
    /// `BertTokenizer` and `BertTokenizerFast` read them. Returns the path of vocab.txt.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, folder: &Path, max_length: usize) -> Result<PathBuf, WordpieceError> {
        let config = serde_json::json!({
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": self.lowercase,
            "strip_accents": null,
            "tokenize_chinese_chars": true,
            "model_max_length": max_length,
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        });
        let vocabulary = folder.join("vocab.txt");
        replace(&folder.join("tokenizer_config.json"), &format!("{config:#}\n"))?;
        replace(&folder.join("tokenizer.json"), &self.tokenizer_json()?)?;
        replace(&vocabulary, &self.lines())?;
        Ok(vocabulary)
    }

    fn lines(&self) -> String {
        self.entries.join("\n") + "\n"
    }

    fn tokenizer_json(&self) -> Result<String, WordpieceError> {
        let reason = |reason: String| WordpieceError::Tokenizer { reason };
        let casing = Casing { lowercase: self.lowercase, strip_accents: None, chinese: true };
        let mut tokenizer = bert_tokenizer(&self.lines(), casing).map_err(reason)?;
        let special = |token: &str| (token.to_owned(), tokenizer.token_to_id(token).unwrap_or(0));
        let ends = BertProcessing::new(special("[SEP]"), special("[CLS]"));
        tokenizer.with_post_processor(Some(ends));
        tokenizer.with_decoder(Some(WordPiece::default()));
        tokenizer
            .add_special_tokens(SPECIAL_TOKENS.map(|token| AddedToken::from(token, true)))
            .and_then(|_| tokenizer.to_string(true))
            .map_err(|error| reason(error.to_string()))
    }
}

/// Replaces a file atomically.
fn replace(path: &Path, text: &str) -> Result<(), WordpieceError> {
    atomic::replace(path, |file| file.write_all(text.as_bytes()))
        .map_err(|source| WordpieceError::Write { path: path.to_owned(), source })
}

/// Counts the words of a text, as split by BERT's tokenizer.
fn count_words(
    text: &Text,
    column: Column,
    lowercase: bool,
    threads: usize,
) -> Result<BTreeMap<String, u64>, WordpieceError> {
    let casing = Casing { lowercase, strip_accents: None, chinese: true };
    let mut spelt: HashMap<String, u64> = HashMap::new();
    for record in Records::open(text)? {
        let record = record?;
        if record.problem.is_none() {
            for word in record.text(column).split(is_space) {
                count(&mut spelt, word, 1);
            }
        }
    }
    // Cleaning and splitting are slow, and give the same result for the same word.
    let spelt: Vec<(String, u64)> = spelt.into_iter().collect();
    let mut words = BTreeMap::new();
    for counts in map_slices(&spelt, threads, |part| clean_and_split(part, casing)) {
        for (word, times) in counts {
            *words.entry(word).or_default() += times;
        }
    }
    Ok(words)
}

fn clean_and_split(spelt: &[(String, u64)], casing: Casing) -> HashMap<String, u64> {
    let clean = normalizer(casing);
    let mut counts = HashMap::new();
    for (word, times) in spelt {
        let mut word = NormalizedString::from(word.as_str());
        if clean.normalize(&mut word).is_err() {
            continue;
        }
        let mut words = PreTokenizedString::from(word);
        if BertPreTokenizer.pre_tokenize(&mut words).is_err() {
            continue;
        }
        for (word, ..) in words.get_splits(OffsetReferential::Original, OffsetType::None) {
            count(&mut counts, word, *times);
        }
    }
    counts
}

fn count(counts: &mut HashMap<String, u64>, word: &str, times: u64) {
    match counts.get_mut(word) {
        Some(count) => *count += times,
        None => {
            counts.insert(word.to_owned(), times);
        }
    }
}

/// A pair of adjacent symbols.
type Pair = (u32, u32);

/// A word as symbols, and its count.
struct Word {
    symbols: Vec<u32>,
    count: u64,
}

struct Learner {
    entries: Vec<String>,
    ids: HashMap<String, u32>,
    words: Vec<Word>,
    /// The count of each pair.
    counts: HashMap<Pair, u64>,
    /// The words in which each pair occurs or has occurred.
    places: HashMap<Pair, Vec<u32>>,
    /// Pairs by count, the most frequent first, then by ids. Counts may be out of date.
    queue: BinaryHeap<(u64, Reverse<Pair>)>,
}

impl Learner {
    fn new(counts: &BTreeMap<String, u64>, size: usize) -> Self {
        let letters = letters(counts, size);
        let mut learner = Self {
            entries: Vec::new(),
            ids: HashMap::new(),
            words: Vec::new(),
            counts: HashMap::new(),
            places: HashMap::new(),
            queue: BinaryHeap::new(),
        };
        for token in SPECIAL_TOKENS {
            learner.id(token.to_owned());
        }
        for letter in letters.keys() {
            learner.id(letter.to_string());
        }
        for (letter, _) in letters.iter().filter(|(_, continues)| **continues) {
            learner.id(format!("##{letter}"));
        }
        for (word, &count) in counts {
            if word.chars().count() > MAX_WORD_LETTERS
                || !word.chars().all(|letter| letters.contains_key(&letter))
            {
                continue;
            }
            let symbol = |(place, letter): (usize, char)| match place {
                0 => learner.ids[&letter.to_string()],
                _ => learner.ids[&format!("##{letter}")],
            };
            let symbols = word.chars().enumerate().map(symbol).collect();
            learner.words.push(Word { symbols, count });
        }
        for (place, word) in learner.words.iter().enumerate() {
            for pair in pairs(&word.symbols) {
                *learner.counts.entry(pair).or_default() += word.count;
                learner.places.entry(pair).or_default().push(place as u32);
            }
        }
        learner.queue =
            learner.counts.iter().map(|(&pair, &count)| (count, Reverse(pair))).collect();
        learner
    }

    /// The id of an entry, which may be new.
    fn id(&mut self, entry: String) -> u32 {
        let next = self.entries.len() as u32;
        *self.ids.entry(entry).or_insert_with_key(|entry| {
            self.entries.push(entry.clone());
            next
        })
    }

    fn learn(mut self, size: usize) -> Vec<String> {
        while self.entries.len() < size {
            let Some((count, Reverse(pair))) = self.queue.pop() else { break };
            let now = self.counts.get(&pair).copied().unwrap_or(0);
            if now != count {
                if now > 0 {
                    self.queue.push((now, Reverse(pair)));
                }
                continue;
            }
            if count < 2 {
                break; // what occurs once is no pattern
            }
            self.merge(pair);
        }
        for unused in 0..size.saturating_sub(self.entries.len()) {
            self.entries.push(format!("[unused{unused}]"));
        }
        self.entries
    }

    /// Replaces a pair by one symbol in all words.
    fn merge(&mut self, pair: Pair) {
        let second = self.entries[pair.1 as usize].trim_start_matches("##");
        let merged = format!("{}{second}", self.entries[pair.0 as usize]);
        let merged = self.id(merged);
        let mut places = self.places.remove(&pair).unwrap_or_default();
        places.sort_unstable();
        places.dedup();
        let mut grown = Vec::new();
        for place in places {
            let word = &mut self.words[place as usize];
            for old in pairs(&word.symbols) {
                if let Some(count) = self.counts.get_mut(&old) {
                    *count -= word.count;
                }
            }
            replace_pair(&mut word.symbols, pair, merged);
            for new in pairs(&word.symbols) {
                *self.counts.entry(new).or_default() += word.count;
                if new.0 == merged || new.1 == merged {
                    self.places.entry(new).or_default().push(place);
                    grown.push(new);
                }
            }
        }
        self.counts.remove(&pair);
        grown.sort_unstable();
        grown.dedup();
        for new in grown {
            self.queue.push((self.counts[&new], Reverse(new)));
        }
    }
}

/// The letters of a vocabulary, and whether each is a continuation.
fn letters(counts: &BTreeMap<String, u64>, size: usize) -> BTreeMap<char, bool> {
    let mut found: BTreeMap<char, (u64, bool)> = BTreeMap::new();
    let mut total = 0;
    for (word, count) in counts {
        for (place, letter) in word.chars().enumerate() {
            let (seen, continues) = found.entry(letter).or_default();
            *seen += count;
            *continues |= place > 0;
            total += count;
        }
    }
    let mut by_count: Vec<_> = found.into_iter().collect();
    by_count.sort_by_key(|&(letter, (count, _))| (Reverse(count), letter));
    // Each letter takes up to two entries, and merges need the larger part.
    let most = MAX_LETTERS.min(size.saturating_sub(SPECIAL_TOKENS.len()) / 4);
    by_count
        .into_iter()
        .take(most)
        .filter(|(_, (count, _))| count * 1_000_000 >= total)
        .map(|(letter, (_, continues))| (letter, continues))
        .collect()
}

fn pairs(symbols: &[u32]) -> impl Iterator<Item = Pair> {
    symbols.windows(2).map(|pair| (pair[0], pair[1]))
}

/// Replaces every occurrence of a pair, from the left.
fn replace_pair(symbols: &mut Vec<u32>, pair: Pair, merged: u32) {
    let mut kept = 0;
    let mut next = 0;
    while next < symbols.len() {
        let found = symbols[next] == pair.0 && symbols.get(next + 1) == Some(&pair.1);
        symbols[kept] = if found { merged } else { symbols[next] };
        kept += 1;
        next += if found { 2 } else { 1 };
    }
    symbols.truncate(kept);
}

#[cfg(test)]
mod tests {
    use super::super::tokenizer::Tokenizer;
    use super::*;

    fn text(folder: &Path, lines: &str) -> Text {
        let path = folder.join("text.txt");
        std::fs::write(&path, lines).unwrap();
        Text::Lines { path }
    }

    fn entries(lines: &str, size: usize, lowercase: bool) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        learn(&text(folder.path(), lines), Column::Source, size, lowercase, 2).unwrap().entries
    }

    #[test]
    fn the_most_frequent_pairs_are_merged_first() {
        // l o w: 5 + 2 times; e r: 2 + 1; then low + er: 2.
        let lines = "low low low low low lower lower er\n";
        let found = entries(lines, 41, true);
        let expected = "[PAD] [UNK] [CLS] [SEP] [MASK] e l o r w ##e ##o ##r ##w \
            lo low ##er lower [unused0]";
        assert_eq!(found[..19].join(" "), expected);
        assert_eq!(found.len(), 41);
        assert_eq!(found[40], "[unused22]");
    }

    #[test]
    fn the_same_text_gives_the_same_vocabulary_on_any_number_of_threads() {
        let folder = tempfile::tempdir().unwrap();
        let mut rng = crate::random::stream(1, crate::random::Purpose::Order, &[]);
        let mut lines = String::new();
        for _ in 0..3000 {
            for _ in 0..6 {
                // Many ties: every syllable is equally likely.
                for _ in 0..=rng.below(2) {
                    lines.push_str(["ba", "du", "ki", "lo"][rng.below(4) as usize]);
                }
                lines.push(' ');
            }
            lines.push('\n');
        }
        let text = text(folder.path(), &lines);
        let first = learn(&text, Column::Source, 200, true, 1).unwrap();
        for threads in [1, 2, 3] {
            assert_eq!(learn(&text, Column::Source, 200, true, threads).unwrap(), first);
        }
        assert_eq!(first.entries().len(), 200);
        let mut unique = first.entries().to_vec();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), 200);
    }

    #[test]
    fn counts_stay_right_when_a_pair_overlaps_itself() {
        let found = entries("aaaaa aaaaa aaa\n", 100, true);
        // a ##a ##a ##a ##a: 8 x (##a ##a) with overlaps, then a + ##aa, ...
        assert_eq!(found[5..7].join(" "), "a ##a");
        assert!(found.contains(&"aaaaa".to_owned()) && found.contains(&"aaa".to_owned()));
    }

    #[test]
    fn casing_decides_the_letters() {
        let found = entries("Über über\n", 100, false);
        assert!(found.contains(&"Ü".to_owned()) && found.contains(&"ü".to_owned()));
        let found = entries("Über über\n", 100, true);
        assert!(found.contains(&"u".to_owned()) && !found.contains(&"ü".to_owned()));
    }

    #[test]
    fn rare_letters_and_long_words_are_left_out() {
        let long = "y".repeat(101);
        let found = entries(&format!("{}ж {long}\n", "ab ab ".repeat(600_000)), 60, true);
        assert!(!found.contains(&"ж".to_owned()));
        assert!(!found.iter().any(|entry| entry.contains("yy")));
    }

    #[test]
    fn a_text_without_words_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = learn(&text(folder.path(), "\n \n"), Column::Source, 100, true, 1)
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("text.txt has no words to learn a vocabulary from"), "{error}");
    }

    #[test]
    fn both_written_forms_tokenise_alike() {
        let folder = tempfile::tempdir().unwrap();
        let lines = "The dialog has a name. Der Dialog hat einen Namen, oder nicht?\n".repeat(3);
        for lowercase in [true, false] {
            let learnt =
                learn(&text(folder.path(), &lines), Column::Source, 120, lowercase, 2).unwrap();
            let vocabulary = learnt.write(folder.path(), 64).unwrap();
            let from_entries = Tokenizer::open(&vocabulary).unwrap();
            let from_json = Tokenizer::open(&folder.path().join("tokenizer.json")).unwrap();
            let ids = from_entries.encode(&lines).unwrap();
            assert_eq!(ids, from_json.encode(&lines).unwrap());
            assert!(!ids.contains(&from_entries.special().unk));
            assert_eq!(from_entries.special(), from_json.special());
            assert_eq!((from_entries.special().pad, from_entries.special().mask), (0, 4));
            assert_eq!(from_entries.size(), 120);
            let words = "the dialog has a name . der dialog hat einen namen , oder nicht ?";
            let found = from_json.words(&ids[..ids.len() / 3]);
            assert_eq!(if lowercase { found } else { found.to_lowercase() }, words);
        }
        let drafts = std::fs::read_dir(folder.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("tmp"))
            .count();
        assert_eq!(drafts, 0);
    }
}
