//! A translation beside its source and reference.

use serde::{Deserialize, Serialize};

/// One translated sentence: a line of a rank's part of an evaluation, and an item of a translation task.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Translation {
    /// Position in the split, from 0.
    pub index: usize,
    /// The source sentence.
    #[serde(default)]
    pub source: String,
    /// The reference translation, as text; empty where there is none.
    pub reference: String,
    /// The model's translation, as detokenised text.
    pub hypothesis: String,
    /// The reference as BERT's basic tokens, joined by spaces.
    #[serde(default)]
    pub reference_tokens: String,
    /// The model's translation as BERT's basic tokens, joined by spaces.
    #[serde(default)]
    pub hypothesis_tokens: String,
    /// Tokens of the model's translation, with `[SEP]`.
    #[serde(default)]
    pub length: usize,
    /// Tokens of the reference, with `[SEP]`.
    #[serde(default)]
    pub reference_length: usize,
    /// Decoder passes: the most over one of its hypotheses.
    #[serde(default)]
    pub passes: usize,
    /// Rows that the decoder read for it: one for each hypothesis and pass.
    #[serde(default)]
    pub rows: usize,
}
