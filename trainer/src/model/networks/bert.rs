//! BERT (Devlin et al. 2019), by Hugging Face's names, with AB-Net's adapters (Guo et al. 2020).
//!
//! It mirrors `BertForMaskedLM`, class by class:
//! <https://github.com/huggingface/transformers/blob/v4.57.1/src/transformers/models/bert/modeling_bert.py>.
//! RoBERTa and XLM-R are the same but for where positions begin.
//!
//! Shapes: B sentences, T tokens, D width.

use tandem_config::pretrained::bert::BertConfig;
use tandem_config::schema::model::{
    CrossAttention as Adapters, EncoderAdapters, PretrainedDecoder,
};
use tch::{Kind, Tensor};

use crate::model::layer::{DecoderLayer, Embeddings, EncoderLayer, Reading, Writing};
use crate::model::layers::adapter::Adapter;
use crate::model::layers::attention::{CrossAttention, LayerCache, SelfAttention};
use crate::model::layers::linear::{DEFAULT_EPS, FeedForward, LayerNorm, Linear, Packed};
use crate::model::lm_head::Transform;
use crate::model::memory::{Encoded, LayerMemory};
use crate::model::parameters::Scope;
use crate::model::{Decoder, Encoder, LmHead, Pass, Positions};

/// The BERT below `scope` that reads, with adapters behind some layers; `dropout` as config.json says if
/// it is none. Computes in `kind`.
pub fn encoder(
    scope: &Scope,
    config: &BertConfig,
    adapters: Option<&EncoderAdapters>,
    dropout: Option<f64>,
    kind: Kind,
) -> Encoder {
    let dropout = Dropout::new(config, dropout);
    let layer = |index: usize| -> Box<dyn EncoderLayer> {
        let chosen =
            adapters.filter(|all| all.layers.contains(index, config.num_hidden_layers)).is_some();
        Box::new(AdaptedLayer {
            layer: BertLayer::new(scope, index, config, dropout),
            adapter: chosen.then(|| {
                let scope = scope.enter(&format!("layer.{index}.adapter"));
                Adapter::new(&scope, config.layer_norm_eps)
            }),
        })
    };
    let layers = (0..config.num_hidden_layers).map(layer).collect();
    Encoder::new(scope, BertEmbeddings::new(scope, config, dropout), layers, kind)
}

/// The BERT below `scope` that writes, with cross-attention behind some layers. Computes in `kind`.
pub fn decoder(
    scope: &Scope,
    config: &BertConfig,
    settings: &PretrainedDecoder,
    is_causal: bool,
    kind: Kind,
) -> Decoder {
    let dropout = Dropout::new(config, settings.dropout);
    let layer = |index: usize| -> Box<dyn DecoderLayer> {
        let adapters = settings.cross_attention.as_ref();
        let chosen = adapters.filter(|all| all.layers.contains(index, config.num_hidden_layers));
        Box::new(WritingLayer {
            layer: BertLayer::new(scope, index, config, dropout),
            adapter: chosen.map(|adapters| {
                CrossAttentionAdapter::new(&scope.enter(&format!("layer.{index}")), adapters)
            }),
        })
    };
    let layers = (0..config.num_hidden_layers).map(layer).collect();
    let embeddings = BertEmbeddings::new(scope, config, dropout);
    Decoder::new(embeddings, layers, is_causal, config.positions(), kind)
}

/// Dropout inside a BERT.
#[derive(Debug, Clone, Copy)]
struct Dropout {
    /// On embeddings and on the output of each block.
    hidden: f64,
    /// On attention probabilities.
    attention: f64,
}

impl Dropout {
    /// What config.json says, or one `value` for both.
    fn new(config: &BertConfig, value: Option<f64>) -> Self {
        Self {
            hidden: value.unwrap_or(config.hidden_dropout_prob),
            attention: value.unwrap_or(config.attention_probs_dropout_prob),
        }
    }
}

