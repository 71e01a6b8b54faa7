//! A BERT's soft labels for an autoregressive model.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A BERT as a teacher that has seen what comes after a word, too (BERT-Distilled, Chen et al. 2020).
///
/// The BERT has been trained with the `mlm` objective and `conditional: true`. It reads
/// `[CLS] source [SEP] target [SEP]` with some target tokens masked, and its most probable words
/// there are labels beside the data's: the loss is
/// `(1 − weight) · smoothed nll + weight · Σ −q · log p` with `q = softmax(logits / temperature)` of
/// the teacher's `top` words. As in the released code, the model's own `p` has no temperature.
///
/// Both sides have the teacher's vocabulary. The labels depend on the pair alone, so they are made
/// once, before training, by all workers, and kept in the cache: `8 · top` bytes for each target
/// token. Made anew for each step they would cost `passes` forward passes of the BERT every time.
/// A pair longer than the teacher's positions has the data's own words as labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SoftLabels {
    /// The teacher's BERT: a Hugging Face folder, such as the `export` of its run, or a model's name on
    /// the hub. Either this or `teacher`.
    pub pretrained: Option<String>,
    /// The teacher's run, whose `export` is the BERT: its folder, or its run file, which is launched
    /// first if need be.
    pub teacher: Option<PathBuf>,
    /// Share of the soft labels in the loss; the rest is that of the data.
    #[serde(default = "half")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub weight: f64,
    /// What the teacher's logits are divided by.
    #[serde(default = "ten")]
    #[schemars(range(min = 0.01))]
    pub temperature: f64,
    /// So many of the teacher's most probable words are kept for each token.
    #[serde(default = "eight")]
    #[schemars(range(min = 1, max = 128))]
    pub top: usize,
    /// Passes of the teacher over a pair: the n-th masks every `passes`-th target token from the
    /// n-th on; in a shorter target each token is masked alone.
    #[serde(default = "seven")]
    #[schemars(range(min = 1, max = 512))]
    pub passes: usize,
}

impl SoftLabels {
    /// The folder or name of the teacher's BERT, which valid configs have.
    pub fn bert(&self) -> &str {
        self.pretrained.as_deref().unwrap_or_default()
    }
}

fn half() -> f64 {
    0.5
}

fn ten() -> f64 {
    10.0
}

fn eight() -> usize {
    8
}

fn seven() -> usize {
    7
}
