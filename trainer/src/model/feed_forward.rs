//! A feed-forward block: `LN(x + dropout(W2 · ReLU(W1 · x)))`.

use tch::Tensor;

use super::layers::{DEFAULT_EPS, LayerNorm, Linear};
use super::parameters::Scope;
use super::pass::Pass;

/// One block.
#[derive(Debug)]
pub struct FeedForward {
    up: Linear,
    down: Linear,
    norm: LayerNorm,
    dropout: f64,
}

impl FeedForward {
    /// The block below `scope`, e.g. `decoder.layer.0.feed_forward`.
    pub fn new(scope: &Scope, dropout: f64) -> Self {
        Self {
            up: Linear::new(scope, "up"),
            down: Linear::new(scope, "down"),
            norm: LayerNorm::new(scope, "norm", DEFAULT_EPS),
            dropout,
        }
    }

    /// `[.., D]` to `[.., D]`.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let inner = self.down.forward(&self.up.forward(x).relu());
        self.norm.forward(&pass.dropout_add(&inner, x, self.dropout))
    }
}