/// `BertEmbeddings`: words, positions and token types, summed and normed.
#[derive(Debug)]
struct BertEmbeddings {
    word: Tensor,       // [V, D]
    position: Tensor,   // [positions, D]
    token_type: Tensor, // [types, D]
    first: i64,
    norm: LayerNorm,
    dropout: f64,
}

impl BertEmbeddings {
    fn new(scope: &Scope, config: &BertConfig, dropout: Dropout) -> Self {
        let scope = scope.enter("bert.embeddings");
        Self {
            word: scope.get("word_embeddings.weight"),
            position: scope.get("position_embeddings.weight"),
            token_type: scope.get("token_type_embeddings.weight"),
            first: config.first_position as i64,
            norm: LayerNorm::new(&scope, "LayerNorm", config.layer_norm_eps),
            dropout: dropout.hidden,
        }
    }

    /// `[T, D]` for ids `[B, T]`.
    fn positions(&self, start: i64, ids: &Tensor, kind: Kind) -> Tensor {
        self.position.narrow(0, self.first + start, ids.size()[1]).to_kind(kind)
    }

    fn sum(&self, ids: &Tensor, fixed: Tensor, kind: Kind, pass: &Pass) -> Tensor {
        let words = Tensor::embedding(&self.word, ids, -1, false, false).to_kind(kind); // [B, T, D]
        pass.dropout(self.norm.forward(&(words + fixed)), self.dropout)
    }
}

impl Embeddings for BertEmbeddings {
    /// All tokens are of type 0.
    fn forward(&self, ids: &Tensor, start: i64, kind: Kind, pass: &Pass) -> Tensor {
        let position = self.positions(start, ids, kind);
        let fixed = position + self.token_type.select(0, 0).to_kind(kind);
        self.sum(ids, fixed, kind, pass)
    }

    fn typed(&self, ids: &Tensor, types: &Tensor, kind: Kind, pass: &Pass) -> Tensor {
        let position = self.positions(0, ids, kind);
        let types = Tensor::embedding(&self.token_type, types, -1, false, false).to_kind(kind);
        self.sum(ids, position + types, kind, pass)
    }
}

/// `BertLayer`: self-attention and a feed-forward block, each `LN(x + dropout(block(x)))`.
#[derive(Debug)]
struct BertLayer {
    attention: SelfAttention,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    norm: LayerNorm,
    dropout: f64,
}

impl BertLayer {
    fn new(scope: &Scope, index: usize, config: &BertConfig, dropout: Dropout) -> Self {
        let scope = scope.enter(&format!("bert.encoder.layer.{index}"));
        let attention = scope.enter("attention");
        let eps = config.layer_norm_eps;
        Self {
            attention: SelfAttention {
                query_key_value: Packed::new(&attention.enter("self"), &["query", "key", "value"]),
                output: Linear::new(&attention, "output.dense"),
                heads: config.num_attention_heads as i64,
                dropout: dropout.attention,
            },
            attention_norm: LayerNorm::new(&attention, "output.LayerNorm", eps),
            up: Linear::new(&scope, "intermediate.dense"),
            down: Linear::new(&scope, "output.dense"),
            norm: LayerNorm::new(&scope, "output.LayerNorm", eps),
            dropout: dropout.hidden,
        }
    }

    /// As [`SelfAttention::forward`].
    fn forward(
        &self,
        x: &Tensor,
        mask: &Tensor,
        cache: Option<&mut LayerCache>,
        at: Option<&Positions>,
        pass: &Pass,
    ) -> Tensor {
        // BertSelfAttention and BertSelfOutput
        let attended = self.attention.forward(x, mask, cache, at, pass);
        let x = Positions::gathered(at, x);
        let x = self.attention_norm.forward(&pass.dropout_add(&attended, &x, self.dropout));
        // BertIntermediate and BertOutput
        let inner = self.up.forward(&x).gelu("none");
        self.norm.forward(&pass.dropout_add(&self.down.forward(&inner), &x, self.dropout))
    }
}

