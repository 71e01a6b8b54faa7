//! The decoder: a BERT without causal mask, with cross-attention adapters behind its layers.

use tandem_config::bert::BertConfig;
use tandem_config::model::CrossAttention as AdapterConfig;
use tch::{Device, Kind, Tensor};

use super::attention::key_mask;
use super::bert::{BertDropout, Embeddings, Layer};
use super::cross_attention::{CrossAttention, KeyValue};
use super::encoder::Encoded;
use super::parameters::Scope;
use super::pass::Pass;
use super::positions::Positions;

/// A BERT with cross-attention adapters.
#[derive(Debug)]
pub struct Decoder {
    embeddings: Embeddings,
    layers: Vec<(Layer, Option<CrossAttention>)>,
    kind: Kind,
}

/// Every layer's keys and values of the memory, and the mask of its padding.
#[derive(Debug)]
pub struct Memory {
    layers: Vec<Option<KeyValue>>,
    mask: Tensor, // [B, 1, 1, S]
}

impl Memory {
    /// Where its tensors lie.
    pub fn device(&self) -> Device {
        self.mask.device()
    }

    /// The memory of these sentences, in this order.
    pub fn select(&self, sentences: &Tensor) -> Self {
        let select = |layer: &Option<KeyValue>| layer.as_ref().map(|layer| layer.select(sentences));
        Self {
            layers: self.layers.iter().map(select).collect(),
            mask: self.mask.index_select(0, sentences),
        }
    }
}

impl Decoder {
    /// The decoder below `scope`; computes in `kind`.
    pub fn new(
        scope: &Scope,
        config: &BertConfig,
        adapters: &AdapterConfig,
        dropout: BertDropout,
        kind: Kind,
    ) -> Self {
        let bert = scope.enter("bert");
        let count = config.num_hidden_layers;
        let layer = |index: usize| {
            let adapter = adapters
                .layers
                .contains(index, count)
                .then(|| CrossAttention::new(&scope.enter(&format!("layer.{index}")), adapters));
            let scope = bert.enter(&format!("encoder.layer.{index}"));
            (Layer::new(&scope, config, dropout), adapter)
        };
        Self {
            embeddings: Embeddings::new(&bert.enter("embeddings"), config, dropout),
            layers: (0..count).map(layer).collect(),
            kind,
        }
    }

    /// The memory as every layer's keys and values.
    pub fn memory(&self, encoded: &Encoded) -> Memory {
        let key_value = |(_, adapter): &(Layer, Option<CrossAttention>)| {
            adapter.as_ref().map(|adapter| adapter.key_value(&encoded.memory))
        };
        Memory {
            layers: self.layers.iter().map(key_value).collect(),
            mask: encoded.mask.shallow_clone(),
        }
    }

    /// Target ids `[B, T]`, which of them are real `[B, T]`, to hidden states `[N, D]` of the
    /// positions `at`.
    pub fn forward(
        &self,
        ids: &Tensor,
        is_real: &Tensor,
        memory: &Memory,
        at: &Positions,
        pass: &Pass,
    ) -> Tensor {
        let mut hidden = self.embeddings.forward(ids, self.kind, pass);
        let mask = key_mask(is_real, self.kind);
        let last = self.layers.len() - 1;
        for (i, ((layer, adapter), key_value)) in self.layers.iter().zip(&memory.layers).enumerate()
        {
            let at = (i == last).then_some(at);
            hidden = layer.forward(&hidden, &mask, at, pass);
            if let (Some(adapter), Some(key_value)) = (adapter, key_value) {
                hidden = adapter.forward(&hidden, key_value, &memory.mask, at, pass);
            }
        }
        hidden
    }
}
