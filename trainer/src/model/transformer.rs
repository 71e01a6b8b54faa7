//! The Transformer's own parts (Vaswani et al. 2017): embeddings and layers.
//!
//! Post-norm, as in the paper and in fairseq's `transformer`: each block is
//! `LN(x + dropout(block(x)))`, and no norm stands at the end of a stack. As in fairseq there is no
//! dropout on attention probabilities, and positions are half sines, half cosines.
//!
//! Shapes: B sentences, T tokens, D width.

use tandem_config::schema::transformer::{Positions as PositionsConfig, Transformer as Config};
use tch::{Kind, Tensor};

use super::bert_fused::BertFused;
use super::feed_forward::FeedForward;
use super::layer::Layer;
use super::layers::{DEFAULT_EPS, LayerNorm, Linear, Packed};
use super::parameters::Scope;
use super::pass::Pass;
use super::residual::{Order, Residual};
use super::self_attention::SelfAttention;

/// `dropout(√D · word + position)`, positions from 0.
#[derive(Debug)]
pub struct Embeddings {
    word: Tensor,     // [V, D]
    position: Tensor, // [positions, D]
    scale: f64,
    dropout: f64,
}

impl Embeddings {
    /// The embeddings below `scope`, e.g. `encoder.embeddings`.
    pub fn new(scope: &Scope, config: &Config) -> Self {
        let word = scope.get("word.weight");
        let position = match config.positions {
            PositionsConfig::Learned => scope.get("position.weight"),
            PositionsConfig::Sinusoidal => {
                sinusoidal(config.max_length, config.hidden).to_device(word.device())
            }
        };
        Self { word, position, scale: (config.hidden as f64).sqrt(), dropout: config.dropout }
    }

    /// Token ids `[B, T]`, the first at position `start`, to hidden states `[B, T, D]` of `kind`.
    pub fn forward(&self, ids: &Tensor, start: i64, kind: Kind, pass: &Pass) -> Tensor {
        let position = self.position.narrow(0, start, ids.size()[1]); // [T, D]
        let words = Tensor::embedding(&self.word, ids, -1, false, false) * self.scale; // [B, T, D]
        pass.dropout((words + position).to_kind(kind), self.dropout)
    }
}

/// `sin(p · f_i)` for the first half of the width and `cos(p · f_i)` for the second, with
/// frequencies falling from 1 to 1/10000: `[positions, D]`.
fn sinusoidal(positions: usize, width: usize) -> Tensor {
    let half = width / 2;
    let step = 10000f64.ln() / half.saturating_sub(1).max(1) as f64;
    let mut table = vec![0f32; positions * width];
    for (position, row) in table.chunks_mut(width).enumerate() {
        for i in 0..half {
            let angle = position as f64 * (-(i as f64) * step).exp();
            row[i] = angle.sin() as f32;
            row[half + i] = angle.cos() as f32;
        }
    }
    Tensor::from_slice(&table).view([positions as i64, width as i64])
}

/// An encoder's layer below `scope`, e.g. `encoder.layer.0`.
pub fn encoder_layer(scope: &Scope, config: &Config) -> Layer {
    let feed_forward = FeedForward::relu(&scope.enter("feed_forward"), config.dropout);
    let fused = config.bert_fused.as_ref();
    let fused = fused.map(|fused| BertFused::new(scope, fused, config.heads));
    let attention = SelfAttention { fused, ..decoder_layer(scope, config).attention };
    Layer { attention, feed_forward: Some(feed_forward) }
}

/// The self-attention of a decoder's layer below `scope`, e.g. `decoder.layer.0`; the rest of it is
/// its cross-attention's.
pub fn decoder_layer(scope: &Scope, config: &Config) -> Layer {
    let attention = scope.enter("self_attention");
    let norm = LayerNorm::new(&attention, "norm", DEFAULT_EPS);
    let attention = SelfAttention {
        query_key_value: Packed::new(&attention, &["query", "key", "value"]),
        output: Linear::new(&attention, "output"),
        fused: None,
        residual: Residual { norm, order: Order::Post, dropout: config.dropout },
        heads: config.heads as i64,
        dropout: 0.0,
    };
    Layer { attention, feed_forward: None }
}