/// A layer that reads, perhaps with an adapter behind it.
#[derive(Debug)]
struct AdaptedLayer {
    layer: BertLayer,
    adapter: Option<Adapter>,
}

impl EncoderLayer for AdaptedLayer {
    fn forward(&self, x: &Tensor, Reading { mask, at, pass, .. }: Reading) -> Tensor {
        let x = self.layer.forward(x, mask, None, at, pass);
        match &self.adapter {
            Some(adapter) => adapter.forward(&x),
            None => x,
        }
    }
}

/// A layer that writes, perhaps with cross-attention behind it.
#[derive(Debug)]
struct WritingLayer {
    layer: BertLayer,
    adapter: Option<CrossAttentionAdapter>,
}

impl DecoderLayer for WritingLayer {
    fn memory(&self, encoded: &Encoded) -> Option<LayerMemory> {
        self.adapter.as_ref().map(|adapter| adapter.memory(encoded))
    }

    fn forward(&self, x: &Tensor, cache: Option<&mut LayerCache>, writing: Writing) -> Tensor {
        let x = self.layer.forward(x, writing.mask, cache, writing.at, writing.pass);
        match &self.adapter {
            Some(adapter) => adapter.forward(&x, writing),
            None => x,
        }
    }
}

/// AB-Net's adapter of the decoder: `LN(x + dropout(MultiHead(x, H_E, H_E)))` (Guo et al. 2020, equation
/// 6); the released code adds a feed-forward block.
#[derive(Debug)]
struct CrossAttentionAdapter {
    attention: CrossAttention,
    norm: LayerNorm,
    feed_forward: Option<FeedForward>,
    dropout: f64,
}

impl CrossAttentionAdapter {
    /// The adapter of the layer below `scope`, e.g. `decoder.layer.0`.
    fn new(scope: &Scope, config: &Adapters) -> Self {
        let attention = scope.enter("cross_attention");
        Self {
            attention: CrossAttention::new(&attention, config.heads),
            norm: LayerNorm::new(&attention, "norm", DEFAULT_EPS),
            feed_forward: (config.feed_forward > 0)
                .then(|| FeedForward::new(&scope.enter("feed_forward"), config.dropout)),
            dropout: config.dropout,
        }
    }

    fn memory(&self, encoded: &Encoded) -> LayerMemory {
        LayerMemory { encoder: self.attention.key_value(&encoded.memory), bert: None }
    }

    fn forward(&self, x: &Tensor, writing: Writing) -> Tensor {
        let memory = writing.memory(|encoded| self.memory(encoded));
        let Writing { source_mask, at, pass, .. } = writing;
        let attended = self.attention.forward(x, &memory.encoder, source_mask, at, pass);
        let x = self.norm.forward(&pass.dropout_add(&attended, x, self.dropout));
        match &self.feed_forward {
            Some(feed_forward) => feed_forward.forward(&x, pass),
            None => x,
        }
    }
}

/// `BertLMPredictionHead` below `scope`, e.g. `decoder`.
pub fn head(scope: &Scope, config: &BertConfig) -> LmHead {
    let predictions = scope.enter("cls.predictions");
    let transform = HeadTransform {
        dense: Linear::new(&predictions, "transform.dense"),
        norm: LayerNorm::new(&predictions, "transform.LayerNorm", config.layer_norm_eps),
    };
    let words = scope.get("bert.embeddings.word_embeddings.weight");
    LmHead::new(words, Some(predictions.get("bias")), Some(Box::new(transform)))
}

/// `BertPredictionHeadTransform`.
#[derive(Debug)]
struct HeadTransform {
    dense: Linear,
    norm: LayerNorm,
}

impl Transform for HeadTransform {
    fn forward(&self, hidden: &Tensor) -> Tensor {
        self.norm.forward(&self.dense.forward(hidden).gelu("none"))
    }
}
