//! From hidden states to words: the tied word embeddings, behind what a model has before them.

use std::fmt::Debug;

use tandem_config::parameters::limits::logit_rows;
use tch::{Device, Kind, Tensor, no_grad};

use crate::device::native;

/// Words of one product on the CPU. There a product packs all of its words' weights before it
/// starts; of a whole vocabulary that costs more than the product itself.
const BLOCK_WORDS: i64 = 1024;

/// What stands before the projection onto the vocabulary.
pub trait Transform: Debug {
    /// `[N, D]` to `[N, D]`.
    fn forward(&self, hidden: &Tensor) -> Tensor;
}

/// The head. Its rows are predicted positions: N of them, of all sentences together.
#[derive(Debug)]
pub struct LmHead {
    transform: Option<Box<dyn Transform>>,
    /// The word embeddings, which the projection shares: `[V, D]`.
    pub weight: Tensor,
    /// One bias per word: `[V]`; 0 where a model has none.
    pub bias: Tensor,
}

impl LmHead {
    /// The head over these word embeddings `[V, D]`.
    pub fn new(
        weight: Tensor,
        bias: Option<Tensor>,
        transform: Option<Box<dyn Transform>>,
    ) -> Self {
        let zeros = || Tensor::zeros([weight.size()[0]], (Kind::Float, weight.device()));
        Self { transform, bias: bias.unwrap_or_else(zeros), weight }
    }

    /// Hidden states `[N, D]` before the projection onto the vocabulary, `[N, D]`.
    pub fn transform(&self, hidden: &Tensor) -> Tensor {
        match &self.transform {
            Some(transform) => transform.forward(hidden),
            None => hidden.shallow_clone(),
        }
    }

    /// How many rows of logits are held at once.
    pub fn rows_at_once(&self) -> usize {
        logit_rows(self.weight.size()[0] as u64) as usize
    }

    /// The rows of transformed states that are projected at a time.
    pub fn chunks(&self, rows: i64) -> impl Iterator<Item = (i64, i64)> + use<> {
        let chunk = self.rows_at_once() as i64;
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

    /// The most probable word of each of transformed states `[N, D]`, where they are: `[N]`, i64.
    pub fn best(&self, transformed: &Tensor) -> Tensor {
        let of_chunk =
            |(start, count)| self.project(&transformed.narrow(0, start, count)).argmax(-1, false);
        let words: Vec<Tensor> = self.chunks(transformed.size()[0]).map(of_chunk).collect();
        Tensor::cat(&words, 0)
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
