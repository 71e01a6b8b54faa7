//! Adam (Kingma and Ba 2015) over one flat tensor of weights.

use tandem_config::training::Optimizer;
use tch::{Kind, Tensor, no_grad};

use crate::model::Parameters;
use crate::native;

/// Adam's settings and state.
#[derive(Debug)]
pub struct Adam {
    /// Decaying mean of the gradients: `[N]`, f32.
    pub exp_avg: Tensor,
    /// Decaying mean of the squared gradients: `[N]`, f32.
    pub exp_avg_sq: Tensor,
    /// Steps taken.
    pub step: u64,
    counter: Tensor,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
}

impl Adam {
    /// The state before the first step, for weights as long as `weights`.
    pub fn new(config: &Optimizer, weights: &Tensor) -> Self {
        let Optimizer::Adam { betas, eps, weight_decay } = *config;
        let zeros = || weights.zeros_like();
        let counter = Tensor::zeros([], (Kind::Float, weights.device()));
        Self { exp_avg: zeros(), exp_avg_sq: zeros(), step: 0, counter, betas, eps, weight_decay }
    }

    /// One step with the flat gradient `grads`; `rate` is the learning rate of a parameter's name.
    ///
    /// Weight decay is decoupled (Loshchilov and Hutter 2019) and spares vectors: biases, norms.
    pub fn update(&mut self, parameters: &Parameters, grads: &Tensor, rate: impl Fn(&str) -> f64) {
        if self.weight_decay > 0.0 {
            no_grad(|| {
                for (name, mut view) in parameters.views(&parameters.weights) {
                    if view.dim() > 1 {
                        view *= 1.0 - rate(name) * self.weight_decay;
                    }
                }
            });
        }
        self.step += 1;
        let _ = self.counter.fill_(self.step as f64);
        for (start, count, lr) in ranges(parameters, rate) {
            let part = |flat: &Tensor| flat.narrow(0, start, count);
            let Self { exp_avg, exp_avg_sq, .. } = &*self;
            let (weights, grads) = (part(&parameters.weights), part(grads));
            native::fused_adam(
                [&weights, &grads, &part(exp_avg), &part(exp_avg_sq), &self.counter],
                lr,
                self.betas,
                self.eps,
            );
        }
    }
}

/// Where neighbours of one learning rate begin in the flat tensors, how many elements they have, and
/// that rate.
fn ranges(parameters: &Parameters, rate: impl Fn(&str) -> f64) -> Vec<(i64, i64, f64)> {
    let mut ranges: Vec<(i64, i64, f64)> = Vec::new();
    let mut start = 0;
    for (name, view) in parameters.views(&parameters.weights) {
        let (count, lr) = (view.numel() as i64, rate(name));
        match ranges.last_mut() {
            Some((_, own, same)) if *same == lr => *own += count,
            _ => ranges.push((start, count, lr)),
        }
        start += count;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use tandem_config::parameters::{Init, Parameter};
    use tch::Device;

    use super::*;

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
    fn parameters_have_rates_of_their_own() -> Result<(), Box<dyn std::error::Error>> {
        let parameter = |name: &str| Parameter {
            name: name.into(),
            shape: vec![1],
            trained: true,
            init: Init::Ones,
        };
        let list = ["a", "b", "fused.c"].map(parameter);
        let parameters = Parameters::new(&list, &[], 1, Kind::Float, Device::Cpu)?;
        let mut adam = Adam::new(&Optimizer::default(), &parameters.weights);
        let rate = |name: &str| if name.starts_with("fused.") { 0.01 } else { 0.1 };
        assert_eq!(ranges(&parameters, rate), [(0, 2, 0.1), (2, 1, 0.01)]);
        adam.update(&parameters, &Tensor::from_slice(&[2f32, -2.0, 2.0]), rate);
        // The first step of Adam is as long as the rate.
        let expected = Tensor::from_slice(&[0.9f32, 1.1, 0.99]);
        assert!(parameters.weights.allclose(&expected, 1e-5, 0.0, false));
        Ok(())
    }

    #[test]
    fn steps_are_the_papers() -> Result<(), Box<dyn std::error::Error>> {
        let parameter =
            Parameter { name: "w".into(), shape: vec![1], trained: true, init: Init::Ones };
        let parameters = Parameters::new(&[parameter], &[], 1, Kind::Float, Device::Cpu)?;
        let mut adam = Adam::new(&Optimizer::default(), &parameters.weights);
        let gradients = [0.5, -0.25, 3.0, 1e-4];
        for gradient in gradients {
            adam.update(&parameters, &Tensor::from_slice(&[gradient as f32]), |_| 0.1);
        }
        let found = parameters.weights.double_value(&[0]);
        assert!((found - reference(&gradients, 0.1)).abs() < 1e-6, "{found}");
        Ok(())
    }
}
