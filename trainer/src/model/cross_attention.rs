//! A decoder's cross-attention: `LN(x + dropout(MultiHead(x, H_E, H_E)))`, perhaps with a
//! feed-forward block behind it.
//!
//! Behind a BERT's layer this is AB-Net's adapter (Guo et al. 2020, equation 6; the released code
//! adds the feed-forward block). Behind a Transformer's self-attention it is the rest of a decoder
//! layer (Vaswani et al. 2017). Shapes: E is the encoder's width.

use tandem_config::model::CrossAttention as Config;
use tch::Tensor;

use super::attention::{KeyValue, attend, split_heads};
use super::feed_forward::FeedForward;
use super::layers::{DEFAULT_EPS, LayerNorm, Linear};
use super::parameters::Scope;
use super::pass::Pass;
use super::positions::Positions;
use super::residual::Residual;

/// One cross-attention.
#[derive(Debug)]
pub struct CrossAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    residual: Residual,
    feed_forward: Option<FeedForward>,
    heads: i64,
}

impl CrossAttention {
    /// The cross-attention of the layer below `scope`, e.g. `decoder.layer.0`.
    pub fn new(scope: &Scope, config: &Config) -> Self {
        let attention = scope.enter("cross_attention");
        let feed_forward = (config.feed_forward > 0)
            .then(|| FeedForward::relu(&scope.enter("feed_forward"), config.dropout));
        Self {
            query: Linear::new(&attention, "query"),
            key: Linear::new(&attention, "key"),
            value: Linear::new(&attention, "value"),
            output: Linear::new(&attention, "output"),
            residual: Residual {
                norm: LayerNorm::new(&attention, "norm", DEFAULT_EPS),
                dropout: config.dropout,
            },
            feed_forward,
            heads: config.heads as i64,
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
        let x = self.residual.forward(x, &attended, pass);
        match &self.feed_forward {
            Some(feed_forward) => feed_forward.forward(&x, pass),
            None => x,
        }
    }
}
