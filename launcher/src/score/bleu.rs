//! Corpus BLEU with one reference (Papineni et al. 2002).
//!
//! `BLEU = BP · exp(1/4 · Σ log p_n)`, n = 1..4, where `p_n` is the clipped n-gram precision: the share
//! of the hypotheses' n-grams that match the references, each counted at most as often as its reference
//! has it. `BP = exp(1 - r/h)` if the hypotheses (length h) are shorter than the references (length r).

use std::collections::HashMap;
use std::fmt;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use super::{Translation, is_space, tokenize_13a::tokenize_13a, words};

/// The length of the longest n-grams that BLEU counts.
pub(crate) const MAX_ORDER: usize = 4;

/// A BLEU score with its components.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bleu {
    /// 0 to 100.
    pub score: f64,
    /// Precision of 1- to 4-grams, each 0 to 100, smoothed if the signature says so.
    pub precisions: [f64; MAX_ORDER],
    /// At most 1; below 1 if the hypotheses are too short.
    pub brevity_penalty: f64,
    /// The number of tokens in all hypotheses.
    pub hypothesis_length: u64,
    /// The number of tokens in all references.
    pub reference_length: u64,
    /// The numbers of hypothesis n-grams that match the references, for n = 1..4.
    pub matches: [u64; MAX_ORDER],
    /// The numbers of hypothesis n-grams, for n = 1..4.
    pub totals: [u64; MAX_ORDER],
    /// How the score was computed, in the form of sacreBLEU's signatures.
    pub signature: String,
}

impl fmt::Display for Bleu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p1, p2, p3, p4] = self.precisions;
        write!(
            f,
            "BLEU = {:.2} {p1:.1}/{p2:.1}/{p3:.1}/{p4:.1} (BP = {:.3}, hyp_len = {}, ref_len = {})",
            self.score, self.brevity_penalty, self.hypothesis_length, self.reference_length
        )
    }
}

/// How to treat an order without any match.
#[derive(Clone, Copy)]
enum Smoothing {
    /// The precision is 0, and so is BLEU.
    None,
    /// The k-th such order counts 1/2^k of a match (mteval-v13a, sacreBLEU's `exp`).
    Exponential,
}

/// sacreBLEU's default BLEU of (hypothesis, reference) pairs of detokenised text.
pub(super) fn bleu_13a<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>, case: &str) -> Bleu {
    let mut counts = Counts::default();
    for (hypothesis, reference) in pairs {
        counts.add(&tokenize_13a(hypothesis), &tokenize_13a(reference));
    }
    counts.bleu("13a", case, Smoothing::Exponential)
}

/// The BLEU of earlier papers on English-German, of (hypothesis, reference) pairs of detokenised text:
/// like tensor2tensor's get_ende_bleu.sh, but on 13a tokens instead of Moses'.
pub(super) fn bleu_compounds<'a>(
    pairs: impl Iterator<Item = (&'a str, &'a str)>,
    case: &str,
) -> Bleu {
    let mut counts = Counts::default();
    for (hypothesis, reference) in pairs {
        let split = |text| split_compounds(&tokenize_13a(text));
        counts.add(&split(hypothesis), &split(reference));
    }
    counts.bleu("13a+atat", case, Smoothing::None)
}

/// Splits `rich-text` into `rich ##AT##-##AT## text`, like Perl's `s{(\S)-(\S)}{...}g`: the letter after
/// a hyphen is consumed, so that `a-b-c` is split only once.
fn split_compounds(tokens: &str) -> String {
    let characters: Vec<char> = tokens.chars().collect();
    let mut split = String::with_capacity(tokens.len() * 2);
    let mut rest = &characters[..];
    while let Some((&first, after)) = rest.split_first() {
        split.push(first);
        rest = after;
        if let ['-', second, after @ ..] = rest
            && !is_space(first)
            && !is_space(*second)
        {
            split.push_str(" ##AT##-##AT## ");
            split.push(*second);
            rest = after;
        }
    }
    split
}

/// The paper's BLEU of (hypothesis, reference) pairs of space-separated tokens.
pub(super) fn bleu_tokenized<'a>(
    pairs: impl Iterator<Item = (&'a str, &'a str)>,
    case: &str,
) -> Bleu {
    let mut counts = Counts::default();
    for (hypothesis, reference) in pairs {
        counts.add(hypothesis, reference);
    }
    counts.bleu("none", case, Smoothing::None)
}

/// The sums over sentences from which BLEU is computed.
#[derive(Default)]
pub(super) struct Counts {
    hypothesis_length: u64,
    reference_length: u64,
    matches: [u64; MAX_ORDER],
    totals: [u64; MAX_ORDER],
}

impl AddAssign<&Self> for Counts {
    fn add_assign(&mut self, other: &Self) {
        self.hypothesis_length += other.hypothesis_length;
        self.reference_length += other.reference_length;
        for order in 0..MAX_ORDER {
            self.matches[order] += other.matches[order];
            self.totals[order] += other.totals[order];
        }
    }
}

impl Counts {
    /// The counts of one sentence for [`bleu_13a`].
    pub(super) fn of_13a(translation: &Translation) -> Self {
        let mut counts = Self::default();
        let Translation { hypothesis, reference, .. } = translation;
        counts.add(&tokenize_13a(hypothesis), &tokenize_13a(reference));
        counts
    }

