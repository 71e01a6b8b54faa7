//! BERT's masked language modelling head: transform, then the tied word embeddings.

use tandem_config::bert::BertConfig;
use tch::{Kind, Tensor};

use super::layers::{LayerNorm, Linear};
use super::parameters::Scope;

/// The head. Its rows are predicted positions: N of them, of all sentences together.
#[derive(Debug)]
pub struct LmHead {
    dense: Linear,
    norm: LayerNorm,
    /// The word embeddings, which the projection shares: `[V, D]`.
    pub weight: Tensor,
    /// One bias per word: `[V]`.
    pub bias: Tensor,
}

impl LmHead {
    /// The head below `scope`, e.g. `decoder`.
    pub fn new(scope: &Scope, config: &BertConfig) -> Self {
        let predictions = scope.enter("cls.predictions");
        Self {
            dense: Linear::new(&predictions, "transform.dense"),
            norm: LayerNorm::new(&predictions, "transform.LayerNorm", config.layer_norm_eps),
            weight: scope.get("bert.embeddings.word_embeddings.weight"),
            bias: predictions.get("bias"),
        }
    }

    /// Hidden states `[N, D]` before the projection onto the vocabulary, `[N, D]`.
    pub fn transform(&self, hidden: &Tensor) -> Tensor {
        self.norm.forward(&self.dense.forward(hidden).gelu("none"))
    }

    /// Transformed states `[N, D]` to logits `[N, V]` in f32.
    pub fn project(&self, transformed: &Tensor) -> Tensor {
        let kind = transformed.kind();
        let logits = transformed.linear(&self.weight.to_kind(kind), Some(self.bias.to_kind(kind)));
        logits.to_kind(Kind::Float)
    }
}
