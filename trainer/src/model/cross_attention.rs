//! A decoder's cross-attention: `LN(x + dropout(MultiHead(x, H_E, H_E)))`, perhaps with a
//! feed-forward block behind it.
//!
//! Behind a BERT's layer this is AB-Net's adapter (Guo et al. 2020, equation 6; the released code
//! adds the feed-forward block). Behind a Transformer's self-attention it is the rest of a decoder
//! layer (Vaswani et al. 2017), perhaps fused with a BERT. Inside a GPT-2's layer, whose norms come
//! first, it is `x + dropout(MultiHead(LN(x), H_E, H_E))`.

use tandem_config::schema::model::CrossAttention as Config;
use tandem_config::schema::transformer::Transformer;
use tch::Tensor;

use super::attention::KeyValue;
use super::bert_fused::BertFused;
use super::encoder::Encoded;
use super::feed_forward::FeedForward;
use super::layers::{DEFAULT_EPS, LayerNorm};
use super::memory_attention::MemoryAttention;
use super::parameters::Scope;
use super::pass::Pass;
use super::positions::Positions;
use super::residual::{Order, Residual};

/// One cross-attention.
#[derive(Debug)]
pub struct CrossAttention {
    attention: MemoryAttention,
    fused: Option<BertFused>,
    residual: Residual,
    feed_forward: Option<FeedForward>,
}

/// The keys and values of one layer.
#[derive(Debug)]
pub struct LayerMemory {
    encoder: KeyValue,
    /// Of the BERT that the layer is fused with, and the mask of its padding: `[B, 1, 1, 1 + S]`.
    bert: Option<(KeyValue, Tensor)>,
}

impl LayerMemory {
    /// The keys and values of these rows, in this order.
    pub fn select(&self, rows: &Tensor) -> Self {
        let bert = self.bert.as_ref();
        Self {
            encoder: self.encoder.select(rows),
            bert: bert.map(|(bert, mask)| (bert.select(rows), mask.index_select(0, rows))),
        }
    }
}

impl CrossAttention {
    /// The adapter of the layer below `scope`, e.g. `decoder.layer.0`.
    pub fn adapter(scope: &Scope, config: &Config) -> Self {
        let attention = scope.enter("cross_attention");
        let feed_forward = (config.feed_forward > 0)
            .then(|| FeedForward::relu(&scope.enter("feed_forward"), config.dropout));
        let norm = LayerNorm::new(&attention, "norm", DEFAULT_EPS);
        Self {
            attention: MemoryAttention::new(&attention, config.heads),
            fused: None,
            residual: Residual { norm, order: Order::Post, dropout: config.dropout },
            feed_forward,
        }
    }

    /// The adapter of a GPT-2's layer, below `scope`, e.g. `decoder.layer.0`, with the layer's own
    /// feed-forward block behind it.
    pub fn gpt2(scope: &Scope, config: &Config, feed_forward: FeedForward) -> Self {
        let attention = scope.enter("cross_attention");
        let norm = LayerNorm::new(&attention, "norm", DEFAULT_EPS);
        Self {
            attention: MemoryAttention::new(&attention, config.heads),
            fused: None,
            residual: Residual { norm, order: Order::Pre, dropout: config.dropout },
            feed_forward: Some(feed_forward),
        }
    }

    /// The rest of a Transformer's layer below `scope`, e.g. `decoder.layer.0`.
    pub fn transformer(scope: &Scope, config: &Transformer) -> Self {
        let attention = scope.enter("cross_attention");
        let fused = config.bert_fused.as_ref();
        let norm = LayerNorm::new(&attention, "norm", DEFAULT_EPS);
        Self {
            attention: MemoryAttention::new(&attention, config.heads),
            fused: fused.map(|fused| BertFused::new(scope, fused, config.heads)),
            residual: Residual { norm, order: Order::Post, dropout: config.dropout },
            feed_forward: Some(FeedForward::relu(&scope.enter("feed_forward"), config.dropout)),
        }
    }

    /// What the encoder made of the source, as keys and values.
    pub fn memory(&self, encoded: &Encoded) -> LayerMemory {
        let bert = self.fused.as_ref().zip(encoded.bert.as_ref());
        LayerMemory {
            encoder: self.attention.key_value(&encoded.memory),
            bert: bert.map(|(fused, bert)| {
                (fused.attention.key_value(&bert.hidden), bert.mask.shallow_clone())
            }),
        }
    }

    /// `[B, T, D]` to `[B, T, D]`, or `[N, D]` of the positions `at` to the same; `mask` is of the
    /// memory's keys.
    pub fn forward(
        &self,
        x: &Tensor,
        memory: &LayerMemory,
        mask: &Tensor,
        at: Option<&Positions>,
        pass: &Pass,
    ) -> Tensor {
        let input = self.residual.input(x);
        let attended = self.attention.forward(&input, &memory.encoder, mask, at, pass);
        let x = match (&self.fused, &memory.bert) {
            (Some(fused), Some((bert, mask))) => {
                let bert = fused.attention.forward(&input, bert, mask, at, pass);
                fused.add(x, &attended, &bert, &self.residual, pass)
            }
            _ => self.residual.forward(x, &attended, pass),
        };
        match &self.feed_forward {
            Some(feed_forward) => feed_forward.forward(&x, pass),
            None => x,
        }
    }
}
