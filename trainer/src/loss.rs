//! The losses: cross-entropy over the vocabulary with label smoothing, and length prediction.
//!
//! Cross-entropy never holds the logits of a whole batch: it walks over chunks of predicted
//! positions and computes each chunk's gradient at once, while its logits are in the cache.

use tch::{Kind, Tensor, no_grad};

use crate::model::LmHead;

/// Elements of one chunk of logits: 8 MiB in f32.
const CHUNK_ELEMENTS: i64 = 2 << 20;

/// The cross-entropy of N predicted positions.
#[derive(Debug)]
pub struct CrossEntropy {
    /// A scalar whose gradient is that of `loss`; its value means nothing.
    pub surrogate: Tensor,
    /// `Σ (1 − ε) · nll + ε / V · Σ_v −log p(v)`, a scalar in f32.
    pub loss: Tensor,
    /// `Σ nll`, a scalar in f32.
    pub nll: Tensor,
}

/// Cross-entropy of `head`'s predictions from `transformed` `[N, D]` against `labels` `[N]`.
///
/// Under `no_grad` nothing but the sums is computed.
pub fn cross_entropy(
    head: &LmHead,
    transformed: &Tensor,
    labels: &Tensor,
    smoothing: f64,
) -> CrossEntropy {
    let kind = transformed.kind();
    let options = (Kind::Float, transformed.device());
    let (rows, vocabulary) = (transformed.size()[0], head.weight.size()[0]);
    let wants_gradient = transformed.requires_grad();
    let weight = head.weight.detach().to_kind(kind);
    let mut loss = Tensor::zeros([], options);
    let mut nll = Tensor::zeros([], options);
    let mut gradients = Vec::new(); // of `transformed`, chunk by chunk
    let zeros = |of: &Tensor| Tensor::zeros(of.size(), options);
    let trained = |of: &Tensor| (wants_gradient && of.requires_grad()).then(|| zeros(of));
    let (mut weight_gradient, mut bias_gradient) = (trained(&head.weight), trained(&head.bias));
    no_grad(|| {
        let chunk = (CHUNK_ELEMENTS / vocabulary).max(16);
        for start in (0..rows).step_by(chunk as usize) {
            let count = chunk.min(rows - start);
            let states = transformed.narrow(0, start, count);
            let labels = labels.narrow(0, start, count).unsqueeze(1);
            let mut log_probs = head.project(&states).log_softmax(-1, Kind::Float); // [C, V]
            let chunk_nll = -log_probs.gather(1, &labels, false).sum(Kind::Float);
            nll += &chunk_nll;
            loss += chunk_nll * (1.0 - smoothing);
            if smoothing > 0.0 {
                loss -= log_probs.sum(Kind::Float) * (smoothing / vocabulary as f64);
            }
            if !wants_gradient {
                continue;
            }
            // d loss / d logits = softmax − (1 − ε) · onehot − ε / V
            let mut gradient = log_probs.exp_();
            if smoothing > 0.0 {
                gradient -= smoothing / vocabulary as f64;
            }
            let target = Tensor::full([count, 1], smoothing - 1.0, options);
            let gradient = gradient.scatter_add_(1, &labels, &target);
            if let Some(bias) = &mut bias_gradient {
                *bias += gradient.sum_dim_intlist(0, false, Kind::Float);
            }
            let gradient = gradient.to_kind(kind); // [C, V]
            if let Some(weight) = &mut weight_gradient {
                *weight += gradient.transpose(0, 1).matmul(&states);
            }
            gradients.push(gradient.matmul(&weight)); // [C, D]
        }
    });
    if gradients.is_empty() {
        return CrossEntropy { surrogate: loss.zeros_like(), loss, nll };
    }
    let mut surrogate = (transformed * Tensor::cat(&gradients, 0)).sum(Kind::Float);
    for (parameter, gradient) in [(&head.weight, weight_gradient), (&head.bias, bias_gradient)] {
        if let Some(gradient) = gradient {
            surrogate += (parameter * gradient).sum(Kind::Float);
        }
    }
    CrossEntropy { surrogate, loss, nll }
}

/// `Σ −log p(length)` over sentences, from log-probabilities `[B, classes]` and lengths `[B]`.
pub fn length_nll(log_probs: &Tensor, lengths: &Tensor) -> Tensor {
    let last = log_probs.size()[1] - 1;
    let lengths = lengths.clamp_max(last).unsqueeze(1);
    -log_probs.gather(1, &lengths, false).sum(Kind::Float)
}
