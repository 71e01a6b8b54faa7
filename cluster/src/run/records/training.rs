//! What rank 0 reports of training steps.

use serde::{Deserialize, Serialize};

use super::number;

/// Figures of a step, and times since the last ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainingMetrics {
    /// All steps of the run.
    pub steps: u64,
    /// The step's loss, over its denominator.
    #[serde(with = "number")]
    pub loss: f64,
    /// Negative log-likelihood of a predicted token, in nats.
    #[serde(with = "number")]
    pub nll: f64,
    /// The step's learning rate.
    #[serde(with = "number")]
    pub learning_rate: f64,
    /// Steps skipped so far because their gradient was not finite.
    pub skipped: u64,
    /// Negative log-likelihood of a sentence's length, in nats; none where none are predicted.
    #[serde(with = "number::option")]
    pub length_loss: Option<f64>,
    /// Cross-entropy of a teacher's soft labels for a predicted token, in nats; none without them.
    #[serde(with = "number::option")]
    pub soft_label_loss: Option<f64>,
    /// Squared distance between the encoder's output and a BERT's for a source token; none without
    /// one.
    #[serde(with = "number::option")]
    pub distillation_loss: Option<f64>,
    /// Target tokens a second, over all ranks.
    #[serde(with = "number")]
    pub tokens_per_second: f64,
    /// The mean over the steps since the last report.
    pub time: StepTime,
    /// The process's peak resident memory, in bytes.
    pub peak_memory: u64,
}

/// Where the time of a step goes, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct StepTime {
    /// The whole step.
    pub total_ms: f64,
    /// Waiting for micro-batches.
    pub data_ms: f64,
    /// Waiting for the other ranks' gradients: communication that computing does not hide.
    pub communication_ms: f64,
}
