//! Adam (Kingma and Ba 2015) over one flat tensor of weights.

use tandem_config::schema::training::Optimizer;
use tch::{Kind, Tensor};

use super::Run;
use crate::device::native;
use crate::model::Parameters;

/// Adam's settings and state.
#[derive(Debug)]
pub struct Adam {
    /// Decaying mean of the gradients: `[N]`, f32.
    pub exp_avg: Tensor,
    /// Decaying mean of the squared gradients: `[N]`, f32.
    pub exp_avg_sq: Tensor,
    /// Steps taken: a scalar, f32.
    step: Tensor,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
}

impl Adam {
    /// The initial state for `weights`.
    pub fn new(config: &Optimizer, weights: &Tensor) -> Self {
        let Optimizer::Adam { betas, eps, weight_decay } = *config;
        let zeros = || weights.zeros_like();
        let step = Tensor::zeros([], (Kind::Float, weights.device()));
        Self { exp_avg: zeros(), exp_avg_sq: zeros(), step, betas, eps, weight_decay }
    }

    /// Goes on after so many steps.
    pub fn resume(&mut self, steps: u64) {
        let _ = self.step.fill_(steps as f64);
    }

    /// Begins a step, in which every run of weights must be updated once. `skipped` is a scalar in f32: 1 if
    /// the step is to change nothing, or else 0.
    pub fn begin(&mut self, skipped: &Tensor) {
        self.step += 1.0 - skipped;
    }

    /// Updates a run of weights with its part of the flat gradient `grads`, at the learning rate `rate`.
    ///
    /// Weight decay is decoupled (Loshchilov and Hutter 2019) and excludes vectors, that is biases and norms.
    pub fn update(
        &self,
        parameters: &Parameters,
        run: &Run,
        grads: &Tensor,
        rate: f64,
        skipped: &Tensor,
    ) {
        if self.weight_decay > 0.0 {
            let leaves = parameters.trained[run.parameters.clone()].iter();
            let decaying: Vec<&Tensor> = leaves.filter(|leaf| leaf.dim() > 1).collect();
            let decay = (1.0 - skipped.to_kind(Kind::Double)) * (rate * self.weight_decay);
            let kept: Tensor = 1.0 - decay;
            // All weights lie in one tensor, and so have one count of changes, by which autograd would take
            // those for changed that a forward pass has used already.
            native::multiply_all(&decaying, &kept.to_kind(Kind::Float));
        }
        let (start, count) = (run.elements.start as i64, run.elements.len() as i64);
        let part = |flat: &Tensor| flat.narrow(0, start, count);
        let Self { exp_avg, exp_avg_sq, step, .. } = self;
        let (weights, grads) = (part(&parameters.weights), part(grads));
        native::fused_adam(
            [&weights, &grads, &part(exp_avg), &part(exp_avg_sq), step, skipped],
            rate,
            self.betas,
            self.eps,
        );
    }
}

#[cfg(test)]
mod tests {
    use tandem_config::parameters::{Init, Parameter};
    use tch::Device;

    use super::*;
    use crate::optim::runs;

    /// The update rule of the paper's algorithm 1, in plain f64.
    fn reference(gradients: &[f64], lr: f64) -> f64 {
        let (mut m, mut v, mut weight) = (0.0, 0.0, 1.0);
        for (i, gradient) in gradients.iter().enumerate() {
            m = 0.9 * m + 0.1 * gradient;
            v = 0.98 * v + 0.02 * gradient * gradient;
            let t = i as i32 + 1;
            let (m_hat, v_hat) = (m / (1.0 - 0.9f64.powi(t)), v / (1.0 - 0.98f64.powi(t)));
            weight -= lr * m_hat / (v_hat.sqrt() + 1e-8);
        }
        weight
    }

    #[test]
    fn steps_agree_with_the_papers_algorithm() -> Result<(), Box<dyn std::error::Error>> {
        let parameter =
            Parameter { name: "w".into(), shape: vec![1], trained: true, init: Init::Ones };
        let parameters = Parameters::new(&[parameter], &[], 1, Kind::Float, Device::Cpu)?;
        let mut adam = Adam::new(&Optimizer::default(), &parameters.weights);
        let skipped = Tensor::zeros([], (Kind::Float, Device::Cpu));
        let (gradients, run) = ([0.5, -0.25, 3.0, 1e-4], &runs(&parameters)[0]);
        for gradient in gradients {
            adam.begin(&skipped);
            let gradient = Tensor::from_slice(&[gradient as f32]);
            adam.update(&parameters, run, &gradient, 0.1, &skipped);
        }
        let found = parameters.weights.double_value(&[0]);
        assert!((found - reference(&gradients, 0.1)).abs() < 1e-6, "{found}");
        Ok(())
    }
}
