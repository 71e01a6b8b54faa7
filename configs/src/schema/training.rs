//! Steps, batches, optimizer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Steps, batches, optimizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Optimizer steps.
    #[schemars(range(min = 1))]
    pub steps: u64,
    /// Padded tokens per micro-batch: sentences times the longer side's longest length.
    #[schemars(range(min = 2))]
    pub max_tokens: usize,
    /// Micro-batches per optimizer step, over all ranks together. The ranks share them out, so
    /// the step is the same for every number of ranks.
    #[schemars(range(min = 1))]
    pub micro_batches: usize,
    /// The optimizer.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// The learning rate of each step.
    pub schedule: Schedule,
    /// Largest Euclidean norm of a step's gradient; 0 for no clipping, as in the released code.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub clip_norm: f64,
    /// Precision of the computation. Trained weights and sums are always f32.
    #[serde(default)]
    pub precision: Precision,
    /// A step whose gradient is not finite is skipped and counted; after so many in a row the
    /// run stops.
    #[serde(default = "ten")]
    #[schemars(range(min = 1))]
    pub max_non_finite: u64,
    /// Steps between two points in TensorBoard.
    #[serde(default = "ten")]
    #[schemars(range(min = 1))]
    pub log_every: u64,
}

/// The optimizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Optimizer {
    /// Adam (Kingma and Ba 2015), with decoupled weight decay where that is not 0.
    Adam {
        /// Decay of the mean of gradients and of their squares.
        #[serde(default = "betas")]
        betas: [f64; 2],
        /// Added to the denominator.
        #[serde(default = "eps")]
        #[schemars(range(min = 0.0))]
        eps: f64,
        /// Decoupled weight decay; not applied to biases and layer norms.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        weight_decay: f64,
    },
}

impl Default for Optimizer {
    fn default() -> Self {
        Self::Adam { betas: betas(), eps: eps(), weight_decay: 0.0 }
    }
}

/// The learning rate of each step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// Linear warm-up, then falling with the square root of the step (Vaswani et al. 2017).
    InverseSqrt {
        /// Rate at the end of the warm-up.
        #[schemars(range(min = 0.0))]
        peak: f64,
        /// Steps of warm-up.
        #[schemars(range(min = 1))]
        warmup: u64,
        /// Rate before the first step.
        #[serde(default = "initial")]
        #[schemars(range(min = 0.0))]
        initial: f64,
    },
    /// Linear warm-up, then linear to 0 at the last step.
    Linear {
        /// Rate at the end of the warm-up.
        #[schemars(range(min = 0.0))]
        peak: f64,
        /// Steps of warm-up.
        warmup: u64,
    },
    /// The same rate, after an optional linear warm-up.
    Constant {
        /// The rate.
        #[schemars(range(min = 0.0))]
        rate: f64,
        /// Steps of warm-up.
        #[serde(default)]
        warmup: u64,
    },
}

/// Precision of the computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// The same, but GPUs round the factors of matrix products to TF32, which has 10 bits behind the point
    /// instead of 23. CPUs have no TF32: there it is f32, bit for bit.
    Tf32,
    /// bfloat16: frozen weights are held in bf16 only, trained weights and sums in f32. A CPU
    /// without AVX-512, which has no bf16 products, computes in f32.
    Bf16,
}

fn ten() -> u64 {
    10
}

fn betas() -> [f64; 2] {
    [0.9, 0.98]
}

fn eps() -> f64 {
    1e-8
}

fn initial() -> f64 {
    1e-7
}
