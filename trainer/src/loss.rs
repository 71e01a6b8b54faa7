//! The losses: cross-entropy over the vocabulary with label smoothing, and length prediction.
//!
//! Cross-entropy never holds the logits of a big batch: it walks over chunks of predicted
//! positions and turns each chunk's logits into their gradient at once.

use tch::{Kind, Tensor, no_grad};

use crate::model::LmHead;
use crate::native;

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
    let rows = transformed.size()[0];
    let wants_gradient = transformed.requires_grad();
    let weight = head.weight.detach().to_kind(kind);
    let mut loss = Tensor::zeros([], options);
    let mut nll = Tensor::zeros([], options);
    let mut gradients = Vec::new(); // of `transformed`, chunk by chunk
    let zeros = |of: &Tensor| Tensor::zeros(of.size(), options);
    let trained = |of: &Tensor| (wants_gradient && of.requires_grad()).then(|| zeros(of));
    let (mut weight_gradient, mut bias_gradient) = (trained(&head.weight), trained(&head.bias));
    no_grad(|| {
        for (start, count) in head.chunks(rows) {
            let states = transformed.narrow(0, start, count);
            let labels = labels.narrow(0, start, count);
            let mut logits = head.project(&states);
            let sums = of_logits(&mut logits, &labels, smoothing, wants_gradient);
            loss += sums.get(0);
            nll += sums.get(1);
            if !wants_gradient {
                continue;
            }
            let gradient = logits;
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

/// Sums `[2]` of the smoothed losses and the negative log-likelihoods of logits `[C, V]`, which
/// become their gradient if that is wanted.
fn of_logits(logits: &mut Tensor, labels: &Tensor, smoothing: f64, gradient: bool) -> Tensor {
    if native::has_kernels(logits) {
        let sums = native::cross_entropy(logits, labels, smoothing, gradient);
        return sums.sum_dim_intlist(0, false, Kind::Float);
    }
    let uniform = smoothing / logits.size()[1] as f64;
    let labels = labels.unsqueeze(1);
    let mut log_probs = logits.log_softmax(-1, None::<Kind>);
    let nll = -log_probs.gather(1, &labels, false).sum(None::<Kind>);
    let loss = &nll * (1.0 - smoothing) - log_probs.sum(None::<Kind>) * uniform;
    if gradient {
        // d loss / d logits = softmax − (1 − ε) · onehot − ε / V
        let target =
            Tensor::full(labels.size(), smoothing - 1.0, (log_probs.kind(), labels.device()));
        *logits = (log_probs.exp_() - uniform).scatter_add_(1, &labels, &target);
    }
    Tensor::stack(&[loss, nll], 0)
}

/// `Σ −log p(length)` over sentences, from log-probabilities `[B, classes]` and lengths `[B]`.
pub fn length_nll(log_probs: &Tensor, lengths: &Tensor) -> Tensor {
    let last = log_probs.size()[1] - 1;
    let lengths = lengths.clamp_max(last).unsqueeze(1);
    -log_probs.gather(1, &lengths, false).sum(Kind::Float)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn the_kernel_agrees_with_libtorch_in_double_precision() {
        tch::manual_seed(1);
        let logits = Tensor::randn([7, 1000], (Kind::Float, Device::Cpu)) * 5.0;
        let labels = Tensor::from_slice(&[0i64, 999, 3, 3, 500, 41, 17]);
        for smoothing in [0.0, 0.1] {
            let (mut ours, mut theirs) = (logits.copy(), logits.to_kind(Kind::Double));
            let found = of_logits(&mut ours, &labels, smoothing, true);
            let expected = of_logits(&mut theirs, &labels, smoothing, true);
            assert!(found.allclose(&expected.to_kind(Kind::Float), 1e-5, 1e-5, false));
            assert!(ours.allclose(&theirs.to_kind(Kind::Float), 1e-5, 1e-7, false));
        }
    }
}
