//! The decoder: a BERT, a Transformer or a GPT-2, with cross-attention behind or inside its layers.
//!
//! With a causal mask each position sees itself and those before it. Padding stands behind all real
//! tokens, so that it is hidden from them by the causal mask alone.

use tandem_config::pretrained::bert::BertConfig;
use tandem_config::pretrained::gpt2::Gpt2Config;
use tandem_config::schema::model::CrossAttention as CrossAttentionConfig;
use tandem_config::schema::transformer::Transformer;
use tch::{Device, Kind, Tensor};

use super::attention::{causal_mask, key_mask};
use super::bert::{self, BertDropout};
use super::block::Block;
use super::cross_attention::{CrossAttention, LayerMemory};
use super::encoder::Encoded;
use super::gpt2::{self, Gpt2Dropout};
use super::layer::{Embeddings, Layer};
use super::parameters::Scope;
use super::pass::Pass;
use super::positions::Positions;
use super::self_attention::Past;
use super::transformer;

/// A stack of layers that writes.
#[derive(Debug)]
pub struct Decoder {
    embeddings: Embeddings,
    layers: Vec<(Layer, Option<CrossAttention>)>,
    causal: bool,
    kind: Kind,
}

/// Every layer's keys and values of the memory, and the mask of its padding.
#[derive(Debug)]
pub struct Memory {
    layers: Vec<Option<LayerMemory>>,
    mask: Tensor, // [B, 1, 1, S]
}

impl Memory {
    /// Where its tensors lie.
    pub fn device(&self) -> Device {
        self.mask.device()
    }

    /// The memory of these sentences, in this order.
    pub fn select(&self, sentences: &Tensor) -> Self {
        let select =
            |layer: &Option<LayerMemory>| layer.as_ref().map(|layer| layer.select(sentences));
        Self {
            layers: self.layers.iter().map(select).collect(),
            mask: self.mask.index_select(0, sentences),
        }
    }
}

/// What a decoder looks at: a memory that is used many times, or the encoder's output, of which each
/// layer makes its keys and values when its turn comes.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// Every layer's keys and values.
    Memory(&'a Memory),
    /// The encoder's output.
    Encoded(&'a Encoded),
}

impl<'a> From<&'a Memory> for Source<'a> {
    fn from(memory: &'a Memory) -> Self {
        Self::Memory(memory)
    }
}

impl<'a> From<&'a Encoded> for Source<'a> {
    fn from(encoded: &'a Encoded) -> Self {
        Self::Encoded(encoded)
    }
}

impl<'a> Source<'a> {
    fn mask(self) -> &'a Tensor {
        match self {
            Self::Memory(memory) => &memory.mask,
            Self::Encoded(encoded) => &encoded.mask,
        }
    }
}

/// What a causal decoder remembers of the tokens that it has written, for R rows.
#[derive(Debug)]
pub struct Written {
    layers: Vec<Past>,
    tokens: i64,
}

impl Written {
    /// What is remembered of these rows, in this order.
    pub fn select(&self, rows: &Tensor) -> Self {
        let layers = self.layers.iter().map(|past| past.select(rows)).collect();
        Self { layers, tokens: self.tokens }
    }
}

impl Decoder {
    /// The BERT below `scope`, with cross-attention behind some layers; computes in `kind`.
    pub fn bert(
        scope: &Scope,
        config: &BertConfig,
        adapters: Option<&CrossAttentionConfig>,
        dropout: BertDropout,
        causal: bool,
        kind: Kind,
    ) -> Self {
        let bert = scope.enter("bert");
        let count = config.num_hidden_layers;
        let layer = |index: usize| {
            let adapter = adapters.filter(|adapters| adapters.layers.contains(index, count)).map(
                |adapters| {
                    CrossAttention::adapter(&scope.enter(&format!("layer.{index}")), adapters)
                },
            );
            let scope = bert.enter(&format!("encoder.layer.{index}"));
            (bert::layer(&scope, config, dropout), adapter)
        };
        let embeddings = bert::Embeddings::new(&bert.enter("embeddings"), config, dropout);
        let layers = (0..count).map(layer).collect();
        Self { embeddings: Embeddings::Bert(embeddings), layers, causal, kind }
    }

    /// The Transformer below `scope`; computes in `kind`.
    pub fn transformer(scope: &Scope, config: &Transformer, causal: bool, kind: Kind) -> Self {
        let layer = |index: usize| {
            let scope = scope.enter(&format!("layer.{index}"));
            let layer = transformer::decoder_layer(&scope, config);
            (layer, Some(CrossAttention::transformer(&scope, config)))
        };
        let embeddings = transformer::Embeddings::new(&scope.enter("embeddings"), config);
        let layers = (0..config.layers).map(layer).collect();
        Self { embeddings: Embeddings::Transformer(embeddings), layers, causal, kind }
    }

