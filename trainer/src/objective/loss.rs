//! The losses: cross-entropy over the vocabulary with label smoothing, perhaps with a teacher's soft
//! labels, and length prediction.
//!
//! Cross-entropy never holds the logits of a big batch: it walks over chunks of predicted
//! positions and turns each chunk's logits into their gradient at once.

use tch::{Kind, Tensor, no_grad};

use crate::device::native;
use crate::model::LmHead;

/// The cross-entropy of N predicted positions.
#[derive(Debug)]
pub struct CrossEntropy {
    /// A scalar whose gradient is that of `loss`; its value means nothing.
    pub surrogate: Tensor,
    /// `Σ (1 − ε) · nll + ε / V · Σ_v −log p(v)`, a scalar in f32.
    pub loss: Tensor,
    /// `Σ nll`, a scalar in f32.
    pub nll: Tensor,
    /// `Σ −q · log p` of soft labels, a scalar in f32; 0 without.
    pub soft_nll: Tensor,
}

/// A teacher's labels for N predicted positions, in addition to the data's (Chen et al. 2020).
#[derive(Debug)]
pub struct SoftLabels {
    /// Words: `[N, K]`, i64.
    pub ids: Tensor,
    /// Their probabilities `q`, which add up to 1: `[N, K]`, f32.
    pub probabilities: Tensor,
    /// Their share `α` of the loss.
    pub weight: f64,
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
    labelled(head, transformed, labels, smoothing, None)
}

/// As [`cross_entropy`], with the loss `(1 − α) · smoothed nll + α · Σ −q · log p`.
pub fn distilled_cross_entropy(
    head: &LmHead,
    transformed: &Tensor,
    labels: &Tensor,
    smoothing: f64,
    soft: &SoftLabels,
) -> CrossEntropy {
    // Both parts have the same softmax in their gradients, so one pass makes them: smoothed by
    // (1 − α) ε, it has all of the loss but α (soft nll − nll), which is linear in the logits.
    labelled(head, transformed, labels, smoothing * (1.0 - soft.weight), Some(soft))
}

fn labelled(
    head: &LmHead,
    transformed: &Tensor,
    labels: &Tensor,
    smoothing: f64,
    soft: Option<&SoftLabels>,
) -> CrossEntropy {
    let options = (Kind::Float, transformed.device());
    let rows = transformed.size()[0];
    let wants_gradient = transformed.requires_grad();
    let mut loss = Tensor::zeros([], options);
    let mut nll = Tensor::zeros([], options);
    let mut soft_nll = Tensor::zeros([], options);
    let mut gradients = wants_gradient.then(|| HeadGradients::new(head, transformed));
    no_grad(|| {
        for (start, count) in head.chunks(rows) {
            let states = transformed.narrow(0, start, count);
            let labels = labels.narrow(0, start, count);
            let mut logits = head.project(&states);
            let soft = soft.map(|soft| soft.narrow(start, count));
            let more = soft.as_ref().map(|soft| soft.beyond(&logits, &labels));
            let sums = of_logits(&mut logits, &labels, smoothing, wants_gradient);
            loss += sums.get(0);
            nll += sums.get(1);
            if let (Some(soft), Some(more)) = (&soft, more) {
                loss += &more * soft.weight;
                soft_nll += sums.get(1) + more;
            }
            let Some(gradients) = &mut gradients else { continue };
            let mut gradient = logits;
            if let Some(soft) = &soft {
                soft.correct(&mut gradient, &labels);
            }
            gradients.add(&gradient, &states);
        }
    });
    let surrogate = match gradients {
        Some(gradients) => gradients.surrogate(transformed),
        None => loss.zeros_like(),
    };
    CrossEntropy { surrogate, loss, nll, soft_nll }
}

/// Gradients by all that a head's logits are computed from, gathered chunk by chunk.
#[derive(Debug)]
pub(super) struct HeadGradients<'a> {
    head: &'a LmHead,
    words: Tensor,          // the head's weight in the states' precision
    states: Vec<Tensor>,    // [C, D] of each chunk
    weight: Option<Tensor>, // [V, D], where it is trained
    bias: Option<Tensor>,   // [V], where it is trained
}

impl<'a> HeadGradients<'a> {
    /// None yet; `transformed` is all states.
    pub(super) fn new(head: &'a LmHead, transformed: &Tensor) -> Self {
        let options = (Kind::Float, transformed.device());
        let trained = |of: &Tensor| of.requires_grad().then(|| Tensor::zeros(of.size(), options));
        Self {
            head,
            words: head.weight.detach().to_kind(transformed.kind()),
            states: Vec::new(),
            weight: trained(&head.weight),
            bias: trained(&head.bias),
        }
    }

    /// Adds those of the next chunk's logits, `[C, V]` in f32, which were made from `states` `[C, D]`.
    pub(super) fn add(&mut self, logits: &Tensor, states: &Tensor) {
        if let Some(bias) = &mut self.bias {
            *bias += logits.sum_dim_intlist(0, false, Kind::Float);
        }
        let logits = logits.to_kind(states.kind());
        if let Some(weight) = &mut self.weight {
            *weight += logits.transpose(0, 1).matmul(states);
        }
        self.states.push(logits.matmul(&self.words));
    }

