//! One forward pass: training or not, and where its dropout masks come from.

use tch::Tensor;

/// One forward pass.
///
/// Dropout masks are counted, not drawn: a training pass seeds libtorch's generator from
/// (seed, step, micro-batch), so that nothing depends on what was computed before.
#[derive(Debug)]
pub struct Pass {
    train: bool,
}

impl Pass {
    /// A pass without dropout.
    pub fn eval() -> Self {
        Self { train: false }
    }

    /// A pass with dropout, its masks determined by `seed`.
    pub fn train(seed: u64) -> Self {
        tch::manual_seed(seed as i64);
        Self { train: true }
    }

    /// `x` with elements zeroed with `probability` and the others scaled up; in training only.
    pub fn dropout(&self, x: Tensor, probability: f64) -> Tensor {
        if self.train && probability > 0.0 { x.dropout(probability, true) } else { x }
    }
}
