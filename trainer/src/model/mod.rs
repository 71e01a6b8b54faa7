//! The networks. Knows no ranks, no files, and no YAML beyond its config.
//!
//! - [`networks`]: BERT, GPT-2 and the Transformer, a file each, which is read from top to bottom; the one
//!   place that builds a model out of them.
//! - [`encoder`] and [`decoder`]: the stacks of layers, of whatever network; length prediction, and the
//!   KV cache. [`layer`] is what a network's file gives them, [`memory`] what a decoder looks at.
//! - [`beside`]: a BERT that reads the source beside the encoder, and what uses it.
//! - [`seq2seq`]: both sides as a translation model. [`lm_head`]: from hidden states to words; [`ctc`]: to
//!   words and blanks.
//! - [`layers`]: what networks are made of: linear layers and norms, attention, adapters.
//! - [`parameters`]: the tensors. [`pass`]: one forward pass with its dropout masks. [`block`]: which
//!   weights a pass needs when.
//!
//! Shapes: B sentences, S source tokens, T target tokens, D width, H heads, V vocabulary.

pub mod beside;
pub mod block;
pub mod ctc;
pub mod decoder;
pub mod encoder;
pub mod layer;
pub mod layers;
pub mod lm_head;
pub mod memory;
pub mod networks;
pub mod parameters;
pub mod pass;
pub mod seq2seq;

pub use block::Block;
pub use decoder::Decoder;
pub use encoder::Encoder;
pub use layers::positions::Positions;
pub use lm_head::LmHead;
pub use memory::Encoded;
pub use parameters::Parameters;
pub use pass::Pass;
pub use seq2seq::{Batch, Seq2Seq};