    /// A scalar whose gradients are these; its value means nothing.
    pub(super) fn surrogate(self, transformed: &Tensor) -> Tensor {
        if self.states.is_empty() {
            return Tensor::zeros([], (Kind::Float, transformed.device()));
        }
        let mut surrogate = (transformed * Tensor::cat(&self.states, 0)).sum(Kind::Float);
        let head = self.head;
        for (parameter, gradient) in [(&head.weight, self.weight), (&head.bias, self.bias)] {
            if let Some(gradient) = gradient {
                surrogate += (parameter * gradient).sum(Kind::Float);
            }
        }
        surrogate
    }
}

impl SoftLabels {
    /// Those of C positions.
    fn narrow(&self, start: i64, count: i64) -> Self {
        Self {
            ids: self.ids.narrow(0, start, count),
            probabilities: self.probabilities.narrow(0, start, count),
            weight: self.weight,
        }
    }

    /// `Σ (soft nll − nll)` of logits `z` `[C, V]`: since the `q` add up to 1, `Σ (z_label − q · z)`.
    fn beyond(&self, logits: &Tensor, labels: &Tensor) -> Tensor {
        let own = logits.gather(1, &labels.unsqueeze(1), false).sum(Kind::Float);
        own - (logits.gather(1, &self.ids, false) * &self.probabilities).sum(Kind::Float)
    }

    /// Adds the gradient of `α ·` [`SoftLabels::beyond`].
    fn correct(&self, gradient: &mut Tensor, labels: &Tensor) {
        let labels = labels.unsqueeze(1);
        let own = Tensor::full(labels.size(), self.weight, (Kind::Float, labels.device()));
        let _ = gradient.scatter_add_(1, &labels, &own);
        let _ = gradient.scatter_add_(1, &self.ids, &(&self.probabilities * -self.weight));
    }
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

    /// `[7, 1000]` logits and their labels.
    fn seven() -> (Tensor, Tensor) {
        tch::manual_seed(1);
        let logits = Tensor::randn([7, 1000], (Kind::Float, Device::Cpu)) * 5.0;
        (logits, Tensor::from_slice(&[0i64, 999, 3, 3, 500, 41, 17]))
    }

    #[test]
    fn soft_labels_are_mixed_in_as_written() {
        let (logits, labels) = seven();
        let (ids, smoothing) = (Tensor::from_slice(&[3i64, 999, 7, 0]).expand([7, 4], false), 0.1);
        let probabilities =
            Tensor::randn([7, 4], (Kind::Float, Device::Cpu)).softmax(-1, Kind::Float);
        for weight in [0.0, 0.3, 1.0] {
            let soft = SoftLabels {
                ids: ids.contiguous(),
                probabilities: probabilities.shallow_clone(),
                weight,
            };
            let more = soft.beyond(&logits, &labels).double_value(&[]);
            let mut found = logits.copy();
            let sums = of_logits(&mut found, &labels, smoothing * (1.0 - weight), true);
            soft.correct(&mut found, &labels);
            let (loss, nll) = (sums.double_value(&[0]), sums.double_value(&[1]));

            // The definition, in double precision and by autograd.
            let leaf = logits.to_kind(Kind::Double).set_requires_grad(true);
            let log_probs = leaf.log_softmax(-1, None::<Kind>);
            let hard = -log_probs.gather(1, &labels.unsqueeze(1), false).sum(Kind::Double);
            let all = -log_probs.sum(Kind::Double) * (smoothing / 1000.0);
            let soft_nll = -(log_probs.gather(1, &ids, false) * &probabilities).sum(Kind::Double);
            let expected = (&hard * (1.0 - smoothing) + all) * (1.0 - weight) + &soft_nll * weight;
            let gradient = Tensor::run_backward(&[&expected], &[&leaf], false, false).remove(0);

            let close = |found: f64, expected: &Tensor| {
                let expected = expected.double_value(&[]);
                assert!((found - expected).abs() < 1e-5 * expected.abs(), "{found} {expected}");
            };
            close(loss + weight * more, &expected);
            close(nll + more, &soft_nll);
            assert!(found.allclose(&gradient.to_kind(Kind::Float), 1e-5, 1e-6, false), "{weight}");
        }
    }

    #[test]
    fn the_kernel_agrees_with_libtorch_in_double_precision() {
        let (logits, labels) = seven();
        for smoothing in [0.0, 0.1] {
            let (mut ours, mut theirs) = (logits.copy(), logits.to_kind(Kind::Double));
            let found = of_logits(&mut ours, &labels, smoothing, true);
            let expected = of_logits(&mut theirs, &labels, smoothing, true);
            assert!(found.allclose(&expected.to_kind(Kind::Float), 1e-5, 1e-5, false));
            assert!(ours.allclose(&theirs.to_kind(Kind::Float), 1e-5, 1e-7, false));
        }
    }
}
