//! What the file of a network gives to the stacks of encoders and decoders: its embeddings and layers.

use std::fmt::Debug;

use tch::{Kind, Tensor};

use super::layers::attention::LayerCache;
use super::memory::{BertMemory, Encoded, LayerMemory};
use super::{Pass, Positions};

/// Token ids to hidden states.
pub trait Embeddings: Debug {
    /// Token ids `[B, T]`, the first at position `start`, to hidden states `[B, T, D]` of `kind`.
    fn forward(&self, ids: &Tensor, start: i64, kind: Kind, pass: &Pass) -> Tensor;

    /// Token ids `[B, T]` with their types `[B, T]`, to hidden states `[B, T, D]` of `kind`.
    ///
    /// # Panics
    /// If they are not a BERT's: others have no types.
    fn typed(&self, _ids: &Tensor, _types: &Tensor, _kind: Kind, _pass: &Pass) -> Tensor {
        panic!("only a BERT has token types")
    }
}

/// What an encoder layer gets in addition to its input.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// Added to the scores of keys: `[B, 1, 1, S]`.
    pub mask: &'a Tensor,
    /// The output of the BERT beside the encoder for the sentence.
    pub bert: Option<&'a BertMemory>,
    /// The positions that are wanted; all where there are none.
    pub at: Option<&'a Positions>,
    /// The pass.
    pub pass: &'a Pass<'a>,
}

/// A layer that reads.
pub trait EncoderLayer: Debug {
    /// `[B, S, D]` to `[B, S, D]`, or to `[N, D]` of the positions that are wanted.
    fn forward(&self, x: &Tensor, reading: Reading) -> Tensor;
}

/// What a decoder layer gets in addition to its input.
#[derive(Clone, Copy)]
pub struct Writing<'a> {
    /// Added to the scores of the target's keys: `[B, 1, 1, S]` for those that are not real, or
    /// `[1 or B, 1, T, S]` for those that a query may not see.
    pub mask: &'a Tensor,
    /// What is looked at.
    pub source: LayerSource<'a>,
    /// Added to the scores of the source's keys: `[B, 1, 1, S]`.
    pub source_mask: &'a Tensor,
    /// The positions that are wanted; all where there are none.
    pub at: Option<&'a Positions>,
    /// The pass.
    pub pass: &'a Pass<'a>,
}

/// What one layer of a decoder looks at.
#[derive(Clone, Copy)]
pub enum LayerSource<'a> {
    /// Its keys and values, which are used many times; none for a layer without cross-attention.
    Memory(Option<&'a LayerMemory>),
    /// The encoder's output, of which it makes its keys and values itself.
    Encoded(&'a Encoded),
}

impl Writing<'_> {
    /// The keys and values of a layer with cross-attention, which are made by `make` where they are not
    /// there yet.
    ///
    /// # Panics
    /// If the memory is another decoder's.
    pub fn memory(&self, make: impl FnOnce(&Encoded) -> LayerMemory) -> LayerMemory {
        match self.source {
            LayerSource::Memory(Some(memory)) => memory.shallow_clone(),
            LayerSource::Memory(None) => panic!("the memory is another decoder's"),
            LayerSource::Encoded(encoded) => make(encoded),
        }
    }
}

/// A layer that writes.
pub trait DecoderLayer: Debug {
    /// The encoder output as keys and values; none for a layer without cross-attention.
    fn memory(&self, encoded: &Encoded) -> Option<LayerMemory>;

    /// `[B, T, D]` to `[B, T, D]`, or to `[N, D]` of the positions that are wanted. With a `cache`, which
    /// grows by these tokens, they see its tokens too.
    fn forward(&self, x: &Tensor, cache: Option<&mut LayerCache>, writing: Writing) -> Tensor;
}
