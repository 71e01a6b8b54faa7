//! What encoders and decoders are stacks of: a BERT's embeddings and layers, or a Transformer's.

use tch::{Kind, Tensor};

use super::attention::Past;
use super::pass::Pass;
use super::positions::Positions;
use super::{bert, transformer};

/// Token ids to hidden states.
#[derive(Debug)]
pub enum Embeddings {
    /// A BERT's.
    Bert(bert::Embeddings),
    /// A Transformer's.
    Transformer(transformer::Embeddings),
}

impl Embeddings {
    /// Token ids `[B, T]`, the first at position `start`, to hidden states `[B, T, D]` of `kind`.
    pub fn forward(&self, ids: &Tensor, start: i64, kind: Kind, pass: &Pass) -> Tensor {
        match self {
            Self::Bert(embeddings) => embeddings.forward(ids, start, kind, pass),
            Self::Transformer(embeddings) => embeddings.forward(ids, start, kind, pass),
        }
    }
}

/// One layer without what is specific to reading or writing.
#[derive(Debug)]
pub enum Layer {
    /// A BERT's: self-attention and feed-forward.
    Bert(bert::Layer),
    /// A Transformer's: self-attention, and in an encoder feed-forward.
    Transformer(transformer::Layer),
}

impl Layer {
    /// `[B, T, D]` to `[B, T, D]`, or to `[N, D]` of the positions `at` alone.
    ///
    /// `mask` is added to the scores: `[B, 1, 1, S]` for keys that are not real, or
    /// `[1, 1, T, S]` for keys that a query may not see. With a `past`, which grows by these
    /// tokens, queries see its tokens too: S is their number and T.
    pub fn forward(
        &self,
        x: &Tensor,
        mask: &Tensor,
        past: Option<&mut Past>,
        at: Option<&Positions>,
        pass: &Pass,
    ) -> Tensor {
        match self {
            Self::Bert(layer) => layer.forward(x, mask, past, at, pass),
            Self::Transformer(layer) => layer.forward(x, mask, past, at, pass),
        }
    }
}
