//! The model: BERTs and GPT-2s with adapters, Transformers, and what is made of them. Knows no ranks, no files, no YAML beyond its config.
//!
//! Shapes: B sentences, S source tokens, T target tokens, D width, H heads, V vocabulary.

pub mod ab_net;
pub mod adapter;
pub mod attention;
pub mod bert;
pub mod bert_fused;
pub mod beside;
pub mod block;
pub mod cross_attention;
pub mod decoder;
pub mod encoder;
pub mod feed_forward;
pub mod gpt2;
pub mod layer;
pub mod layers;
pub mod lm_head;
pub mod memory_attention;
pub mod parameters;
pub mod pass;
pub mod positions;
pub mod residual;
pub mod self_attention;
pub mod seq2seq;
pub mod switch;
pub mod transformer;

pub use ab_net::AbNetConfig;
pub use block::Block;
pub use decoder::Decoder;
pub use encoder::{Encoded, Encoder};
pub use lm_head::LmHead;
pub use parameters::Parameters;
pub use pass::Pass;
pub use positions::Positions;
pub use seq2seq::{Batch, Seq2Seq};
