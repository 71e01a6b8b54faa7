//! The decoder: a stack of layers that writes, and its KV cache.
//!
//! With a causal mask each position sees itself and those before it. Padding stands behind all real
//! tokens, so that it is hidden from them by the causal mask alone.

use tch::{Kind, Tensor};

use super::layer::{DecoderLayer, Embeddings, LayerSource, Writing};
use super::layers::attention::{LayerCache, causal_mask, key_mask};
use super::memory::{Encoded, Memory, Source};
use super::{Block, Pass, Positions};

/// A stack of layers that writes.
#[derive(Debug)]
pub struct Decoder {
    embeddings: Box<dyn Embeddings>,
    layers: Vec<Box<dyn DecoderLayer>>,
    is_causal: bool,
    positions: usize,
    kind: Kind,
}

/// A causal decoder's keys and values of the tokens so far, for R rows.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    tokens: i64,
}

impl KvCache {
    /// The keys and values of these rows, in this order.
    pub fn select(&self, rows: &Tensor) -> Self {
        let layers = self.layers.iter().map(|layer| layer.select(rows)).collect();
        Self { layers, tokens: self.tokens }
    }
}

impl Decoder {
    /// The stack of these layers, over so many positions; computes in `kind`.
    pub fn new(
        embeddings: impl Embeddings + 'static,
        layers: Vec<Box<dyn DecoderLayer>>,
        is_causal: bool,
        positions: usize,
        kind: Kind,
    ) -> Self {
        Self { embeddings: Box::new(embeddings), layers, is_causal, positions, kind }
    }

    /// Number of positions: the longest translation in tokens.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// The memory as every layer's keys and values.
    pub fn memory(&self, encoded: &Encoded) -> Memory {
        Memory {
            layers: self.layers.iter().map(|layer| layer.memory(encoded)).collect(),
            mask: encoded.mask.shallow_clone(),
        }
    }

    /// Target ids `[B, T]`, which of them are real `[B, T]`, to hidden states `[N, D]` of the
    /// positions `at`.
    pub fn forward<'a>(
        &self,
        ids: &Tensor,
        is_real: &Tensor,
        source: impl Into<Source<'a>>,
        at: &Positions,
        pass: &Pass,
    ) -> Tensor {
        let hidden = self.embeddings.forward(ids, 0, self.kind, pass);
        let mask = match self.is_causal {
            true => causal_mask(ids.size()[1], self.kind, ids.device()),
            false => key_mask(is_real, self.kind),
        };
        self.layers(hidden, &mask, source.into(), None, Some(at), pass)
    }

    /// The cache of no tokens.
    pub fn empty_cache(&self) -> KvCache {
        let layers = self.layers.iter().map(|_| LayerCache::default()).collect();
        KvCache { layers, tokens: 0 }
    }

    /// The hidden states `[R, D]` of the next token of each row, `[R]`, without dropout. The `cache` grows
    /// by it.
    ///
    /// The memory's B sentences have `R / B` rows each, those of a sentence together.
    ///
    /// # Panics
    /// If the decoder is not causal: its earlier hidden states would change with each token.
    pub fn step(&self, ids: &Tensor, memory: &Memory, cache: &mut KvCache) -> Tensor {
        assert!(self.is_causal, "only a causal decoder writes token by token");
        let pass = Pass::eval();
        let ids = ids.unsqueeze(1);
        let hidden = self.embeddings.forward(&ids, cache.tokens, self.kind, &pass);
        cache.tokens += 1;
        let everything_seen = Tensor::zeros([1, 1, 1, cache.tokens], (self.kind, ids.device()));
        let layers = Some(cache.layers.as_mut_slice());
        self.layers(hidden, &everything_seen, memory.into(), layers, None, &pass).squeeze_dim(1)
    }

    fn layers(
        &self,
        mut hidden: Tensor,
        mask: &Tensor,
        source: Source,
        mut cache: Option<&mut [LayerCache]>,
        at: Option<&Positions>,
        pass: &Pass,
    ) -> Tensor {
        let (last, source_mask) = (self.layers.len() - 1, source.mask());
        for (i, layer) in self.layers.iter().enumerate() {
            pass.needs(Block::Decoder(i));
            let at = at.filter(|_| i == last);
            let source = match source {
                Source::Memory(memory) => LayerSource::Memory(memory.layers[i].as_ref()),
                Source::Encoded(encoded) => LayerSource::Encoded(encoded),
            };
            let cache = cache.as_mut().map(|layers| &mut layers[i]);
            hidden = layer.forward(&hidden, cache, Writing { mask, source, source_mask, at, pass });
        }
        hidden
    }
}
