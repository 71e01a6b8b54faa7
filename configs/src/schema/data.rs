//! The texts of a run.

use std::path::{Path, PathBuf};

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
    /// A teacher's translations in place of the targets of `train` (Kim and Rush 2016).
    pub distillation: Option<Distillation>,
    /// Text in the target's language with a teacher's translations as its sources, besides `train`
    /// (Sennrich et al. 2016).
    pub back_translation: Option<BackTranslation>,
    /// Longest sentence in tokens of its own vocabulary, with the final `[SEP]`. The default is the
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
    /// Largest share of the lines of `train` that may be bad; above it, or where one of a split's two
    /// files is longer than the other, the run is refused. With 1 it continues all the same.
    #[serde(default = "twentieth")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_bad: f64,
    /// Whether a run may be resumed though a text has changed since its checkpoint; otherwise that is
    /// refused, whatever the file's name.
    #[serde(default)]
    pub allow_changed: bool,
    /// Where tokenised text, teachers' translations and soft labels are kept between runs; by default
    /// `cache` beside the run folders.
    pub cache: Option<PathBuf>,
}

impl Data {
    /// The folder that keeps what is made of the texts, for the run in the folder `run`.
    pub fn cache(&self, run: &Path) -> PathBuf {
        let beside = || run.parent().unwrap_or(Path::new(".")).join("cache");
        self.cache.clone().unwrap_or_else(beside)
    }

    /// The splits that there are, with their names.
    pub fn splits(&self) -> impl Iterator<Item = (&'static str, &Text)> {
        [("train", Some(&self.train)), ("valid", self.valid.as_ref()), ("test", self.test.as_ref())]
            .into_iter()
            .filter_map(|(name, text)| text.map(|text| (name, text)))
    }
}

/// Sequence-level knowledge distillation: the teacher translates the sources of `train` over all
/// workers, once, and the model is trained on what it writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Distillation {
    /// The teacher: the folder of a finished run, or a run file, which is launched first as a run
    /// of its own. It translates with the average of its last checkpoints.
    pub teacher: PathBuf,
    /// Width of the teacher's beam search; by default as its own `decoding` says, which a masked
    /// teacher always does.
    #[schemars(range(min = 1, max = 64))]
    pub beam: Option<usize>,
    /// Sentences that are kept at once: at most so many for each worker are translated again
    /// after a fault.
    #[serde(default = "chunk")]
    #[schemars(range(min = 1))]
    pub chunk: usize,
}

/// Back-translation: the teacher, a model of the other direction, translates text of the target's
/// language over all workers, once; the pairs are trained on besides those of `train`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackTranslation {
    /// The teacher, from the target's language into the source's; see `distillation.teacher`.
    pub teacher: PathBuf,
    /// Text in the target's language, one sentence a line.
    pub text: PathBuf,
    /// So many lines of `text` for each pair of `train`: an even choice of them, or all where there
    /// are fewer.
    #[serde(default = "one_to_one")]
    #[schemars(range(min = 0.001))]
    pub ratio: f64,
    /// Put before each source that the teacher wrote, so that the model can tell them apart
    /// (Caswell et al. 2019); by default nothing.
    pub tag: Option<String>,
    /// See `distillation.beam`.
    #[schemars(range(min = 1, max = 64))]
    pub beam: Option<usize>,
    /// See `distillation.chunk`.
    #[serde(default = "chunk")]
    #[schemars(range(min = 1))]
    pub chunk: usize,
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

impl Text {
    /// Its files, in the order source, target.
    pub fn files(&self) -> Vec<&Path> {
        match self {
            Self::Tsv { path, .. } | Self::Jsonl { path, .. } | Self::Lines { path } => vec![path],
            Self::Files { source, target } => vec![source, target],
        }
    }
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

fn twentieth() -> f64 {
    0.05
}

fn one_to_one() -> f64 {
    1.0
}

fn chunk() -> usize {
    1000
}
