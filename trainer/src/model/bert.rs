//! BERT (Devlin et al. 2019): embeddings and post-norm layers, by Hugging Face's names.
//!
//! Shapes: B sentences, T tokens, D width.

use tandem_config::bert::BertConfig;
use tch::{Kind, Tensor};

use super::attention::{Past, attend, split_heads};
use super::layers::{LayerNorm, Linear, Packed};
use super::parameters::Scope;
use super::pass::Pass;
use super::positions::Positions;

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

/// Words, positions from 0 and token type 0, summed and normed.
#[derive(Debug)]
pub struct Embeddings {
    word: Tensor,       // [V, D]
    position: Tensor,   // [positions, D]
    token_type: Tensor, // [types, D]
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
            norm: LayerNorm::new(scope, "LayerNorm", config.layer_norm_eps),
            dropout: dropout.hidden,
        }
    }

    /// Token ids `[B, T]`, the first at position `start`, to hidden states `[B, T, D]` of `kind`.
    pub fn forward(&self, ids: &Tensor, start: i64, kind: Kind, pass: &Pass) -> Tensor {
        let length = ids.size()[1];
        let position = self.position.narrow(0, start, length).to_kind(kind); // [T, D]
        let fixed = position + self.token_type.select(0, 0).to_kind(kind);
        let words = Tensor::embedding(&self.word, ids, -1, false, false).to_kind(kind); // [B, T, D]
        pass.dropout(self.norm.forward(&(words + fixed)), self.dropout)
    }
}

/// One layer: self-attention and feed-forward, each with a residual and a norm behind it.
#[derive(Debug)]
pub struct Layer {
    query_key_value: Packed,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
    heads: i64,
    dropout: BertDropout,
}

impl Layer {
    /// The layer below `scope`, e.g. `encoder.bert.encoder.layer.0`.
    pub fn new(scope: &Scope, config: &BertConfig, dropout: BertDropout) -> Self {
        let attention = scope.enter("attention");
        let eps = config.layer_norm_eps;
        Self {
            query_key_value: Packed::new(&attention.enter("self"), &["query", "key", "value"]),
            attention_output: Linear::new(&attention, "output.dense"),
            attention_norm: LayerNorm::new(&attention, "output.LayerNorm", eps),
            intermediate: Linear::new(scope, "intermediate.dense"),
            output: Linear::new(scope, "output.dense"),
            output_norm: LayerNorm::new(scope, "output.LayerNorm", eps),
            heads: config.num_attention_heads as i64,
            dropout,
        }
    }

    /// As [`super::layer::Layer::forward`].
    pub fn forward(
        &self,
        x: &Tensor,
        mask: &Tensor,
        past: Option<&mut Past>,
        at: Option<&Positions>,
        pass: &Pass,
    ) -> Tensor {
        let parts = self.query_key_value.forward(x);
        let [query, key, value] = [0, 1, 2].map(|part| split_heads(&parts[part], self.heads));
        let (key, value) = Past::extend(past, key, value);
        let attended = attend(&query, &key, &value, mask, self.dropout.attention, pass);
        let (x, attended) = Positions::gathered(at, x, &attended);
        let attended = self.attention_output.forward(&attended);
        let x = self.attention_norm.forward(&pass.dropout_add(&attended, &x, self.dropout.hidden));
        let inner = self.output.forward(&self.intermediate.forward(&x).gelu("none"));
        self.output_norm.forward(&pass.dropout_add(&inner, &x, self.dropout.hidden))
    }
}