    /// The GPT-2 below `scope`, with cross-attention inside some layers; computes in `kind`.
    pub fn gpt2(
        scope: &Scope,
        config: &Gpt2Config,
        adapters: Option<&CrossAttentionConfig>,
        dropout: Gpt2Dropout,
        kind: Kind,
    ) -> Self {
        let gpt2 = scope.enter("transformer");
        let count = config.n_layer;
        let layer = |index: usize| {
            let (attention, feed_forward) =
                gpt2::layer(&gpt2.enter(&format!("h.{index}")), config, dropout);
            match adapters.filter(|adapters| adapters.layers.contains(index, count)) {
                Some(adapters) => {
                    let scope = scope.enter(&format!("layer.{index}"));
                    let adapter = CrossAttention::gpt2(&scope, adapters, feed_forward);
                    (Layer { attention, feed_forward: None }, Some(adapter))
                }
                None => (Layer { attention, feed_forward: Some(feed_forward) }, None),
            }
        };
        let embeddings = Embeddings::Gpt2(gpt2::Embeddings::new(&gpt2, dropout));
        Self { embeddings, layers: (0..count).map(layer).collect(), causal: true, kind }
    }

    /// The memory as every layer's keys and values.
    pub fn memory(&self, encoded: &Encoded) -> Memory {
        let memory = |(_, adapter): &(Layer, Option<CrossAttention>)| {
            adapter.as_ref().map(|adapter| adapter.memory(encoded))
        };
        Memory {
            layers: self.layers.iter().map(memory).collect(),
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
        let mask = match self.causal {
            true => causal_mask(ids.size()[1], self.kind, ids.device()),
            false => key_mask(is_real, self.kind),
        };
        self.layers(hidden, &mask, source.into(), None, Some(at), pass)
    }

    /// Nothing written yet.
    pub fn start(&self) -> Written {
        let layers = self.layers.iter().map(|_| Past::default()).collect();
        Written { layers, tokens: 0 }
    }

    /// The hidden states `[R, D]` of the next token of each row, `[R]`, without dropout.
    ///
    /// The memory's B sentences have `R / B` rows each, those of a sentence together.
    ///
    /// # Panics
    /// If the decoder is not causal: its earlier hidden states would change with each token.
    pub fn step(&self, ids: &Tensor, memory: &Memory, written: &mut Written) -> Tensor {
        assert!(self.causal, "only a causal decoder writes token by token");
        let pass = Pass::eval();
        let ids = ids.unsqueeze(1);
        let hidden = self.embeddings.forward(&ids, written.tokens, self.kind, &pass);
        written.tokens += 1;
        let everything_seen = Tensor::zeros([1, 1, 1, written.tokens], (self.kind, ids.device()));
        let past = Some(written.layers.as_mut_slice());
        self.layers(hidden, &everything_seen, memory.into(), past, None, &pass).squeeze_dim(1)
    }

    fn layers(
        &self,
        mut hidden: Tensor,
        mask: &Tensor,
        source: Source,
        mut past: Option<&mut [Past]>,
        at: Option<&Positions>,
        pass: &Pass,
    ) -> Tensor {
        let (last, memory_mask) = (self.layers.len() - 1, source.mask());
        for (i, (layer, adapter)) in self.layers.iter().enumerate() {
            pass.needs(Block::Decoder(i));
            let at = at.filter(|_| i == last);
            let past = past.as_mut().map(|past| &mut past[i]);
            hidden = layer.forward(&hidden, mask, past, None, at, pass);
            let Some(adapter) = adapter else { continue };
            let made;
            let memory = match source {
                Source::Memory(memory) => memory.layers[i].as_ref(),
                Source::Encoded(encoded) => {
                    made = adapter.memory(encoded);
                    Some(&made)
                }
            };
            let Some(memory) = memory else { continue };
            let shape = hidden.size(); // [R, T, D], or [N, D] at these positions
            let rows = match at {
                Some(_) => hidden,
                // A sentence's rows look at its memory side by side, as if they were one.
                None => hidden.view([memory_mask.size()[0], -1, shape[2]]),
            };
            let rows = adapter.forward(&rows, memory, memory_mask, at, pass);
            hidden = rows.view(shape.as_slice());
        }
        hidden
    }
}
