//! The decoder: a stack of layers that writes, and its KV cache.
//!
//! With a causal mask each position sees itself and those before it. Padding stands behind all real
//! tokens, so that it is hidden from them by the causal mask alone.

use tch::{Kind, Tensor};

use super::layer::{DecoderLayer, Embeddings, LayerSource, Writing};
use super::layers::attention::{LayerCache, causal_mask, hiding, key_mask};
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

/// A causal decoder's keys and values of all tokens so far of B sentences, W new ones of each after a pass.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    passes: i64,
}

impl KvCache {
    /// The keys and values of these sentences, in this order.
    pub fn select(&self, sentences: &Tensor) -> Self {
        let layers = self.layers.iter().map(|layer| layer.select(sentences)).collect();
        Self { layers, passes: self.passes }
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
        KvCache { layers, passes: 0 }
    }

    /// The hidden states `[B, W, D]` of each sentence's W next tokens `[B, W]`, without dropout. They stand
    /// at one position, each behind others, as a tree's leaves do: booleans `[B, W, S]` say which of the S
    /// tokens of the `cache`, which grows by these W, each of them sees.
    ///
    /// # Panics
    /// If the decoder is not causal: its earlier hidden states would change with each token.
    pub fn step(
        &self,
        ids: &Tensor,
        is_seen: &Tensor,
        memory: &Memory,
        cache: &mut KvCache,
    ) -> Tensor {
        assert!(self.is_causal, "only a causal decoder writes token by token");
        let pass = Pass::eval();
        let (batch, width) = ids.size2().expect("ids are [B, W]");
        let rows = ids.view([batch * width, 1]);
        let hidden = self.embeddings.forward(&rows, cache.passes, self.kind, &pass);
        let hidden = hidden.view([batch, width, -1]);
        cache.passes += 1;
        let layers = Some(cache.layers.as_mut_slice());
        self.layers(hidden, &hiding(is_seen, self.kind), memory.into(), layers, None, &pass)
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
