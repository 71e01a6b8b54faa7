//! Scores translations against references: several kinds of BLEU, and chrF.
//!
//! BLEU scores are only comparable if their tokenisation is the same, so each has a signature:
//! - [`Scores::bleu_13a`]: sacreBLEU's default, on detokenised text. The one to publish.
//! - [`Scores::bleu_tokenized`]: the AB-Net paper's, like multi-bleu.perl on the tokens of BERT's basic
//!   tokenizer. Only for comparison with the paper.
//! - [`Scores::bleu_compounds`]: that of earlier papers on WMT14 English-German, like multi-bleu.perl on
//!   tokens with split compounds. Only for comparison with them.

mod bleu;
mod bootstrap;
mod chrf;
mod tokenize_13a;

pub(crate) use bleu::Bleu;
pub(crate) use bootstrap::{Difference, paired_difference};
pub(crate) use chrf::Chrf;

use serde::{Deserialize, Serialize};
use tandem_cluster::run::records::Translation;
use tandem_config::schema::evaluation::Evaluation;

/// All of a translation that is scored, in small letters.
fn lowercase(translation: &Translation) -> Translation {
    let small = |text: &str| text.to_lowercase();
    Translation {
        reference: small(&translation.reference),
        hypothesis: small(&translation.hypothesis),
        reference_tokens: small(&translation.reference_tokens),
        hypothesis_tokens: small(&translation.hypothesis_tokens),
        ..Translation::default()
    }
}

/// Options of scoring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Scoring {
    /// Whether to ignore case.
    pub lowercase: bool,
    /// Whether to compute BLEU with split compounds, too.
    pub split_compounds: bool,
}

impl From<&Evaluation> for Scoring {
    fn from(Evaluation { lowercase, split_compounds, .. }: &Evaluation) -> Self {
        Self { lowercase: *lowercase, split_compounds: *split_compounds }
    }
}

/// The scores of a set of translations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Scores {
    /// The number of sentences.
    pub sentences: usize,
    /// sacreBLEU's default BLEU: detokenised text, 13a tokens, exponential smoothing.
    pub bleu_13a: Bleu,
    /// BLEU as in the paper: on BERT's basic tokens, without smoothing.
    pub bleu_tokenized: Bleu,
    /// BLEU on 13a tokens with split compounds, without smoothing; only if requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bleu_compounds: Option<Bleu>,
    /// sacreBLEU's default chrF2.
    pub chrf: Chrf,
}

/// Scores `translations` as one corpus.
pub(crate) fn corpus(translations: &[Translation], scoring: Scoring) -> Scores {
    if scoring.lowercase {
        let small: Vec<Translation> = translations.iter().map(lowercase).collect();
        return score(&small, scoring);
    }
    score(translations, scoring)
}

fn score(translations: &[Translation], Scoring { lowercase, split_compounds }: Scoring) -> Scores {
    let texts = || translations.iter().map(|t| (&*t.hypothesis, &*t.reference));
    let tokens = translations.iter().map(|t| (&*t.hypothesis_tokens, &*t.reference_tokens));
    let case = if lowercase { "lc" } else { "mixed" };
    Scores {
        sentences: translations.len(),
        bleu_13a: bleu::bleu_13a(texts(), case),
        bleu_tokenized: bleu::bleu_tokenized(tokens, case),
        bleu_compounds: split_compounds.then(|| bleu::bleu_compounds(texts(), case)),
        chrf: chrf::chrf(texts(), case),
    }
}

/// The scores (BLEU 13a, chrF) of the sources as translations: a baseline that a model must beat.
pub(crate) fn copied(translations: &[Translation], scoring: Scoring) -> (Bleu, Chrf) {
    let sources = translations.iter().map(|t| Translation {
        hypothesis: t.source.clone(),
        reference: t.reference.clone(),
        ..Translation::default()
    });
    let scores = corpus(&sources.collect::<Vec<_>>(), scoring);
    (scores.bleu_13a, scores.chrf)
}

/// The words of a line, as split by Python's `str.split`, which sacreBLEU uses.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(is_space).filter(|word| !word.is_empty())
}

