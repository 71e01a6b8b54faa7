//! Interpolated modified Kneser-Ney smoothing (Chen and Goodman 1998), as KenLM does it (Heafield et al. 2013).
//!
//! An n-gram c w, a word w behind a context c of n - 1 words, has the probability
//! `p(w | c) = (a(c w) - D(a(c w))) / A(c) + b(c) · p(w | c')`, where c' is c without its first word, A(c) the
//! sum of `a(c x)` over all x, and b(c) the sum of their discounts `D(a(c x))`, divided by A(c). Below it all,
//! every word is equally probable. The count a is how often an n-gram occurs where it has the model's order
//! or begins a sentence, else how many different words stand before it.
//!
//! The n-grams are a trie, built a level at a time: an n-gram is found by the one of its first n - 1 words, and
//! then by its last word. All arrays of a level are in that order.

use super::ngrams::Level;

/// The discounts of an n-gram that is counted once, twice, and more often, where there are too few n-grams to
/// estimate them (KenLM's `--discount_fallback`).
const FALLBACK: [f64; 3] = [0.5, 1.0, 1.5];
/// Where no n-gram of the level begins, since the sentence ends before.
const NONE: u32 = u32::MAX;

/// There are more tokens than the arrays of a model can number.
#[derive(Debug, thiserror::Error)]
#[error(
    "a language model is estimated from fewer than 4,294,967,295 tokens, and the training data have more; set \
     decoding.ctc.language_model to null"
)]
pub struct TooManyTokens;

/// Estimates the levels of a model from sentences with their ends, whose words are below `vocabulary`.
///
/// # Errors
/// There are too many tokens.
pub(in crate::inference) fn estimate<'a>(
    sentences: impl Iterator<Item = &'a [u32]>,
    order: usize,
    vocabulary: u32,
) -> Result<Vec<Level>, TooManyTokens> {
    let begin = vocabulary;
    let mut text = Vec::new();
    for sentence in sentences {
        text.push(begin);
        text.extend_from_slice(sentence);
    }
    if text.len() >= NONE as usize {
        return Err(TooManyTokens);
    }
    let counted = count(&text, order, begin);
    let mut levels: Vec<Level> = Vec::with_capacity(order);
    let mut lower = vec![1.0 / f64::from(vocabulary)]; // p of an n-gram without its first word
    for counts in counted {
        let discounts = discounts(&counts.adjusted);
        let discount = |count: u32| match count {
            0 => 0.0,
            count => discounts[count.min(3) as usize - 1],
        };
        let mut probabilities = Vec::with_capacity(counts.words.len());
        let mut backoffs = Vec::with_capacity(counts.first.len());
        for context in counts.first.windows(2) {
            let range = context[0] as usize..context[1] as usize;
            let adjusted = &counts.adjusted[range.clone()];
            let total: f64 = adjusted.iter().map(|&count| f64::from(count)).sum();
            let discounted: f64 = adjusted.iter().map(|&count| discount(count)).sum();
            let backoff = if range.is_empty() { 1.0 } else { discounted / total };
            for (&count, &shorter) in adjusted.iter().zip(&counts.shorter[range]) {
                let own = (f64::from(count) - discount(count)) / total;
                probabilities.push(own + backoff * lower[shorter as usize]);
            }
            backoffs.push(backoff.ln() as f32);
        }
        if let Some(contexts) = levels.last_mut() {
            (contexts.first, contexts.log_backoffs) = (counts.first, backoffs);
        }
        let log_probs = probabilities.iter().map(|probability| probability.ln() as f32).collect();
        levels.push(Level { words: counts.words, log_probs, ..Level::default() });
        lower = probabilities;
    }
    Ok(levels)
}

/// The n-grams of a level.
struct Counts {
    /// Their last words.
    words: Vec<u32>,
    /// Where those of each context begin, and the end.
    first: Vec<u32>,
    /// The n-grams without their first words, in the level before.
    shorter: Vec<u32>,
    /// Their counts a.
    adjusted: Vec<u32>,
}

