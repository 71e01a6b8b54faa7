//! From hidden states to words: the tied word embeddings, behind what a model has before them.

use tandem_config::parameters::estimate::logit_rows;
use tandem_config::pretrained::bert::BertConfig;
use tandem_config::pretrained::gpt2::Gpt2Config;
use tch::{Device, Kind, Tensor, no_grad};

use super::layers::{LayerNorm, Linear};
use super::parameters::Scope;
use crate::device::native;

/// Words of one product on the CPU. There a product packs all of its words' weights before it
/// starts; of a whole vocabulary that costs more than the product itself.
const BLOCK_WORDS: i64 = 1024;

/// What stands before the projection onto the vocabulary.
#[derive(Debug)]
enum Transform {
    /// A BERT's dense layer and norm.
    Bert(Linear, LayerNorm),
    /// The norm at the end of a GPT-2's layers.
    Norm(LayerNorm),
    /// A Transformer's: nothing.
    Nothing,
}

/// The head. Its rows are predicted positions: N of them, of all sentences together.
#[derive(Debug)]
pub struct LmHead {
    transform: Transform,
    /// The word embeddings, which the projection shares: `[V, D]`.
    pub weight: Tensor,
    /// One bias per word: `[V]`. Only a BERT's are not 0.
    pub bias: Tensor,
}

impl LmHead {
    /// A BERT's head for masked language modelling, below `scope`, e.g. `decoder`.
    pub fn bert(scope: &Scope, config: &BertConfig) -> Self {
        let predictions = scope.enter("cls.predictions");
        let dense = Linear::new(&predictions, "transform.dense");
        let norm = LayerNorm::new(&predictions, "transform.LayerNorm", config.layer_norm_eps);
        Self {
            transform: Transform::Bert(dense, norm),
            weight: scope.get("bert.embeddings.word_embeddings.weight"),
            bias: predictions.get("bias"),
        }
    }

    /// A Transformer's output layer, below `scope`, e.g. `decoder`.
    pub fn transformer(scope: &Scope) -> Self {
        let weight = scope.get("embeddings.word.weight");
        Self::without_bias(Transform::Nothing, weight)
    }

    /// A GPT-2's output layer, below `scope`, e.g. `decoder`.
    pub fn gpt2(scope: &Scope, config: &Gpt2Config) -> Self {
        let gpt2 = scope.enter("transformer");
        let norm = LayerNorm::new(&gpt2, "ln_f", config.layer_norm_epsilon);
        Self::without_bias(Transform::Norm(norm), gpt2.get("wte.weight"))
    }

    fn without_bias(transform: Transform, weight: Tensor) -> Self {
        let bias = Tensor::zeros([weight.size()[0]], (Kind::Float, weight.device()));
        Self { transform, weight, bias }
    }

    /// Hidden states `[N, D]` before the projection onto the vocabulary, `[N, D]`.
    pub fn transform(&self, hidden: &Tensor) -> Tensor {
        match &self.transform {
            Transform::Bert(dense, norm) => norm.forward(&dense.forward(hidden).gelu("none")),
            Transform::Norm(norm) => norm.forward(hidden),
            Transform::Nothing => hidden.shallow_clone(),
        }
    }

    /// The rows of transformed states that are projected at a time.
    pub fn chunks(&self, rows: i64) -> impl Iterator<Item = (i64, i64)> + use<> {
        let chunk = logit_rows(self.weight.size()[0] as u64) as i64;
        (0..rows).step_by(chunk as usize).map(move |start| (start, chunk.min(rows - start)))
    }

    /// Transformed states `[C, D]` to logits `[C, V]` in f32, without gradients.
    pub fn project(&self, transformed: &Tensor) -> Tensor {
        let kind = transformed.kind();
        let (words, options) = (self.weight.size()[0], (kind, transformed.device()));
        let block = if transformed.device() == Device::Cpu { BLOCK_WORDS } else { words };
        no_grad(|| {
            let logits = Tensor::empty([transformed.size()[0], words], options);
            for start in (0..words).step_by(block as usize) {
                let count = block.min(words - start);
                let weight = self.weight.narrow(0, start, count).to_kind(kind).transpose(0, 1);
                let bias = self.bias.narrow(0, start, count).to_kind(kind);
                let block = logits.narrow(1, start, count);
                let _ = bias.addmm_out(&block, transformed, &weight);
            }
            logits.to_kind(Kind::Float)
        })
    }

    /// The most probable word and its log-probability for each of transformed states `[N, D]`.
    pub fn most_probable(&self, transformed: &Tensor) -> Vec<(i64, f32)> {
        let of_chunk = |(start, count)| {
            let logits = self.project(&transformed.narrow(0, start, count));
            if native::has_kernels(&logits) {
                return native::most_probable(&logits);
            }
            let (highest, words) = logits.max_dim(-1, false);
            let log_probs = highest - logits.logsumexp([-1i64].as_slice(), false);
            let words = Vec::<i64>::try_from(words.to_device(Device::Cpu)).expect("[C]");
            let log_probs = Vec::<f32>::try_from(log_probs.to_device(Device::Cpu)).expect("[C]");
            words.into_iter().zip(log_probs).collect()
        };
        self.chunks(transformed.size()[0]).flat_map(of_chunk).collect()
    }
}
