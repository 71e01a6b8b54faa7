//! What a rank adds up over its share of an evaluation.

use serde::{Deserialize, Serialize};

use super::number;

/// Sums over one rank's sentences.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct EvaluationSums {
    /// The loss that training minimises.
    #[serde(with = "number")]
    pub loss: f64,
    /// What the loss is divided by: target tokens, or predicted tokens for `mlm`.
    pub denominator: f64,
    /// Negative log-likelihood of the predicted tokens, in nats.
    #[serde(with = "number")]
    pub nll: f64,
    /// Predicted tokens.
    pub predicted: f64,
    /// Negative log-likelihood of the lengths, in nats; none where none are predicted.
    #[serde(with = "number::option")]
    pub length_nll: Option<f64>,
    /// Sentences over which the loss was taken.
    pub sentences: f64,
    /// None where nothing is translated.
    pub translation: Option<TranslationSums>,
}

/// Sums over the sentences that one rank translated, which may be fewer than those of the loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct TranslationSums {
    /// Translated sentences.
    pub sentences: usize,
    /// Decoder passes of each sentence, added up.
    pub passes: usize,
    /// Rows that the decoder read: one for each hypothesis and pass.
    #[serde(default)]
    pub rows: usize,
    /// Translations as long as their references.
    pub length_correct: usize,
    /// Seconds that translating took.
    pub seconds: f64,
}
