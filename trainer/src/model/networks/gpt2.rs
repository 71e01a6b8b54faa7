//! GPT-2 (Radford et al. 2019), by Hugging Face's names, with adapters inside its layers.
//!
//! It mirrors `GPT2LMHeadModel`, class by class:
//! <https://github.com/huggingface/transformers/blob/v4.57.1/src/transformers/models/gpt2/modeling_gpt2.py>.
//!
//! Matrices are stored as `[inputs, outputs]`. Shapes: B sentences, T tokens, D width.

use tandem_config::pretrained::gpt2::Gpt2Config;
use tandem_config::schema::model::{CrossAttention as Adapters, PretrainedDecoder};
use tch::{Kind, Tensor};

use crate::model::layer::{DecoderLayer, Embeddings, Writing};
use crate::model::layers::attention::{CrossAttention, LayerCache, SelfAttention};
use crate::model::layers::linear::{DEFAULT_EPS, LayerNorm, Linear, Packed};
use crate::model::lm_head::Transform;
use crate::model::memory::{Encoded, LayerMemory};
use crate::model::parameters::Scope;
use crate::model::{Decoder, LmHead, Pass, Positions};

/// The GPT-2 below `scope`, with cross-attention inside some layers. Computes in `kind`.
pub fn decoder(
    scope: &Scope,
    config: &Gpt2Config,
    settings: &PretrainedDecoder,
    kind: Kind,
) -> Decoder {
    let layer = |index: usize| -> Box<dyn DecoderLayer> {
        let adapters = settings.cross_attention.as_ref();
        let chosen = adapters.filter(|all| all.layers.contains(index, config.n_layer));
        let adapter = chosen.map(|adapters| {
            CrossAttentionAdapter::new(&scope.enter(&format!("layer.{index}")), adapters)
        });
        let scope = scope.enter(&format!("transformer.h.{index}"));
        Box::new(Gpt2Block::new(&scope, config, settings.dropout, adapter))
    };
    let layers = (0..config.n_layer).map(layer).collect();
    let embeddings = Gpt2Embeddings::new(scope, config, settings.dropout);
    Decoder::new(embeddings, layers, true, config.n_positions, kind)
}

/// Words and positions from 0, summed.
#[derive(Debug)]
struct Gpt2Embeddings {
    word: Tensor,     // [V, D]
    position: Tensor, // [positions, D]
    dropout: f64,
}

impl Gpt2Embeddings {
    fn new(scope: &Scope, config: &Gpt2Config, dropout: Option<f64>) -> Self {
        Self {
            word: scope.get("transformer.wte.weight"),
            position: scope.get("transformer.wpe.weight"),
            dropout: dropout.unwrap_or(config.embd_pdrop),
        }
    }
}

impl Embeddings for Gpt2Embeddings {
    fn forward(&self, ids: &Tensor, start: i64, kind: Kind, pass: &Pass) -> Tensor {
        let position = self.position.narrow(0, start, ids.size()[1]).to_kind(kind); // [T, D]
        let words = Tensor::embedding(&self.word, ids, -1, false, false).to_kind(kind); // [B, T, D]
        pass.dropout(words + position, self.dropout)
    }
}

/// `GPT2Block`: self-attention, perhaps cross-attention, and a feed-forward block, each
/// `x + dropout(block(LN(x)))`.
#[derive(Debug)]
struct Gpt2Block {
    attention_norm: LayerNorm,
    attention: SelfAttention,
    adapter: Option<CrossAttentionAdapter>,
    feed_forward_norm: LayerNorm,
    up: Linear,
    down: Linear,
    dropout: f64,
}

impl Gpt2Block {
    /// The layer below `scope`, e.g. `decoder.transformer.h.0`.
    fn new(
        scope: &Scope,
        config: &Gpt2Config,
        dropout: Option<f64>,
        adapter: Option<CrossAttentionAdapter>,
    ) -> Self {
        let eps = config.layer_norm_epsilon;
        Self {
            attention_norm: LayerNorm::new(scope, "ln_1", eps),
            attention: SelfAttention {
                query_key_value: Packed::Together(Linear::transposed(scope, "attn.c_attn"), 3),
                output: Linear::transposed(scope, "attn.c_proj"),
                heads: config.n_head as i64,
                dropout: dropout.unwrap_or(config.attn_pdrop),
            },
            adapter,
            feed_forward_norm: LayerNorm::new(scope, "ln_2", eps),
            up: Linear::transposed(scope, "mlp.c_fc"),
            down: Linear::transposed(scope, "mlp.c_proj"),
            dropout: dropout.unwrap_or(config.resid_pdrop),
        }
    }
}

impl DecoderLayer for Gpt2Block {
    fn memory(&self, encoded: &Encoded) -> Option<LayerMemory> {
        self.adapter.as_ref().map(|adapter| adapter.memory(encoded))
    }

    fn forward(&self, x: &Tensor, cache: Option<&mut LayerCache>, writing: Writing) -> Tensor {
        let Writing { mask, at, pass, .. } = writing;
        // GPT2Attention
        let input = self.attention_norm.forward(x);
        let attended = self.attention.forward(&input, mask, cache, at, pass);
        let mut x = pass.dropout_add(&attended, &Positions::gathered(at, x), self.dropout);
        if let Some(adapter) = &self.adapter {
            x = adapter.forward(&x, writing);
        }
        // GPT2MLP
        let inner = self.up.forward(&self.feed_forward_norm.forward(&x)).gelu("tanh");
        pass.dropout_add(&self.down.forward(&inner), &x, self.dropout)
    }
}

/// Cross-attention between a layer's own blocks: `x + dropout(MultiHead(LN(x), H_E, H_E))`.
#[derive(Debug)]
struct CrossAttentionAdapter {
    norm: LayerNorm,
    attention: CrossAttention,
    dropout: f64,
}

impl CrossAttentionAdapter {
    /// The adapter of the layer below `scope`, e.g. `decoder.layer.0`.
    fn new(scope: &Scope, config: &Adapters) -> Self {
        let scope = scope.enter("cross_attention");
        Self {
            norm: LayerNorm::new(&scope, "norm", DEFAULT_EPS),
            attention: CrossAttention::new(&scope, config.heads),
            dropout: config.dropout,
        }
    }

    fn memory(&self, encoded: &Encoded) -> LayerMemory {
        LayerMemory { encoder: self.attention.key_value(&encoded.memory), bert: None }
    }

    fn forward(&self, x: &Tensor, writing: Writing) -> Tensor {
        let memory = writing.memory(|encoded| self.memory(encoded));
        let Writing { source_mask, at, pass, .. } = writing;
        let input = self.norm.forward(x);
        let attended = self.attention.forward(&input, &memory.encoder, source_mask, at, pass);
        pass.dropout_add(&attended, x, self.dropout)
    }
}

/// The norm behind the last layer, and the tied output layer below `scope`, e.g. `decoder`.
pub fn head(scope: &Scope, config: &Gpt2Config) -> LmHead {
    let norm = LayerNorm::new(scope, "transformer.ln_f", config.layer_norm_epsilon);
    LmHead::new(scope.get("transformer.wte.weight"), None, Some(Box::new(FinalNorm(norm))))
}

/// `ln_f`.
#[derive(Debug)]
struct FinalNorm(LayerNorm);

impl Transform for FinalNorm {
    fn forward(&self, hidden: &Tensor) -> Tensor {
        self.0.forward(hidden)
    }
}
