//! What CTC predicts: at each position a word of the vocabulary or a blank.

use tch::{Device, Kind, Tensor, no_grad};

use super::LmHead;
use super::layers::linear::Linear;

/// What CTC adds to a decoder.
#[derive(Debug)]
pub struct CtcHead {
    blank: Linear,
    /// Decoder positions for each source token.
    pub upsampling: usize,
}

/// The predictions at C positions, without gradients.
#[derive(Debug)]
pub struct Predictions {
    /// Of words: `[C, V]`, f32.
    pub logits: Tensor,
    /// Of the blank: `[C]`, f32.
    pub blank: Tensor,
    /// The logarithm of the sum of all exponentials: `[C]`, f32.
    pub log_sum: Tensor,
}

impl CtcHead {
    /// The head whose blank has the logits `blank`.
    pub fn new(blank: Linear, upsampling: usize) -> Self {
        Self { blank, upsampling }
    }

    /// The logits of the blank in f32, with gradients: transformed states `[N, D]` to `[N]`.
    pub fn blank(&self, transformed: &Tensor) -> Tensor {
        self.blank.forward(&transformed.to_kind(Kind::Float)).squeeze_dim(1)
    }

    /// The predictions of transformed states `[C, D]`.
    pub fn predict(&self, head: &LmHead, states: &Tensor) -> Predictions {
        no_grad(|| {
            let (logits, blank) = (head.project(states), self.blank(states));
            let log_sum = logits.logsumexp([-1i64].as_slice(), false).logaddexp(&blank);
            Predictions { logits, blank, log_sum }
        })
    }
}

impl Predictions {
    /// The most probable word at each position, or none for the blank, and its log-probability.
    pub fn best(&self) -> Vec<(Option<i64>, f32)> {
        let (highest, words) = self.logits.max_dim(-1, false);
        let words = words.masked_fill(&self.blank.greater_equal_tensor(&highest), -1);
        let log_probs = highest.maximum(&self.blank) - &self.log_sum;
        let words = Vec::<i64>::try_from(words.to_device(Device::Cpu)).expect("[C]");
        let log_probs = Vec::<f32>::try_from(log_probs.to_device(Device::Cpu)).expect("[C]");
        let word = |word| (word >= 0).then_some(word);
        words.into_iter().map(word).zip(log_probs).collect()
    }

    /// Log-probabilities of the blank and of these words `[C, U]` of each position: `[C, 1 + U]`, on the
    /// CPU.
    pub fn log_probs(&self, words: &Tensor) -> Tensor {
        let logits =
            Tensor::cat(&[self.blank.unsqueeze(1), self.logits.gather(1, words, false)], 1);
        (logits - self.log_sum.unsqueeze(1)).to_device(Device::Cpu)
    }
}
