//! How translations are found.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How translations are found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Decoding {
    /// Mask-Predict (Ghazvininejad et al. 2019): all positions at once, the least certain again.
    MaskPredict(MaskPredict),
}

impl Default for Decoding {
    fn default() -> Self {
        Self::MaskPredict(MaskPredict::default())
    }
}

/// Mask-Predict's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MaskPredict {
    /// The released code's T: in iteration i of T, `floor(L · (T − i) / T)` positions are masked.
    #[schemars(range(min = 1, max = 1000))]
    pub iterations: usize,
    /// How many of the most probable lengths are tried.
    #[schemars(range(min = 1, max = 64))]
    pub length_candidates: usize,
    /// When a sentence is finished.
    pub stop: Stop,
    /// Candidates are compared by `Σ log p / ((5 + L) / 6)^length_penalty`.
    #[schemars(range(min = 0.0))]
    pub length_penalty: f64,
    /// Padded tokens per batch, all candidates counted.
    #[schemars(range(min = 2))]
    pub max_tokens: usize,
}

impl Default for MaskPredict {
    fn default() -> Self {
        Self {
            iterations: 10,
            length_candidates: 4,
            stop: Stop::Unchanged,
            length_penalty: 1.1,
            max_tokens: 4000,
        }
    }
}

/// When Mask-Predict finishes a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// When an iteration changes nothing, or after `iterations` passes (the paper).
    #[default]
    Unchanged,
    /// After one pass on masks alone and `iterations` more, always (the released code).
    Released,
}
