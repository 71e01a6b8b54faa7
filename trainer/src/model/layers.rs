//! The smallest blocks: linear layers, activations and layer norm.

use tch::Tensor;

use super::parameters::Scope;

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
        let parts: Vec<_> = names.iter().map(|name| Linear::new(scope, name)).collect();
        if parts.iter().any(|part| part.weight.requires_grad()) {
            return Self::Apart(parts);
        }
        let weights: Vec<_> = parts.iter().map(|part| &part.weight).collect();
        let biases: Vec<_> = parts.iter().filter_map(|part| part.bias.as_ref()).collect();
        let packed = Linear {
            weight: Tensor::cat(&weights, 0),
            bias: Some(Tensor::cat(&biases, 0)),
            transposed: false,
        };
        Self::Together(packed, parts.len() as i64)
    }

    /// `[.., inputs]` to a tensor of `[.., outputs]` for each layer.
    pub fn forward(&self, x: &Tensor) -> Vec<Tensor> {
        match self {
            Self::Together(linear, parts) => linear.forward(x).chunk(*parts, -1),
            Self::Apart(parts) => parts.iter().map(|part| part.forward(x)).collect(),
        }
    }
}

/// What stands between two linear layers.
#[derive(Debug, Clone, Copy)]
pub enum Activation {
    /// `max(0, x)`.
    Relu,
    /// `x · Φ(x)` (Hendrycks and Gimpel 2016).
    Gelu,
    /// The same by its approximation with a hyperbolic tangent.
    GeluTanh,
}

impl Activation {
    /// `[..]` to `[..]`.
    pub fn forward(self, x: &Tensor) -> Tensor {
        match self {
            Self::Relu => x.relu(),
            Self::Gelu => x.gelu("none"),
            Self::GeluTanh => x.gelu("tanh"),
        }
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
