//! The splits of a run's data, the sides of a sample, and errors of a split.

use std::path::PathBuf;

use tandem_cluster::run::records::{DataReport, Problem};
use tandem_config::schema::data::{Data, Text};

use super::cache::CacheError;
use super::read::ReadError;
use super::tokenizer::{Tokenizer, TokenizerError};

/// Why a split cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A text cannot be tokenised.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The cache of tokenised text cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The report that is kept with the tokenised text is another version's.
    #[error(
        "cannot read the report that is kept with the tokenised text of {}: {source}; another version of \
         Tandem has written it: choose another data.cache, or empty it", file.display()
    )]
    Report {
        /// The (first) file.
        file: PathBuf,
        /// What is wrong with the report.
        source: serde_json::Error,
    },
    /// A bad line, where the config refuses them.
    #[error("{}:{line}: {}: {text}; correct the line, or set {key} to drop", file.display(), problem.describe())]
    Refused {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// What is wrong.
        problem: Problem,
        /// The beginning of its text.
        text: String,
        /// The key in the config that refuses it.
        key: &'static str,
    },
    /// No line is usable.
    #[error("no line of {} can be used\n{report}", file.display())]
    Nothing {
        /// The (first) file.
        file: PathBuf,
        /// What became of the lines.
        report: Box<DataReport>,
    },
    /// Too many lines are bad, or one file is longer than the other.
    #[error(
        "{} does not look as the config says: {what}\n{report}\ncorrect the text or data.{}, or set \
         data.max_bad to 1 to drop these lines", file.display(), report.split
    )]
    TooManyBad {
        /// The (first) file.
        file: PathBuf,
        /// The problem.
        what: String,
        /// What became of the lines.
        report: Box<DataReport>,
    },
    /// Too many targets have more tokens than their positions can hold.
    #[error(
        "{misfits} of {pairs} training pairs have more target tokens than their positions can hold, \
         {upsampling} for each source token, and would add nothing to the loss (data.max_bad allows a \
         share of {max_bad}); raise model.objective.ctc.upsampling"
    )]
    Misfits {
        /// Such pairs.
        misfits: usize,
        /// All pairs.
        pairs: usize,
        /// Positions for each source token.
        upsampling: usize,
        /// The share that the config allows.
        max_bad: f64,
    },
    /// Pairs where passages are needed, or the other way round.
    #[error("{} has {found}, but the objective needs {needed}", file.display())]
    WrongKind {
        /// The (first) file.
        file: PathBuf,
        /// The kind of records in the config.
        found: &'static str,
        /// The kind of records that the objective needs.
        needed: &'static str,
    },
}

/// A split of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// The training split.
    Train,
    /// The validation split, scored during training.
    Valid,
    /// The test split, on which the finished model is scored.
    Test,
}

impl Split {
    /// The split's name in the config.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
            Self::Test => "test",
        }
    }

    /// The split's text, if the config has one.
    pub fn text(self, data: &Data) -> Option<&Text> {
        match self {
            Self::Train => Some(&data.train),
            Self::Valid => data.valid.as_ref(),
            Self::Test => data.test.as_ref(),
        }
    }
}

/// One side's tokenizer and maximum length.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The most tokens of a sentence, including special tokens: at most the BERT's positions, and for a target
    /// one less than the number of length classes.
    pub max_length: usize,
}

impl Side<'_> {
    /// A text's ids with `[SEP]`, and whether they were truncated.
    pub(crate) fn sentence(&self, mut ids: Vec<u32>) -> (Vec<u32>, bool) {
        let most = self.max_length.saturating_sub(1);
        let is_cut = ids.len() > most;
        ids.truncate(most);
        ids.push(self.tokenizer.special().sep);
        (ids, is_cut)
    }

    /// A text's ids in equal parts, each from `[CLS]` to `[SEP]`.
    pub(super) fn passages(&self, ids: &[u32]) -> Vec<Vec<u32>> {
        let special = self.tokenizer.special();
        let parts = ids.len().div_ceil(self.max_length.saturating_sub(2).max(1));
        let bounds = |part: usize| ids.len() * part / parts;
        let passage = |part: usize| {
            let words = &ids[bounds(part)..bounds(part + 1)];
            [&[special.cls], words, &[special.sep]].concat()
        };
        (0..parts).map(passage).collect()
    }
}

/// The kind of samples.
#[derive(Clone, Copy)]
pub enum Sides<'a> {
    /// Pairs. Each sentence ends with `[SEP]`; `[CLS]` is not added, as in the released code. A BERT
    /// next to a Transformer gets its own.
    Pair {
        /// The source side.
        source: Side<'a>,
        /// The target side.
        target: Side<'a>,
    },
    /// Passages of one language, from `[CLS]` to `[SEP]`, as in BERT's pre-training. A passage that is
    /// too long is split into equal parts; short ones are not joined.
    Passages(Side<'a>),
    /// Sentences of one language to translate; never dropped.
    Sentences(Side<'a>),
}