/// Counts the n-grams of a text in which `begin` stands before each sentence.
fn count(text: &[u32], order: usize, begin: u32) -> Vec<Counts> {
    // All words, whether they occur or not.
    let mut levels = vec![Counts {
        words: (0..=begin).collect(),
        first: vec![0, begin + 1],
        shorter: vec![0; begin as usize + 1],
        adjusted: occurrences(text, begin as usize + 1),
    }];
    let mut at = text.to_vec(); // which n-gram of the newest level begins at each token
    for n in 2..=order {
        let contexts = levels.last_mut().expect("one");
        let ends = text.iter().skip(n - 1);
        let mut keys: Vec<u64> = at
            .iter()
            .zip(ends)
            .filter(|&(&context, &word)| context != NONE && word != begin)
            .map(|(&context, &word)| u64::from(context) << 32 | u64::from(word))
            .collect();
        keys.sort_unstable();
        keys.dedup();
        let words: Vec<u32> = keys.iter().map(|&key| key as u32).collect();
        let mut first = vec![0; contexts.words.len() + 1];
        keys.iter().for_each(|key| first[(key >> 32) as usize + 1] += 1);
        drop(keys);
        (1..first.len()).for_each(|context| first[context] += first[context - 1]);
        let found = |start: usize| {
            let (context, word) = (at[start], *text.get(start + n - 1)?);
            if context == NONE || word == begin {
                return None;
            }
            let range = first[context as usize] as usize..first[context as usize + 1] as usize;
            let place = words[range.clone()].binary_search(&word).expect("it was counted");
            Some((range.start + place) as u32)
        };
        let longer: Vec<u32> = (0..text.len()).map(|start| found(start).unwrap_or(NONE)).collect();
        let mut shorter = vec![0; words.len()];
        for (&ngram, &behind) in longer.iter().zip(&at[1..]) {
            if ngram != NONE {
                shorter[ngram as usize] = behind;
            }
        }
        let mut before = vec![0; contexts.words.len()];
        shorter.iter().for_each(|&ngram| before[ngram as usize] += 1);
        for (count, before) in contexts.adjusted.iter_mut().zip(before) {
            // Before those that begin a sentence, there is none.
            *count = if before > 0 { before } else { *count };
        }
        let adjusted = occurrences(&longer, words.len());
        at = longer;
        levels.push(Counts { words, first, shorter, adjusted });
    }
    // No sentence goes on with the beginning of one.
    levels[0].adjusted[begin as usize] = 0;
    levels
}

/// How often each of so many n-grams occurs.
fn occurrences(text: &[u32], ngrams: usize) -> Vec<u32> {
    let mut counts = vec![0; ngrams];
    text.iter().filter(|&&ngram| ngram != NONE).for_each(|&ngram| counts[ngram as usize] += 1);
    counts
}

