//! What an encoder makes of a batch, and what a decoder looks at.

use tch::{Device, Tensor};

use super::layers::attention::KeyValue;

/// What the encoder makes of a batch.
#[derive(Debug)]
pub struct Encoded {
    /// The hidden states of the source tokens, `H_E`: `[B, S, D]`.
    pub memory: Tensor,
    /// The additive mask of padded source tokens: `[B, 1, 1, S]`.
    pub mask: Tensor,
    /// The output of the BERT beside the encoder for them.
    pub bert: Option<BertMemory>,
    /// Log-probabilities of the target's length in tokens: `[B, classes]`, f32.
    pub length_log_probs: Option<Tensor>,
}

/// The output of the BERT beside an encoder for the sentences.
#[derive(Debug)]
pub struct BertMemory {
    /// Its last hidden states: `[B, 1 + S, E]`, the first of `[CLS]`, or `[B, S, E]` without.
    pub hidden: Tensor,
    /// The additive mask of its padding: `[B, 1, 1, 1 + S]` or `[B, 1, 1, S]`.
    pub mask: Tensor,
}

/// The keys and values of one layer's cross-attention.
#[derive(Debug)]
pub struct LayerMemory {
    /// Of the encoder's output.
    pub encoder: KeyValue,
    /// Of the BERT beside the encoder, where the layer looks at it, and the mask of its padding:
    /// `[B, 1, 1, 1 + S]`.
    pub bert: Option<(KeyValue, Tensor)>,
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

    /// The same tensors.
    pub fn shallow_clone(&self) -> Self {
        let bert = self.bert.as_ref();
        Self {
            encoder: self.encoder.shallow_clone(),
            bert: bert.map(|(bert, mask)| (bert.shallow_clone(), mask.shallow_clone())),
        }
    }
}

/// Every layer's keys and values of the source, and the mask of its padding.
#[derive(Debug)]
pub struct Memory {
    pub(super) layers: Vec<Option<LayerMemory>>,
    pub(super) mask: Tensor, // [B, 1, 1, S]
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
    /// The additive mask of padded source tokens: `[B, 1, 1, S]`.
    pub fn mask(self) -> &'a Tensor {
        match self {
            Self::Memory(memory) => &memory.mask,
            Self::Encoded(encoded) => &encoded.mask,
        }
    }
}
