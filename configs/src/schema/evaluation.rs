//! When and on what the model is scored.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When and on what the model is scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Evaluation {
    /// Steps between two evaluations on `data.valid`; 0 for none while training. One more is made
    /// after the last step. Each has a checkpoint, see `checkpoints.every`.
    pub every: u64,
    /// At most so many sentences of `data.valid` are translated; 0 for the loss alone.
    pub sentences: usize,
    /// Which score decides the best checkpoint; always `loss` for the `mlm` objective.
    pub metric: Metric,
    /// Whether BLEU and chrF ignore the case of letters: for targets whose vocabulary has only small
    /// ones, and as the paper scores IWSLT14.
    pub lowercase: bool,
    /// Whether BLEU is computed in one more form, that of the paper's predecessors on English-German:
    /// hyphenated words are split (`a ##AT##-##AT## b`), without smoothing, on 13a tokens.
    pub split_compounds: bool,
    /// Sample translations shown in TensorBoard and in the report.
    pub samples: usize,
    /// Sentences timed one by one for the report's latency; 0 for none.
    pub latency_sentences: usize,
}

impl Evaluation {
    /// Whether the model is scored after `step` of `steps`.
    pub fn is_due(&self, step: u64, steps: u64) -> bool {
        self.every > 0 && (step.is_multiple_of(self.every) || step == steps)
    }
}

impl Default for Evaluation {
    fn default() -> Self {
        Self {
            every: 1000,
            sentences: 500,
            metric: Metric::Bleu,
            lowercase: false,
            split_compounds: false,
            samples: 5,
            latency_sentences: 20,
        }
    }
}

/// Which score decides the best checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// sacreBLEU with 13a tokens, higher is better.
    #[default]
    Bleu,
    /// The training loss on `data.valid`, lower is better.
    Loss,
}
