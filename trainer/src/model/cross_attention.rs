//! Cross-attention adapters of the decoder: `LN(x + dropout(MultiHead(x, H_E, H_E)))`.
//!
//! Guo et al. 2020, equation 6. The released code adds a feed-forward layer, `LN(x +
//! dropout(W2 · ReLU(W1 · x)))`. Shapes: E is the encoder's width.

use tandem_config::model::CrossAttention as Config;
use tch::Tensor;

use super::attention::{attend, split_heads};
use super::layers::{LayerNorm, Linear};
use super::parameters::Scope;
use super::pass::Pass;
use super::positions::Positions;

/// The released code keeps PyTorch's default in the norms that it adds.
const EPS: f64 = 1e-5;

/// One adapter.
#[derive(Debug)]
pub struct CrossAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    norm: LayerNorm,
    feed_forward: Option<FeedForward>,
    heads: i64,
    dropout: f64,
}

#[derive(Debug)]
struct FeedForward {
    up: Linear,
    down: Linear,
    norm: LayerNorm,
}

/// The memory as one layer's keys and values: computed once, used in every decoding pass.
#[derive(Debug)]
pub struct KeyValue {
    key: Tensor,   // [B, H, S, d]
    value: Tensor, // [B, H, S, d]
}

impl KeyValue {
    /// The keys and values of these sentences, in this order.
    pub fn select(&self, sentences: &Tensor) -> Self {
        let select = |x: &Tensor| x.index_select(0, sentences);
        Self { key: select(&self.key), value: select(&self.value) }
    }
}

impl CrossAttention {
    /// The adapter of the layer below `scope`, e.g. `decoder.layer.0`.
    pub fn new(scope: &Scope, config: &Config) -> Self {
        let attention = scope.enter("cross_attention");
        let feed_forward = (config.feed_forward > 0).then(|| {
            let scope = scope.enter("feed_forward");
            FeedForward {
                up: Linear::new(&scope, "up"),
                down: Linear::new(&scope, "down"),
                norm: LayerNorm::new(&scope, "norm", EPS),
            }
        });
        Self {
            query: Linear::new(&attention, "query"),
            key: Linear::new(&attention, "key"),
            value: Linear::new(&attention, "value"),
            output: Linear::new(&attention, "output"),
            norm: LayerNorm::new(&attention, "norm", EPS),
            feed_forward,
            heads: config.heads as i64,
            dropout: config.dropout,
        }
    }

    /// The memory `[B, S, E]` as keys and values.
    pub fn key_value(&self, memory: &Tensor) -> KeyValue {
        KeyValue {
            key: split_heads(&self.key.forward(memory), self.heads),
            value: split_heads(&self.value.forward(memory), self.heads),
        }
    }

    /// `[B, T, D]` to `[B, T, D]`, or `[N, D]` of the positions `at` to the same; `mask` is of the
    /// memory's keys.
    pub fn forward(
        &self,
        x: &Tensor,
        memory: &KeyValue,
        mask: &Tensor,
        at: Option<&Positions>,
        pass: &Pass,
    ) -> Tensor {
        let query = self.query.forward(x);
        let query =
            split_heads(&at.map_or(query.shallow_clone(), |at| at.scatter(&query)), self.heads);
        let attended = attend(&query, &memory.key, &memory.value, mask, 0.0, pass);
        let attended = at.map_or(attended.shallow_clone(), |at| at.gather(&attended));
        let attended = self.output.forward(&attended);
        let x = self.norm.forward(&pass.dropout_add(&attended, x, self.dropout));
        match &self.feed_forward {
            Some(feed_forward) => feed_forward.forward(&x, self.dropout, pass),
            None => x,
        }
    }
}

impl FeedForward {
    fn forward(&self, x: &Tensor, dropout: f64, pass: &Pass) -> Tensor {
        let inner = self.down.forward(&self.up.forward(x).relu());
        self.norm.forward(&pass.dropout_add(&inner, x, dropout))
    }
}
