//! GPT-2 (Radford et al. 2019): embeddings and pre-norm layers, by Hugging Face's names.
//!
//! Matrices are stored as `[inputs, outputs]`. Shapes: B sentences, T tokens, D width.

use tandem_config::pretrained::gpt2::Gpt2Config;
use tch::{Kind, Tensor};

use super::feed_forward::FeedForward;
use super::layers::{Activation, LayerNorm, Linear, Packed};
use super::parameters::Scope;
use super::pass::Pass;
use super::residual::{Order, Residual};
use super::self_attention::SelfAttention;

/// Dropout inside a GPT-2.
#[derive(Debug, Clone, Copy)]
pub struct Gpt2Dropout {
    embeddings: f64,
    attention: f64,
    residual: f64,
}

impl Gpt2Dropout {
    /// What config.json says, or one `value` for all.
    pub fn new(config: &Gpt2Config, value: Option<f64>) -> Self {
        Self {
            embeddings: value.unwrap_or(config.embd_pdrop),
            attention: value.unwrap_or(config.attn_pdrop),
            residual: value.unwrap_or(config.resid_pdrop),
        }
    }
}

/// Words and positions from 0, summed.
#[derive(Debug)]
pub struct Embeddings {
    word: Tensor,     // [V, D]
    position: Tensor, // [positions, D]
    dropout: f64,
}

impl Embeddings {
    /// The embeddings below `scope`, e.g. `decoder.transformer`.
    pub fn new(scope: &Scope, dropout: Gpt2Dropout) -> Self {
        let (word, position) = (scope.get("wte.weight"), scope.get("wpe.weight"));
        Self { word, position, dropout: dropout.embeddings }
    }

    /// Token ids `[B, T]`, the first at position `start`, to hidden states `[B, T, D]` of `kind`.
    pub fn forward(&self, ids: &Tensor, start: i64, kind: Kind, pass: &Pass) -> Tensor {
        let position = self.position.narrow(0, start, ids.size()[1]).to_kind(kind); // [T, D]
        let words = Tensor::embedding(&self.word, ids, -1, false, false).to_kind(kind); // [B, T, D]
        pass.dropout(words + position, self.dropout)
    }
}

/// The two blocks of the layer below `scope`, e.g. `decoder.transformer.h.0`.
pub fn layer(
    scope: &Scope,
    config: &Gpt2Config,
    dropout: Gpt2Dropout,
) -> (SelfAttention, FeedForward) {
    let residual = |name: &str| Residual {
        norm: LayerNorm::new(scope, name, config.layer_norm_epsilon),
        order: Order::Pre,
        dropout: dropout.residual,
    };
    let attention = SelfAttention {
        query_key_value: Packed::Together(Linear::transposed(scope, "attn.c_attn"), 3),
        output: Linear::transposed(scope, "attn.c_proj"),
        fused: None,
        residual: residual("ln_1"),
        heads: config.n_head as i64,
        dropout: dropout.attention,
    };
    let feed_forward = FeedForward {
        up: Linear::transposed(scope, "mlp.c_fc"),
        activation: Activation::GeluTanh,
        down: Linear::transposed(scope, "mlp.c_proj"),
        residual: residual("ln_2"),
    };
    (attention, feed_forward)
}
