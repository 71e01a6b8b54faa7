//! Bottleneck adapters of the encoder: `A(h) = h + W2 · ReLU(W1 · LN(h))`.
//!
//! Guo et al. 2020, equation 5; the released code has no biases and norms with BERT's epsilon.

use tch::Tensor;

use super::linear::{LayerNorm, Linear};
use crate::model::parameters::Scope;

/// One adapter.
#[derive(Debug)]
pub struct Adapter {
    norm: LayerNorm,
    down: Linear,
    up: Linear,
}

impl Adapter {
    /// The adapter below `scope`, e.g. `encoder.layer.0.adapter`.
    pub fn new(scope: &Scope, eps: f64) -> Self {
        Self {
            norm: LayerNorm::new(scope, "norm", eps),
            down: Linear::without_bias(scope, "down"),
            up: Linear::without_bias(scope, "up"),
        }
    }

    /// `[B, S, D]` to `[B, S, D]`.
    pub fn forward(&self, hidden: &Tensor) -> Tensor {
        let narrow = self.down.forward(&self.norm.forward(hidden)).relu(); // [B, S, A]
        hidden + self.up.forward(&narrow)
    }
}
