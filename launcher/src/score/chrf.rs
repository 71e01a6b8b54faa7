//! chrF2 (Popović 2015): the F-score of character n-grams, n = 1..6, without whitespace.
//!
//! `chrF = 100 · (1 + β²) · P · R / (β² · P + R)`, β = 2, where P and R are the means over n of the
//! corpus's n-gram precision and recall. Orders without n-grams on one side are left out of the means, as
//! sacreBLEU does by default (`eff:yes`).

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::is_space;

const CHAR_ORDER: usize = 6;
const BETA: f64 = 2.0;

/// A chrF2 score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Chrf {
    /// 0 to 100.
    pub score: f64,
    /// How the score was computed, in the form of sacreBLEU's signatures.
    pub signature: String,
}

impl fmt::Display for Chrf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chrF2 = {:.2}", self.score)
    }
}

/// The n-grams of one order in the whole corpus.
#[derive(Clone, Copy, Default)]
struct Counts {
    hypothesis: u64,
    reference: u64,
    matches: u64,
}

/// chrF2 of (hypothesis, reference) pairs.
pub(super) fn chrf<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>, case: &str) -> Chrf {
    let mut counts = [Counts::default(); CHAR_ORDER];
    for (hypothesis, reference) in pairs {
        let (hypothesis, reference) = (characters(hypothesis), characters(reference));
        for (order, counts) in (1..).zip(&mut counts) {
            add(counts, &hypothesis, &reference, order);
        }
    }
    Chrf {
        score: f_score(&counts),
        signature: format!(
            "nrefs:1|case:{case}|eff:yes|nc:{CHAR_ORDER}|nw:0|space:no|impl:tandem|version:{}",
            env!("CARGO_PKG_VERSION")
        ),
    }
}

fn characters(line: &str) -> Vec<char> {
    line.chars().filter(|c| !is_space(*c)).collect()
}

fn add(counts: &mut Counts, hypothesis: &[char], reference: &[char], order: usize) {
    let mut unused: HashMap<&[char], u64> = HashMap::new();
    for ngram in reference.windows(order) {
        *unused.entry(ngram).or_default() += 1;
        counts.reference += 1;
    }
    if unused.is_empty() {
        return; // a hypothesis's n-grams count only if its reference has some of that order
    }
    for ngram in hypothesis.windows(order) {
        counts.hypothesis += 1;
        if let Some(left) = unused.get_mut(ngram).filter(|left| **left > 0) {
            *left -= 1;
            counts.matches += 1;
        }
    }
}

fn f_score(counts: &[Counts]) -> f64 {
    let (mut precision, mut recall, mut orders) = (0.0, 0.0, 0.0);
    for c in counts.iter().filter(|c| c.hypothesis > 0 && c.reference > 0) {
        precision += c.matches as f64 / c.hypothesis as f64;
        recall += c.matches as f64 / c.reference as f64;
        orders += 1.0;
    }
    if precision + recall == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (precision / orders, recall / orders);
    let beta2 = BETA * BETA;
    100.0 * (1.0 + beta2) * precision * recall / (beta2 * precision + recall)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recall_weighs_four_times_as_much() {
        // 1-grams: P 1, R 1/2; 2-grams: 1/1, 1/3; longer ones: none in the hypothesis.
        let score = chrf([("a b", "abcd")].into_iter(), "mixed").score;
        let (p, r) = (1.0, (0.5 + 1.0 / 3.0) / 2.0);
        assert!((score - 100.0 * 5.0 * p * r / (4.0 * p + r)).abs() < 1e-9);
    }

    #[test]
    fn an_empty_hypothesis_scores_nothing() {
        assert_eq!(chrf([("", "abc")].into_iter(), "mixed").score, 0.0);
    }
}
