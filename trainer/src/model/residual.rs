//! What stands around every block of a layer: `LN(x + dropout(block(x)))`, post-norm.

use tch::Tensor;

use super::layers::LayerNorm;
use super::pass::Pass;

/// A block's residual connection.
#[derive(Debug)]
pub struct Residual {
    /// The norm of the sum.
    pub norm: LayerNorm,
    /// Dropout on the block's output.
    pub dropout: f64,
}

impl Residual {
    /// The block's input and output, both `[.., D]`, to `[.., D]`.
    pub fn forward(&self, x: &Tensor, block: &Tensor, pass: &Pass) -> Tensor {
        self.norm.forward(&pass.dropout_add(block, x, self.dropout))
    }
}
