//! The smallest blocks: linear layers, layer norm, and the feed-forward block of two of them.

use tch::Tensor;

use crate::model::parameters::Scope;
use crate::model::pass::Pass;

/// PyTorch's epsilon in layer norms, which the released code's adapters and fairseq keep.
pub const DEFAULT_EPS: f64 = 1e-5;

/// `x · Wᵀ + b`.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,       // [outputs, inputs], or the other way round
    bias: Option<Tensor>, // [outputs]
    transposed: bool,
}

impl Linear {
    /// The layer called `name`.
    pub fn new(scope: &Scope, name: &str) -> Self {
        let scope = scope.enter(name);
        Self {
            weight: scope.get_for_layer("weight"),
            bias: Some(scope.get_for_layer("bias")),
            transposed: false,
        }
    }

    /// The layer called `name`, which has no bias.
    pub fn without_bias(scope: &Scope, name: &str) -> Self {
        Self { weight: scope.enter(name).get_for_layer("weight"), bias: None, transposed: false }
    }

    /// The layer called `name`, whose weight is stored as `[inputs, outputs]`.
    pub fn transposed(scope: &Scope, name: &str) -> Self {
        Self { transposed: true, ..Self::new(scope, name) }
    }

    /// `[.., inputs]` to `[.., outputs]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let kind = x.kind();
        let weight = self.weight.to_kind(kind);
        let weight = if self.transposed { weight.transpose(0, 1) } else { weight };
        x.linear(&weight, self.bias.as_ref().map(|bias| bias.to_kind(kind)))
    }
}

/// Several linear layers over one input.
#[derive(Debug)]
pub enum Packed {
    /// Packed into one matrix of so many parts, as frozen ones are.
    Together(Linear, i64),
    /// Trained ones, each under its own name.
    Apart(Vec<Linear>),
}

impl Packed {
    /// The layers called `names`.
    pub fn new(scope: &Scope, names: &[&str]) -> Self {
        let of = |part: &str| names.iter().map(|name| format!("{name}.{part}")).collect::<Vec<_>>();
        match (scope.pack(&of("weight")), scope.pack(&of("bias"))) {
            (Some(weight), Some(bias)) => {
                let packed = Linear { weight, bias: Some(bias), transposed: false };
                Self::Together(packed, names.len() as i64)
            }
            _ => Self::Apart(names.iter().map(|name| Linear::new(scope, name)).collect()),
        }
    }

    /// `[.., inputs]` to a tensor of `[.., outputs]` for each layer.
    pub fn forward(&self, x: &Tensor) -> Vec<Tensor> {
        match self {
            Self::Together(linear, parts) => linear.forward(x).chunk(*parts, -1),
            Self::Apart(parts) => parts.iter().map(|part| part.forward(x)).collect(),
        }
    }
}

/// The Transformer's feed-forward block: `LN(x + dropout(W2 · ReLU(W1 · x)))`.
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
        let inner = self.up.forward(x).relu();
        self.norm.forward(&pass.dropout_add(&self.down.forward(&inner), x, self.dropout))
    }
}

/// Layer normalisation over the last dimension.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Tensor, // [D]
    bias: Tensor,   // [D]
    eps: f64,
}

impl LayerNorm {
    /// The norm called `name`.
    pub fn new(scope: &Scope, name: &str, eps: f64) -> Self {
        let scope = scope.enter(name);
        Self { weight: scope.get_for_layer("weight"), bias: scope.get_for_layer("bias"), eps }
    }

    /// `[.., D]` to `[.., D]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let kind = x.kind();
        let (weight, bias) = (self.weight.to_kind(kind), self.bias.to_kind(kind));
        x.layer_norm(self.weight.size(), Some(weight), Some(bias), self.eps, true)
    }
}
