//! The Transformer (Vaswani et al. 2017), perhaps with an attention over a BERT beside the encoder in every
//! layer (BERT-Fused, Zhu et al. 2020).
//!
//! Post-norm, as in the paper and in fairseq's `transformer`: each block is
//! `LN(x + dropout(block(x)))`, and no norm stands at the end of a stack. As in fairseq there is no
//! dropout on attention probabilities, and positions are half sines, half cosines:
//! <https://github.com/facebookresearch/fairseq/blob/v0.12.2/fairseq/modules/transformer_layer.py>,
//! <https://github.com/facebookresearch/fairseq/blob/v0.12.2/fairseq/modules/sinusoidal_positional_embedding.py>.
//!
//! Shapes: B sentences, T tokens, D width.

use tandem_config::schema::transformer::{Positions as PositionsConfig, Transformer as Config};
use tch::{Kind, Tensor};

use crate::model::beside::BertAttention;
use crate::model::layer::{DecoderLayer, Embeddings, EncoderLayer, Reading, Writing};
use crate::model::layers::attention::{CrossAttention, LayerCache, SelfAttention};
use crate::model::layers::linear::{DEFAULT_EPS, FeedForward, LayerNorm, Linear, Packed};
use crate::model::memory::{BertMemory, Encoded, LayerMemory};
use crate::model::parameters::Scope;
use crate::model::{Decoder, Encoder, LmHead, Pass, Positions};

/// The Transformer below `scope` that reads. Computes in `kind`.
pub fn encoder(scope: &Scope, config: &Config, kind: Kind) -> Encoder {
    let layer = |index: usize| -> Box<dyn EncoderLayer> {
        Box::new(ReadingLayer::new(&scope.enter(&format!("layer.{index}")), config))
    };
    let layers = (0..config.layers).map(layer).collect();
    Encoder::new(scope, WordsAndPositions::new(scope, config), layers, kind)
}

/// The Transformer below `scope` that writes. Computes in `kind`.
pub fn decoder(scope: &Scope, config: &Config, is_causal: bool, kind: Kind) -> Decoder {
    let layer = |index: usize| -> Box<dyn DecoderLayer> {
        Box::new(WritingLayer::new(&scope.enter(&format!("layer.{index}")), config))
    };
    let layers = (0..config.layers).map(layer).collect();
    let embeddings = WordsAndPositions::new(scope, config);
    Decoder::new(embeddings, layers, is_causal, config.max_length, kind)
}

/// `dropout(√D · word + position)`, positions from 0.
#[derive(Debug)]
struct WordsAndPositions {
    word: Tensor,     // [V, D]
    position: Tensor, // [positions, D]
    scale: f64,
    dropout: f64,
}

impl WordsAndPositions {
    fn new(scope: &Scope, config: &Config) -> Self {
        let word = scope.get("embeddings.word.weight");
        let position = match config.positions {
            PositionsConfig::Learned => scope.get("embeddings.position.weight"),
            PositionsConfig::Sinusoidal => {
                sinusoidal(config.max_length, config.hidden).to_device(word.device())
            }
        };
        Self { word, position, scale: (config.hidden as f64).sqrt(), dropout: config.dropout }
    }
}

