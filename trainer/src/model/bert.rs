//! BERT (Devlin et al. 2019): embeddings and post-norm layers, by Hugging Face's names.
//!
//! Shapes: B sentences, T tokens, D width.

use tandem_config::pretrained::bert::BertConfig;
use tch::{Kind, Tensor};

use super::feed_forward::FeedForward;
use super::layer::Layer;
use super::layers::{Activation, LayerNorm, Linear, Packed};
use super::parameters::Scope;
use super::pass::Pass;
use super::residual::{Order, Residual};
use super::self_attention::SelfAttention;

/// Dropout inside a BERT.
#[derive(Debug, Clone, Copy)]
pub struct BertDropout {
    /// On embeddings and on the output of each block.
    pub hidden: f64,
    /// On attention probabilities.
    pub attention: f64,
}

impl BertDropout {
    /// What config.json says, or one `value` for both.
    pub fn new(config: &BertConfig, value: Option<f64>) -> Self {
        Self {
            hidden: value.unwrap_or(config.hidden_dropout_prob),
            attention: value.unwrap_or(config.attention_probs_dropout_prob),
        }
    }
}

/// Words, positions and token types, summed and normed.
#[derive(Debug)]
pub struct Embeddings {
    word: Tensor,       // [V, D]
    position: Tensor,   // [positions, D]
    token_type: Tensor, // [types, D]
    first: i64,
    norm: LayerNorm,
    dropout: f64,
}

impl Embeddings {
    /// The embeddings below `scope`, e.g. `encoder.bert.embeddings`.
    pub fn new(scope: &Scope, config: &BertConfig, dropout: BertDropout) -> Self {
        Self {
            word: scope.get("word_embeddings.weight"),
            position: scope.get("position_embeddings.weight"),
            token_type: scope.get("token_type_embeddings.weight"),
            first: config.first_position as i64,
            norm: LayerNorm::new(scope, "LayerNorm", config.layer_norm_eps),
            dropout: dropout.hidden,
        }
    }

    /// Token ids `[B, T]` of type 0, the first at position `start`, to hidden states `[B, T, D]` of
    /// `kind`.
    pub fn forward(&self, ids: &Tensor, start: i64, kind: Kind, pass: &Pass) -> Tensor {
        let position = self.positions(start, ids, kind);
        let fixed = position + self.token_type.select(0, 0).to_kind(kind);
        self.sum(ids, fixed, kind, pass)
    }

    /// Token ids `[B, T]` with their types `[B, T]`, to hidden states `[B, T, D]` of `kind`.
    pub fn typed(&self, ids: &Tensor, types: &Tensor, kind: Kind, pass: &Pass) -> Tensor {
        let position = self.positions(0, ids, kind);
        let types = Tensor::embedding(&self.token_type, types, -1, false, false).to_kind(kind);
        self.sum(ids, position + types, kind, pass)
    }

    /// `[T, D]` for ids `[B, T]`.
    fn positions(&self, start: i64, ids: &Tensor, kind: Kind) -> Tensor {
        self.position.narrow(0, self.first + start, ids.size()[1]).to_kind(kind)
    }

    fn sum(&self, ids: &Tensor, fixed: Tensor, kind: Kind, pass: &Pass) -> Tensor {
        let words = Tensor::embedding(&self.word, ids, -1, false, false).to_kind(kind); // [B, T, D]
        pass.dropout(self.norm.forward(&(words + fixed)), self.dropout)
    }
}

/// The layer below `scope`, e.g. `encoder.bert.encoder.layer.0`.
pub fn layer(scope: &Scope, config: &BertConfig, dropout: BertDropout) -> Layer {
    let attention = scope.enter("attention");
    let residual = |scope: &Scope| Residual {
        norm: LayerNorm::new(scope, "output.LayerNorm", config.layer_norm_eps),
        order: Order::Post,
        dropout: dropout.hidden,
    };
    Layer {
        attention: SelfAttention {
            query_key_value: Packed::new(&attention.enter("self"), &["query", "key", "value"]),
            output: Linear::new(&attention, "output.dense"),
            fused: None,
            residual: residual(&attention),
            heads: config.num_attention_heads as i64,
            dropout: dropout.attention,
        },
        feed_forward: Some(FeedForward {
            up: Linear::new(scope, "intermediate.dense"),
            activation: Activation::Gelu,
            down: Linear::new(scope, "output.dense"),
            residual: residual(scope),
        }),
    }
}
