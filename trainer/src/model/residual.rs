//! What stands around every block of a layer: a residual connection and a norm.

use tch::Tensor;

use super::layers::LayerNorm;
use super::pass::Pass;

/// Where the norm stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Behind the sum: `LN(x + dropout(block(x)))`.
    Post,
    /// Before the block: `x + dropout(block(LN(x)))`.
    Pre,
}

/// A block's residual connection.
#[derive(Debug)]
pub struct Residual {
    /// The norm.
    pub norm: LayerNorm,
    /// Where it stands.
    pub order: Order,
    /// Dropout on the block's output.
    pub dropout: f64,
}

impl Residual {
    /// What the block is to be given for `x`: `[.., D]`.
    pub fn input(&self, x: &Tensor) -> Tensor {
        match self.order {
            Order::Post => x.shallow_clone(),
            Order::Pre => self.norm.forward(x),
        }
    }

    /// `x` and the block's output, both `[.., D]`, to `[.., D]`.
    pub fn forward(&self, x: &Tensor, block: &Tensor, pass: &Pass) -> Tensor {
        let sum = pass.dropout_add(block, x, self.dropout);
        match self.order {
            Order::Post => self.norm.forward(&sum),
            Order::Pre => sum,
        }
    }
}
