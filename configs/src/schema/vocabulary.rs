//! Where a vocabulary comes from.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a WordPiece vocabulary comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Vocabulary {
    /// A vocab.txt that exists.
    File {
        /// The file, relative to the YAML file.
        path: PathBuf,
        /// Whether text is lower-cased and stripped of accents first.
        lowercase: bool,
    },
    /// Learnt from this side of the training text.
    Learn {
        /// Number of entries, with the five special tokens.
        #[schemars(range(min = 100))]
        size: usize,
        /// Whether text is lower-cased and stripped of accents first.
        lowercase: bool,
    },
    /// That of a pre-trained BERT: a Hugging Face folder, or a model's name on the hub. Only for a
    /// Transformer.
    Bert(String),
}
