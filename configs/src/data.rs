//! The texts of a run.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The texts of a run. Paths are relative to the YAML file; `.gz`, `.xz` and `.zst` are unpacked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// What is trained on.
    pub train: Text,
    /// What is scored while training and decides which checkpoint is best.
    pub valid: Option<Text>,
    /// What the finished model is scored on.
    pub test: Option<Text>,
    /// Longest sentence in tokens of its own vocabulary, with the final [SEP]. The default is the
    /// number of positions of the side's BERT, which it may not exceed.
    #[schemars(range(min = 2))]
    pub max_length: Option<usize>,
    /// What is done with a sentence longer than `max_length`.
    #[serde(default)]
    pub too_long: TooLong,
    /// Largest ratio between the two sides' lengths in tokens; above it a pair counts as bad.
    #[serde(default = "ratio")]
    #[schemars(range(min = 1.0))]
    pub max_ratio: f64,
    /// What is done with bad lines: not UTF-8, missing columns, an empty side, an absurd ratio.
    #[serde(default)]
    pub bad_lines: BadLines,
    /// Where tokenised text is kept between runs; by default `cache` beside the run folders.
    pub cache: Option<PathBuf>,
}

impl Data {
    /// The splits that there are, with their names.
    pub fn splits(&self) -> impl Iterator<Item = (&'static str, &Text)> {
        [("train", Some(&self.train)), ("valid", self.valid.as_ref()), ("test", self.test.as_ref())]
            .into_iter()
            .filter_map(|(name, text)| text.map(|text| (name, text)))
    }
}

/// Where one split's text lies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Text {
    /// Pairs in one tab-separated file.
    Tsv {
        /// The file.
        path: PathBuf,
        /// Column of the source, counted from 1.
        #[schemars(range(min = 1))]
        source: usize,
        /// Column of the target, counted from 1.
        #[schemars(range(min = 1))]
        target: usize,
    },
    /// Pairs in two files, line by line.
    Files {
        /// Source sentences, one a line.
        source: PathBuf,
        /// Target sentences, one a line.
        target: PathBuf,
    },
    /// Pairs in JSON lines.
    Jsonl {
        /// The file.
        path: PathBuf,
        /// Key of the source.
        source: String,
        /// Key of the target.
        target: String,
    },
    /// Text in one language, one passage a line; only for the `mlm` objective.
    Lines {
        /// The file.
        path: PathBuf,
    },
}

/// What is done with a sentence longer than `max_length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TooLong {
    /// Left out, counted and reported. Never done to test sentences: those are cut.
    #[default]
    Drop,
    /// Cut to fit.
    Cut,
    /// The run is refused.
    Refuse,
}

/// What is done with bad lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BadLines {
    /// Left out, counted and reported with examples.
    #[default]
    Drop,
    /// The run is refused.
    Refuse,
}

fn ratio() -> f64 {
    9.0
}