impl Embeddings for WordsAndPositions {
    fn forward(&self, ids: &Tensor, start: i64, kind: Kind, pass: &Pass) -> Tensor {
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

/// The self-attention of the layer below `scope`, e.g. `encoder.layer.0`, and the norm behind it.
fn self_attention(scope: &Scope, config: &Config) -> (SelfAttention, LayerNorm) {
    let scope = scope.enter("self_attention");
    let attention = SelfAttention {
        query_key_value: Packed::new(&scope, &["query", "key", "value"]),
        output: Linear::new(&scope, "output"),
        heads: config.heads as i64,
        dropout: 0.0,
    };
    (attention, LayerNorm::new(&scope, "norm", DEFAULT_EPS))
}

fn bert_attention(scope: &Scope, config: &Config) -> Option<BertAttention> {
    config.bert_fused.as_ref().map(|fused| BertAttention::new(scope, fused, config.heads))
}

/// An encoder layer: self-attention, attention over the BERT in parallel, and a feed-forward block.
#[derive(Debug)]
struct ReadingLayer {
    attention: SelfAttention,
    bert_attention: Option<BertAttention>,
    norm: LayerNorm,
    feed_forward: FeedForward,
    dropout: f64,
}

impl ReadingLayer {
    fn new(scope: &Scope, config: &Config) -> Self {
        let (attention, norm) = self_attention(scope, config);
        Self {
            attention,
            bert_attention: bert_attention(scope, config),
            norm,
            feed_forward: FeedForward::new(&scope.enter("feed_forward"), config.dropout),
            dropout: config.dropout,
        }
    }
}

impl EncoderLayer for ReadingLayer {
    fn forward(&self, x: &Tensor, Reading { mask, bert, at, pass }: Reading) -> Tensor {
        let attended = self.attention.forward(x, mask, None, at, pass);
        let x = Positions::gathered(at, x);
        let x = match (&self.bert_attention, bert) {
            (Some(attention), Some(BertMemory { hidden, mask })) => {
                let bert = attention.key_value(hidden);
                let norm = (&self.norm, self.dropout);
                attention.add(&x, &attended, (&bert, mask), norm, at, pass)
            }
            (Some(_), None) => panic!("a fused layer is given what its BERT made of the sentence"),
            (None, _) => self.norm.forward(&pass.dropout_add(&attended, &x, self.dropout)),
        };
        self.feed_forward.forward(&x, pass)
    }
}

/// A decoder layer: self-attention, cross-attention, attention over the BERT in parallel, and a feed-forward
/// block.
#[derive(Debug)]
struct WritingLayer {
    attention: SelfAttention,
    norm: LayerNorm,
    cross_attention: CrossAttention,
    bert_attention: Option<BertAttention>,
    cross_norm: LayerNorm,
    feed_forward: FeedForward,
    dropout: f64,
}

impl WritingLayer {
    fn new(scope: &Scope, config: &Config) -> Self {
        let (attention, norm) = self_attention(scope, config);
        let cross_attention = scope.enter("cross_attention");
        Self {
            attention,
            norm,
            cross_attention: CrossAttention::new(&cross_attention, config.heads),
            bert_attention: bert_attention(scope, config),
            cross_norm: LayerNorm::new(&cross_attention, "norm", DEFAULT_EPS),
            feed_forward: FeedForward::new(&scope.enter("feed_forward"), config.dropout),
            dropout: config.dropout,
        }
    }

    fn key_value(&self, encoded: &Encoded) -> LayerMemory {
        let bert = self.bert_attention.as_ref().zip(encoded.bert.as_ref());
        LayerMemory {
            encoder: self.cross_attention.key_value(&encoded.memory),
            bert: bert.map(|(attention, bert)| {
                (attention.key_value(&bert.hidden), bert.mask.shallow_clone())
            }),
        }
    }
}

impl DecoderLayer for WritingLayer {
    fn memory(&self, encoded: &Encoded) -> Option<LayerMemory> {
        Some(self.key_value(encoded))
    }

    fn forward(&self, x: &Tensor, cache: Option<&mut LayerCache>, writing: Writing) -> Tensor {
        let Writing { mask, source_mask, at, pass, .. } = writing;
        let attended = self.attention.forward(x, mask, cache, at, pass);
        let x = Positions::gathered(at, x);
        let x = self.norm.forward(&pass.dropout_add(&attended, &x, self.dropout));

        let memory = writing.memory(|encoded| self.key_value(encoded));
        let attended = self.cross_attention.forward(&x, &memory.encoder, source_mask, at, pass);
        let x = match (&self.bert_attention, &memory.bert) {
            (Some(attention), Some((bert, mask))) => {
                let norm = (&self.cross_norm, self.dropout);
                attention.add(&x, &attended, (bert, mask), norm, at, pass)
            }
            (Some(_), None) => panic!("a fused layer is given what its BERT made of the sentence"),
            (None, _) => self.cross_norm.forward(&pass.dropout_add(&attended, &x, self.dropout)),
        };
        self.feed_forward.forward(&x, pass)
    }
}

/// The output layer below `scope`, e.g. `decoder`: the word embeddings.
pub fn head(scope: &Scope) -> LmHead {
    LmHead::new(scope.get("embeddings.word.weight"), None, None)
}