    /// The score of [`bleu_13a`].
    pub(super) fn score_13a(self) -> f64 {
        self.bleu("13a", "", Smoothing::Exponential).score
    }

    fn add(&mut self, hypothesis: &str, reference: &str) {
        let hypothesis: Vec<&str> = words(hypothesis).collect();
        let reference: Vec<&str> = words(reference).collect();
        self.hypothesis_length += hypothesis.len() as u64;
        self.reference_length += reference.len() as u64;
        for order in 1..=MAX_ORDER {
            let mut unused: HashMap<&[&str], u64> = HashMap::new();
            for ngram in reference.windows(order) {
                *unused.entry(ngram).or_default() += 1;
            }
            for ngram in hypothesis.windows(order) {
                self.totals[order - 1] += 1;
                if let Some(left) = unused.get_mut(ngram).filter(|left| **left > 0) {
                    *left -= 1;
                    self.matches[order - 1] += 1;
                }
            }
        }
    }

    fn bleu(self, tokenizer: &str, case: &str, smoothing: Smoothing) -> Bleu {
        let (smooth_name, mut missing) = match smoothing {
            Smoothing::None => ("none", None),
            Smoothing::Exponential => ("exp", Some(1.0)),
        };
        let mut precisions = [0.0; MAX_ORDER];
        if self.matches.iter().any(|&matches| matches > 0) {
            for (order, precision) in precisions.iter_mut().enumerate() {
                let (matches, total) = (self.matches[order] as f64, self.totals[order] as f64);
                if total == 0.0 {
                    break;
                }
                *precision = match &mut missing {
                    Some(halvings) if matches == 0.0 => {
                        *halvings *= 2.0;
                        100.0 / (*halvings * total)
                    }
                    _ => 100.0 * matches / total,
                };
            }
        }
        let brevity_penalty = self.brevity_penalty();
        let mean_log = precisions.iter().map(|p| p.ln()).sum::<f64>() / MAX_ORDER as f64;
        Bleu {
            score: brevity_penalty * mean_log.exp(), // ln 0 = -inf, exp(-inf) = 0
            precisions,
            brevity_penalty,
            hypothesis_length: self.hypothesis_length,
            reference_length: self.reference_length,
            matches: self.matches,
            totals: self.totals,
            signature: format!(
                "nrefs:1|case:{case}|eff:no|tok:{tokenizer}|smooth:{smooth_name}|impl:tandem|version:{}",
                env!("CARGO_PKG_VERSION")
            ),
        }
    }

    fn brevity_penalty(&self) -> f64 {
        let (hypothesis, reference) = (self.hypothesis_length as f64, self.reference_length as f64);
        if self.hypothesis_length >= self.reference_length {
            1.0
        } else if self.hypothesis_length == 0 {
            0.0
        } else {
            (1.0 - reference / hypothesis).exp()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenized(hypothesis: &str, reference: &str) -> Bleu {
        bleu_tokenized([(hypothesis, reference)].into_iter(), "mixed")
    }

    #[test]
    fn ngram_counts_are_clipped() {
        // Papineni's example: 2 of 7 "the".
        let bleu = tokenized("the the the the the the the", "the cat is on the mat");
        assert_eq!((bleu.matches, bleu.totals), ([2, 0, 0, 0], [7, 6, 5, 4]));
    }

    #[test]
    fn short_hypotheses_get_a_brevity_penalty() {
        let bleu = tokenized("a b c d", "a b c d e");
        assert!((bleu.brevity_penalty - (1.0_f64 - 5.0 / 4.0).exp()).abs() < 1e-12);
        assert!((bleu.score - 100.0 * bleu.brevity_penalty).abs() < 1e-9);
    }

    #[test]
    fn smoothing_halves_for_each_order_without_a_match() {
        // 1-grams 1/4; the three others have 0 of 3, 2, 1: 1/2 of 1/3, 1/4 of 1/2, 1/8 of 1/1.
        let pair = ("a x y z", "a b c d");
        let bleu = bleu_13a([pair].into_iter(), "mixed");
        let expected = [25.0, 100.0 / 6.0, 12.5, 12.5];
        for (found, expected) in bleu.precisions.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{:?}", bleu.precisions);
        }
        assert_eq!(tokenized(pair.0, pair.1).score, 0.0);
    }

    #[test]
    fn compounds_are_split_as_by_perl() {
        for (tokens, expected) in [
            ("rich-text format", "rich ##AT##-##AT## text format"),
            ("a-b-c ab-cd-ef", "a ##AT##-##AT## b-c ab ##AT##-##AT## cd ##AT##-##AT## ef"),
            ("Köln-Ölm - - -x x- x--y", "Köln ##AT##-##AT## Ölm - - -x x- x ##AT##-##AT## -y"),
            ("---", "- ##AT##-##AT## -"),
            ("", ""),
        ] {
            assert_eq!(split_compounds(tokens), expected, "{tokens}");
        }
    }

    #[test]
    fn berts_tokens_have_no_compounds_to_split() {
        let tokens = "ein Rich - Text - Format , 3 - 4";
        assert_eq!(split_compounds(tokens), tokens);
    }

    #[test]
    fn signatures_name_tokens_and_smoothing() {
        let bleu = bleu_13a(std::iter::empty(), "mixed");
        assert!(
            bleu.signature.starts_with("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|impl:tandem|")
        );
        assert!(tokenized("", "").signature.contains("|tok:none|smooth:none|"));
    }
}
