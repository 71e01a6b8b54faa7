//! A feed-forward block: `W2 · activation(W1 · x)`, with a residual connection.

use tch::Tensor;

use super::layers::{Activation, DEFAULT_EPS, LayerNorm, Linear};
use super::parameters::Scope;
use super::pass::Pass;
use super::residual::{Order, Residual};

/// One block.
#[derive(Debug)]
pub struct FeedForward {
    /// `W1`.
    pub up: Linear,
    /// Between the two.
    pub activation: Activation,
    /// `W2`.
    pub down: Linear,
    /// Around all of it.
    pub residual: Residual,
}

impl FeedForward {
    /// The Transformer's, with ReLU, below `scope`, e.g. `decoder.layer.0.feed_forward`.
    pub fn relu(scope: &Scope, dropout: f64) -> Self {
        Self {
            up: Linear::new(scope, "up"),
            activation: Activation::Relu,
            down: Linear::new(scope, "down"),
            residual: Residual {
                norm: LayerNorm::new(scope, "norm", DEFAULT_EPS),
                order: Order::Post,
                dropout,
            },
        }
    }

    /// `[.., D]` to `[.., D]`.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let inner = self.activation.forward(&self.up.forward(&self.residual.input(x)));
        self.residual.forward(x, &self.down.forward(&inner), pass)
    }
}