/// Python's `str.isspace`: Unicode whitespace and the four ASCII separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_of_a_workers_line_are_ignored() {
        let line = r#"{"index":3,"source":"a","reference":"b","hypothesis":"c","logprob":-1.5,
            "reference_tokens":"b","hypothesis_tokens":"c","length":1,"reference_length":2}"#;
        let read: Translation = serde_json::from_str(line).unwrap();
        assert_eq!((read.index, read.length, read.reference_length), (3, 1, 2));
    }

    #[test]
    fn each_score_is_computed_from_its_own_strings() {
        let scores = corpus(
            &[Translation {
                reference: "One, two, three, four.".into(),
                hypothesis: "One, two, three, four.".into(),
                reference_tokens: "one , two , three , four .".into(),
                hypothesis_tokens: "five , six , seven , eight .".into(),
                ..Translation::default()
            }],
            Scoring::default(),
        );
        assert!((scores.bleu_13a.score - 100.0).abs() < 1e-9);
        assert!((scores.chrf.score - 100.0).abs() < 1e-9);
        assert_eq!(scores.bleu_tokenized.score, 0.0);
        assert_eq!(scores.bleu_tokenized.matches, [4, 0, 0, 0]);
    }

    /// The scores that the sacrebleu package computes for the same strings; see make_scores.py next to it.
    const GOLDEN: &str = include_str!("../../tests/golden/scores.json");

    #[derive(Deserialize)]
    struct Golden {
        tokens_13a: Vec<(String, String)>,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        name: String,
        pairs: Vec<(String, String)>,
        bleu_13a: Bleu,
        bleu_tokenized: Bleu,
        chrf: Chrf,
        bleu_lowercase: Bleu,
        chrf_lowercase: Chrf,
        bleu_compounds: Bleu,
    }

    #[test]
    fn tokens_are_those_of_sacrebleu() {
        let golden: Golden = serde_json::from_str(GOLDEN).unwrap();
        assert!(golden.tokens_13a.len() > 100);
        for (line, tokens) in &golden.tokens_13a {
            assert_eq!(&tokenize_13a::tokenize_13a(line), tokens, "{line:?}");
        }
    }

    #[test]
    fn scores_are_those_of_sacrebleu() {
        let golden: Golden = serde_json::from_str(GOLDEN).unwrap();
        assert!(golden.cases.len() > 40);
        for case in &golden.cases {
            let translations: Vec<_> = case
                .pairs
                .iter()
                .map(|(hypothesis, reference)| Translation {
                    hypothesis: hypothesis.clone(),
                    reference: reference.clone(),
                    hypothesis_tokens: hypothesis.clone(),
                    reference_tokens: reference.clone(),
                    ..Translation::default()
                })
                .collect();
            let scores = corpus(&translations, Scoring::default());
            assert_eq!(scores.bleu_compounds, None);
            assert_bleu(&scores.bleu_13a, &case.bleu_13a, &case.name);
            assert_bleu(&scores.bleu_tokenized, &case.bleu_tokenized, &case.name);
            assert_near(scores.chrf.score, case.chrf.score, &case.name);
            assert_signature(&scores.chrf.signature, &case.chrf.signature);

            let lowercase = Scoring { lowercase: true, ..Scoring::default() };
            let scores = corpus(&translations, lowercase);
            assert_bleu(&scores.bleu_13a, &case.bleu_lowercase, &case.name);
            assert_near(scores.chrf.score, case.chrf_lowercase.score, &case.name);
            assert_signature(&scores.chrf.signature, &case.chrf_lowercase.signature);

            let compounds = Scoring { split_compounds: true, ..Scoring::default() };
            let found = corpus(&translations, compounds).bleu_compounds.unwrap();
            let expected = Bleu {
                // sacreBLEU was given tokens and does not know their tokenizer.
                signature: case.bleu_compounds.signature.replace("tok:none", "tok:13a+atat"),
                ..case.bleu_compounds
            };
            assert_bleu(&found, &expected, &case.name);
        }
    }

    /// The differences of sacreBLEU's scores on the same resamples; see make_bootstrap.py next to it.
    const BOOTSTRAP: &str = include_str!("../../tests/golden/bootstrap.json");

    #[derive(Deserialize)]
    struct Bootstrap {
        system: String,
        baseline: String,
        lowercase: bool,
        difference: f64,
        low: f64,
        high: f64,
    }

    #[test]
    fn differences_are_those_of_sacrebleu() {
        let golden: Golden = serde_json::from_str(GOLDEN).unwrap();
        let translations = |name: &str| -> Vec<Translation> {
            let case = golden.cases.iter().find(|case| case.name == name).unwrap();
            let translation = |(hypothesis, reference): &(String, String)| Translation {
                hypothesis: hypothesis.clone(),
                reference: reference.clone(),
                ..Translation::default()
            };
            case.pairs.iter().map(translation).collect()
        };
        let expected: Vec<Bootstrap> = serde_json::from_str(BOOTSTRAP).unwrap();
        assert_eq!(expected.len(), 3);
        for Bootstrap { system, baseline, lowercase, difference, low, high } in expected {
            let scoring = Scoring { lowercase, ..Scoring::default() };
            let (above, below) = (translations(&system), translations(&baseline));
            let found = paired_difference(&above, &below, scoring).unwrap();
            for (found, expected) in
                [(found.bleu, difference), (found.low, low), (found.high, high)]
            {
                assert_near(found, expected, &system);
            }
        }
    }

    fn assert_bleu(found: &Bleu, expected: &Bleu, name: &str) {
        assert_near(found.score, expected.score, name);
        assert_near(100.0 * found.brevity_penalty, 100.0 * expected.brevity_penalty, name);
        for (found, expected) in found.precisions.iter().zip(expected.precisions) {
            assert_near(*found, expected, name);
        }
        assert_eq!(found.matches, expected.matches, "{name}");
        assert_eq!(found.totals, expected.totals, "{name}");
        assert_eq!(found.hypothesis_length, expected.hypothesis_length, "{name}");
        assert_eq!(found.reference_length, expected.reference_length, "{name}");
        assert_signature(&found.signature, &expected.signature);
    }

    /// A tolerance ten times finer than the two decimals that are shown.
    fn assert_near(found: f64, expected: f64, name: &str) {
        assert!((found - expected).abs() < 1e-3, "{name}: {found} instead of {expected}");
    }

    /// Asserts that the settings are those of sacreBLEU, with this program's name.
    fn assert_signature(found: &str, expected: &str) {
        let settings = |signature: &str| signature.split_once("|version:").unwrap().0.to_owned();
        assert_eq!(settings(found), settings(expected) + "|impl:tandem");
    }

    #[test]
    fn an_empty_corpus_scores_zero() {
        let scores = corpus(&[], Scoring::default());
        assert_eq!((scores.sentences, scores.bleu_13a.score, scores.chrf.score), (0, 0.0, 0.0));
    }
}
