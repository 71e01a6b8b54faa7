//! What encoders and decoders are stacks of: a BERT's embeddings and layers, or a Transformer's.

use tch::{Kind, Tensor};

use super::feed_forward::FeedForward;
use super::pass::Pass;
use super::positions::Positions;
use super::self_attention::{BertMemory, Past, SelfAttention};
use super::{bert, gpt2, transformer};

/// Token ids to hidden states.
#[derive(Debug)]
pub enum Embeddings {
    /// A BERT's.
    Bert(bert::Embeddings),
    /// A Transformer's.
    Transformer(transformer::Embeddings),
    /// A GPT-2's.
    Gpt2(gpt2::Embeddings),
}

impl Embeddings {
    /// Token ids `[B, T]`, the first at position `start`, to hidden states `[B, T, D]` of `kind`.
    pub fn forward(&self, ids: &Tensor, start: i64, kind: Kind, pass: &Pass) -> Tensor {
        match self {
            Self::Bert(embeddings) => embeddings.forward(ids, start, kind, pass),
            Self::Transformer(embeddings) => embeddings.forward(ids, start, kind, pass),
            Self::Gpt2(embeddings) => embeddings.forward(ids, start, kind, pass),
        }
    }

    /// Token ids `[B, T]` with their types `[B, T]`, to hidden states `[B, T, D]` of `kind`.
    ///
    /// # Panics
    /// If they are not a BERT's: others have no types.
    pub fn typed(&self, ids: &Tensor, types: &Tensor, kind: Kind, pass: &Pass) -> Tensor {
        match self {
            Self::Bert(embeddings) => embeddings.typed(ids, types, kind, pass),
            Self::Transformer(_) | Self::Gpt2(_) => panic!("only a BERT has token types"),
        }
    }
}

/// One layer without what is specific to reading or writing.
#[derive(Debug)]
pub struct Layer {
    /// Looks at the other tokens.
    pub attention: SelfAttention,
    /// Absent where it comes behind something else, a cross-attention.
    pub feed_forward: Option<FeedForward>,
}

impl Layer {
    /// `[B, T, D]` to `[B, T, D]`, or to `[N, D]` of the positions `at` alone.
    ///
    /// `mask` is added to the scores: `[B, 1, 1, S]` for keys that are not real, or
    /// `[1, 1, T, S]` for keys that a query may not see. With a `past`, which grows by these
    /// tokens, queries see its tokens too: S is their number and T. A layer that is fused with a
    /// BERT looks at `bert`.
    pub fn forward(
        &self,
        x: &Tensor,
        mask: &Tensor,
        past: Option<&mut Past>,
        bert: Option<&BertMemory>,
        at: Option<&Positions>,
        pass: &Pass,
    ) -> Tensor {
        let x = self.attention.forward(x, mask, past, bert, at, pass);
        match &self.feed_forward {
            Some(feed_forward) => feed_forward.forward(&x, pass),
            None => x,
        }
    }
}
