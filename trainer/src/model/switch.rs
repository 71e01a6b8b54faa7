//! CT-NMT's dynamic switch (Yang et al. 2020): `g · B + (1 − g) · E`, `g = σ(W · B + U · E + b)`.

use tch::Tensor;

use super::layers::Linear;
use super::parameters::Scope;

/// The gate between a BERT's output B and an encoder's own embeddings E.
#[derive(Debug)]
pub struct Switch {
    bert: Linear,
    own: Linear,
}

impl Switch {
    /// The gate below `scope`, e.g. `encoder.switch`.
    pub fn new(scope: &Scope) -> Self {
        Self { bert: Linear::without_bias(scope, "bert"), own: Linear::new(scope, "own") }
    }

    /// Both `[B, S, D]` to `[B, S, D]`.
    pub fn forward(&self, bert: &Tensor, own: &Tensor) -> Tensor {
        let gate = (self.bert.forward(bert) + self.own.forward(own)).sigmoid();
        own + gate * (bert - own)
    }
}