/// The discounts of n-grams that are counted once, twice, and more often, by how many of them are counted once
/// to four times.
fn discounts(adjusted: &[u32]) -> [f64; 3] {
    let mut of = [0.0; 5];
    adjusted
        .iter()
        .filter(|count| (1..5).contains(*count))
        .for_each(|&count| of[count as usize] += 1.0);
    let share = of[1] / (of[1] + 2.0 * of[2]);
    let discount = |count: usize| {
        let more = (count + 1) as f64;
        count as f64 - more * share * of[count + 1] / of[count]
    };
    let found = [discount(1), discount(2), discount(3)];
    let is_usable = |(discount, most): (&f64, f64)| *discount > 0.0 && *discount <= most;
    match found.iter().zip([1.0, 2.0, 3.0]).all(is_usable) {
        true => found,
        false => FALLBACK,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::super::ngrams::{Context, Ngrams};
    use super::*;
    use crate::random::{Purpose, stream};

    const END: u32 = 3;

    /// Sentences with their ends, of which some words are frequent and the last one never occurs.
    fn sentences(count: usize, vocabulary: u32) -> Vec<Vec<u32>> {
        let mut rng = stream(3, Purpose::Order, &[]);
        let mut sentence = || {
            let length = (rng.uniform() * 9.0) as usize;
            let mut words: Vec<u32> = (0..length)
                .map(|_| (rng.uniform().powi(3) * f64::from(vocabulary - 1)) as u32)
                .collect();
            words.retain(|&word| word != END);
            words.push(END);
            words
        };
        (0..count).map(|_| sentence()).collect()
    }

    fn model(sentences: &[Vec<u32>], order: usize, vocabulary: u32) -> Ngrams {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ngrams");
        let sentences = sentences.iter().map(|sentence| &sentence[..]);
        let levels = estimate(sentences, order, vocabulary).unwrap();
        Ngrams::write(&path, &[7; 32], &levels).unwrap();
        let found = Ngrams::open(&path).unwrap().unwrap();
        assert_eq!((found.key(), found.vocabulary()), ([7; 32], vocabulary));
        found
    }

    /// The probability of `word` behind all `words`.
    fn probability(model: &Ngrams, words: &[u32], word: u32) -> f64 {
        let context =
            words.iter().fold(model.begin(), |context, &word| model.next(&context, word).1);
        model.next(&context, word).0.exp()
    }

    /// The definition once more, with sets of n-grams instead of tries.
    struct Definition {
        order: usize,
        vocabulary: u32,
        raw: BTreeMap<Vec<u32>, u32>,
        before: BTreeMap<Vec<u32>, BTreeSet<u32>>,
    }

    impl Definition {
        fn of(sentences: &[Vec<u32>], order: usize, vocabulary: u32) -> Self {
            let (mut raw, mut before) = (BTreeMap::new(), BTreeMap::new());
            for sentence in sentences {
                let text = [&[vocabulary], &sentence[..]].concat();
                for n in 1..=order {
                    for ngram in text.windows(n) {
                        *raw.entry(ngram.to_vec()).or_insert(0) += 1;
                        let rest: &mut BTreeSet<u32> =
                            before.entry(ngram[1..].to_vec()).or_default();
                        rest.insert(ngram[0]);
                    }
                }
            }
            Self { order, vocabulary, raw, before }
        }

        fn a(&self, ngram: &[u32]) -> u32 {
            match ngram {
                [word] if *word == self.vocabulary => 0,
                _ if ngram.len() == self.order || ngram[0] == self.vocabulary => {
                    self.raw.get(ngram).copied().unwrap_or(0)
                }
                _ => self.before.get(ngram).map_or(0, |words| words.len() as u32),
            }
        }

        fn discount(&self, n: usize, count: u32) -> f64 {
            if count == 0 {
                return 0.0;
            }
            let ngrams = self.raw.keys().filter(|ngram| ngram.len() == n);
            let counts: Vec<u32> = ngrams.map(|ngram| self.a(ngram)).collect();
            let t = |wanted: u32| counts.iter().filter(|&&count| count == wanted).count() as f64;
            let y = t(1) / (t(1) + 2.0 * t(2));
            let estimated = [
                1.0 - 2.0 * y * t(2) / t(1),
                2.0 - 3.0 * y * t(3) / t(2),
                3.0 - 4.0 * y * t(4) / t(3),
            ];
            let of = |k: usize| estimated[k] > 0.0 && estimated[k] <= (k + 1) as f64;
            let usable = of(0) && of(1) && of(2);
            let discounts = if usable { estimated } else { [0.5, 1.0, 1.5] };
            discounts[count.min(3) as usize - 1]
        }

        fn probability(&self, context: &[u32], word: u32) -> f64 {
            let n = context.len() + 1;
            let shorter = || match context {
                [] => 1.0 / f64::from(self.vocabulary),
                [_, rest @ ..] => self.probability(rest, word),
            };
            let a = |word: u32| self.a(&[context, &[word]].concat());
            let total: u32 = (0..self.vocabulary).map(a).sum();
            if total == 0 {
                return shorter();
            }
            let discounted: f64 = (0..self.vocabulary).map(|word| self.discount(n, a(word))).sum();
            let own = f64::from(a(word)) - self.discount(n, a(word));
            (own + discounted * shorter()) / f64::from(total)
        }
    }

    /// All sequences of up to so many words.
    fn sequences(longest: usize, vocabulary: u32) -> Vec<Vec<u32>> {
        let mut all = vec![vec![]];
        let mut newest = all.clone();
        for _ in 0..longest {
            let longer = |words: &Vec<u32>| -> Vec<Vec<u32>> {
                (0..vocabulary).map(|word| [&words[..], &[word]].concat()).collect()
            };
            newest = newest.iter().flat_map(longer).collect();
            all.extend(newest.iter().cloned());
        }
        all
    }

    #[test]
    fn probabilities_are_those_of_the_definition_and_add_up_to_1() {
        let vocabulary = 7;
        for (order, count) in [(1, 60), (2, 60), (3, 60), (4, 25)] {
            let sentences = sentences(count, vocabulary);
            let (model, definition) = (
                model(&sentences, order, vocabulary),
                Definition::of(&sentences, order, vocabulary),
            );
            for words in sequences(3, vocabulary) {
                let history = [&[vocabulary], &words[..]].concat();
                let context = &history[history.len().saturating_sub(order - 1)..];
                let mut sum = 0.0;
                for word in 0..vocabulary {
                    let found = probability(&model, &words, word);
                    let expected = definition.probability(context, word);
                    assert!(
                        (found / expected - 1.0).abs() < 1e-5,
                        "order {order}: {word} behind {context:?}: {found} instead of {expected}"
                    );
                    sum += found;
                }
                assert!((sum - 1.0).abs() < 1e-5, "order {order}: {context:?}: {sum}");
            }
        }
    }

    #[test]
    fn ngrams_are_kenlms() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/kneser_ney/golden.json");
        let golden: Golden = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let Golden { order, vocabulary, sentences, ngrams, unknown } = golden;
        let model = model(&sentences, order, vocabulary);
        let close = |found: f64, expected: f64, what: &[u32]| {
            let found = found / std::f64::consts::LN_10;
            assert!((found - expected).abs() < 2e-5, "{what:?}: {found} instead of {expected}");
        };
        let after = |words: &[u32]| match words {
            [first, rest @ ..] if *first == vocabulary => {
                rest.iter().fold(model.begin(), |context, &word| model.next(&context, word).1)
            }
            words => {
                words.iter().fold(Context::default(), |context, &word| model.next(&context, word).1)
            }
        };
        let mut lengths = [0; 5];
        let unseen = (0..vocabulary)
            .find(|word| sentences.iter().all(|sentence| !sentence.contains(word)))
            .unwrap();
        close(model.next(&Context::default(), unseen).0, unknown, &[unseen]);
        for (words, log_prob, backoff) in &ngrams {
            lengths[words.len()] += 1;
            let (last, context) = words.split_last().unwrap();
            if *last != vocabulary {
                close(model.next(&after(context), *last).0, *log_prob, words);
            }
            // Behind an n-gram, what was never seen there has its backoff.
            if let Some(backoff) = backoff.filter(|_| *last != 3) {
                let shorter = model.next(&after(&words[1..]), unseen).0;
                close(model.next(&after(words), unseen).0 - shorter, backoff, words);
            }
        }
        assert!(lengths[1..=order].iter().all(|&count| count > 20), "{lengths:?}");
    }

    #[derive(serde::Deserialize)]
    struct Golden {
        order: usize,
        vocabulary: u32,
        sentences: Vec<Vec<u32>>,
        /// Words, and log10 of probability and backoff.
        ngrams: Vec<(Vec<u32>, f64, Option<f64>)>,
        unknown: f64,
    }

    #[test]
    fn discounts_are_estimated_where_there_are_enough_ngrams() {
        // Y = 8 / (8 + 2 · 4) = 1/2; 1 - 2 Y 4/8, 2 - 3 Y 2/4, 3 - 4 Y 1/2
        let adjusted = [[1; 8].as_slice(), &[2; 4], &[3; 2], &[4; 1], &[9; 5], &[0; 3]].concat();
        assert_eq!(discounts(&adjusted), [0.5, 1.25, 2.0]);
        for few in [[1, 1, 2, 4], [1, 2, 3, 3], [2, 2, 3, 4]] {
            assert_eq!(discounts(&few), FALLBACK, "{few:?}");
        }
    }

    #[test]
    fn the_same_text_gives_the_same_levels() {
        let sentences = sentences(50, 9);
        let estimate = || estimate(sentences.iter().map(|sentence| &sentence[..]), 3, 9).unwrap();
        assert_eq!(estimate(), estimate());
    }
}
