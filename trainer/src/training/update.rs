//! The optimizer step. What becomes of it is computed from its sums on the device ([`Verdict`]), so that the
//! host need not wait for them.
//!
//! On CPUs it is made block by block: a block of weights is updated when the next forward pass needs it,
//! which then waits for the gradients of that block.
//! So communication is hidden behind the next forward pass, too. Code that reads all weights finishes the
//! step first. The weights get the same bits whenever a block is updated.
//!
//! What this is worth: with as much communication as computation, 5 % of a step is exposed instead of 34 %
//! (`docs/reduction.md`). Its price is this file, `optim/runs.rs`, `model/block.rs`, a call per layer in the
//! forward pass, and Adam in one call per block instead of one.

use std::time::{Duration, Instant};

use tch::{Kind, Tensor};

use crate::model::{Block, Parameters};
use crate::objective::Sums;
use crate::optim::{Adam, Run, runs};
use crate::parallel::{CollectiveError, Reducer};

/// The optimizer with the gradients that it takes.
pub struct Updates {
    /// The optimizer.
    pub adam: Adam,
    /// The gradients.
    pub reducer: Reducer,
    runs: Vec<Run>,
    step: Option<Step>,
    waited: Duration,
    failure: Option<CollectiveError>,
}

/// A step that is not finished.
struct Step {
    verdict: Verdict,
    /// Each run's learning rate, until it is made.
    rates: Vec<Option<f64>>,
}

/// What becomes of a step's gradients.
pub struct Verdict {
    /// What they are multiplied with: a scalar, f32.
    scale: Tensor,
    /// 1 if the step is skipped, because something is not finite or a rank's share is missing, or else 0: a
    /// scalar, f32.
    pub skipped: Tensor,
    /// The norm of the mean gradient, if it is clipped: a scalar, f32.
    pub norm: Option<Tensor>,
}

impl Updates {
    /// Nothing to do yet.
    pub fn new(adam: Adam, reducer: Reducer, parameters: &Parameters) -> Self {
        let (waited, runs) = (Duration::ZERO, runs(parameters));
        Self { adam, reducer, runs, step: None, waited, failure: None }
    }

    /// Begins a step with the gradients that are on their way, whose sums are `sums` `[COUNT]`: they are
    /// divided by the denominator, and clipped to `clip_norm` unless that is 0, for which all of them are
    /// waited for. `rate` is the learning rate of a parameter's name.
    ///
    /// # Errors
    /// A failing communication library.
    pub fn begin(
        &mut self,
        parameters: &Parameters,
        sums: &Tensor,
        clip_norm: f64,
        rate: impl Fn(&str) -> f64,
    ) -> Result<&Verdict, CollectiveError> {
        let verdict = self.verdict(sums, clip_norm)?;
        self.adam.begin(&verdict.skipped);
        let rate = |run: &Run| Some(rate(&parameters.names[run.parameters.start]));
        let rates = self.runs.iter().map(rate).collect();
        Ok(&self.step.insert(Step { verdict, rates }).verdict)
    }

    fn verdict(&mut self, sums: &Tensor, clip_norm: f64) -> Result<Verdict, CollectiveError> {
        let sums = Sums::of(sums);
        let mut faults = sums.not_finite + sums.given_up + is_not_finite(&sums.loss);
        let mut scale = sums.denominator.to_kind(Kind::Double).clamp_min(1.0).reciprocal();
        let mut norm = None;
        if clip_norm > 0.0 {
            self.wait(Reducer::finish)?;
            let mut gradients = self.reducer.gradients();
            gradients *= scale.to_kind(Kind::Float);
            let found = gradients.norm();
            let exact = found.to_kind(Kind::Double);
            scale = (exact.full_like(clip_norm) / exact).clamp_max(1.0);
            faults += is_not_finite(&found);
            norm = Some(found);
        }
        let skipped = faults.gt(0.0).to_kind(Kind::Float);
        Ok(Verdict { scale: scale.to_kind(Kind::Float), skipped, norm })
    }

    /// Updates `block`, if that has not been done yet. An error is returned by [`finish`](Self::finish),
    /// because a forward pass in between cannot return it.
    pub fn make(&mut self, block: Block, parameters: &Parameters) {
        let made = self.make_if(|run| run.block == block, parameters);
        self.failure = self.failure.take().or(made.err());
    }

    /// Makes what is left of the step, and waits for all gradients: another may begin.
    ///
    /// # Errors
    /// A failing communication library.
    pub fn finish(&mut self, parameters: &Parameters) -> Result<(), CollectiveError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        self.make_if(|_| true, parameters)?;
        self.step = None;
        self.wait(Reducer::finish)
    }

    /// Waits for something of the reducer's.
    ///
    /// # Errors
    /// Those of the reducer.
    pub fn wait<T>(
        &mut self,
        what: impl FnOnce(&mut Reducer) -> Result<T, CollectiveError>,
    ) -> Result<T, CollectiveError> {
        let started = Instant::now();
        let found = what(&mut self.reducer);
        self.waited += started.elapsed();
        found
    }

    /// How long this rank has waited for the gradients of other ranks since the last call.
    pub fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }

    fn make_if(
        &mut self,
        chosen: impl Fn(&Run) -> bool,
        parameters: &Parameters,
    ) -> Result<(), CollectiveError> {
        let Some(mut step) = self.step.take() else { return Ok(()) };
        for index in 0..self.runs.len() {
            let run = self.runs[index].clone();
            let Some(rate) = step.rates[index].filter(|_| chosen(&run)) else { continue };
            self.wait(|reducer| reducer.wait_for(&run.elements))?;
            let gradients = self.reducer.gradients();
            let (start, count) = (run.elements.start as i64, run.elements.len() as i64);
            let Verdict { scale, skipped, .. } = &step.verdict;
            let mut part = gradients.narrow(0, start, count);
            part *= scale;
            self.adam.update(parameters, &run, &gradients, rate, skipped);
            step.rates[index] = None;
        }
        self.step = Some(step);
        Ok(())
    }
}

/// 1 for infinities and what is not a number, or else 0: f32.
fn is_not_finite(value: &Tensor) -> Tensor {
    value.isfinite().logical_not().to_kind(Kind::Float)
}

#[cfg(test)]
mod tests {
    use tandem_config::parameters::{Init, Parameter};
    use tandem_config::schema::cluster::{GradientDtype, Reduction};
    use tandem_config::schema::training::Optimizer;
    use tch::Device;

    use super::*;
    use crate::parallel::reducer;
    use crate::parallel::solo::Solo;

    /// The weights after steps whose gradients are these numbers times 4, which the sums of `sums` divide
    /// by 4, and how many steps were skipped.
    fn after(steps: &[(f64, Sums)], clip_norm: f64) -> (Tensor, f64) {
        let parameter = |name: &str, shape: &[usize]| Parameter {
            name: name.into(),
            shape: shape.to_vec(),
            trained: true,
            init: Init::Ones,
        };
        let list = [parameter("a", &[3, 5]), parameter("b", &[7])];
        let parameters =
            Parameters::new(&list, &[], 1, Kind::Float, Device::Cpu).expect("parameters");
        let settings = reducer::Settings {
            reduction: Reduction::Plain,
            dtype: GradientDtype::F32,
            shards: 1,
            sums: Sums::COUNT,
            bucket_elements: 10,
            into_forward: false,
        };
        let reducer = Reducer::new(Box::new(Solo), &parameters, &settings);
        let config = Optimizer::Adam { betas: [0.9, 0.98], eps: 1e-8, weight_decay: 0.1 };
        let adam = Adam::new(&config, &parameters.weights);
        let mut updates = Updates::new(adam, reducer, &parameters);
        let mut skipped = 0.0;
        for (gradient, sums) in steps {
            updates.reducer.begin(0, &sums.to_tensor(Kind::Float, Device::Cpu));
            let weights = parameters.trained.iter().map(|leaf| leaf.sum(Kind::Float));
            (weights.sum::<Tensor>() * (4.0 * gradient)).backward();
            updates.reducer.end(0);
            updates.reducer.send_rest();
            let sums = updates.wait(Reducer::sums).expect("one rank");
            let verdict = updates.begin(&parameters, &sums, clip_norm, |_| 0.1).expect("one rank");
            skipped += verdict.skipped.double_value(&[]);
            updates.finish(&parameters).expect("one rank");
        }
        (parameters.weights.copy(), skipped)
    }

    #[test]
    fn a_step_with_a_fault_changes_nothing() {
        let good = Sums { loss: 3.0, denominator: 4.0, ..Sums::default() };
        let faults = [
            (f64::NAN, good),
            (f64::INFINITY, good),
            (0.5, Sums { loss: f64::NAN, ..good }),
            (0.5, Sums { given_up: 1.0, ..good }),
        ];
        for clip_norm in [0.0, 1.0] {
            let (expected, none) = after(&[(0.5, good), (-0.25, good)], clip_norm);
            assert_eq!(none, 0.0);
            for fault in faults {
                let (found, one) = after(&[(0.5, good), fault, (-0.25, good)], clip_norm);
                assert_eq!((found, one), (expected.copy(), 1.0), "{fault:?}, {clip_norm}");
            }
        }
        // Finite, but with a norm beyond f32's largest number.
        let (found, one) = after(&[(0.5, good), (1e20, good), (-0.25, good)], 1.0);
        assert_eq!((found, one), (after(&[(0.5, good), (-0.25, good)], 1.0).0, 1.0));
    }

    #[test]
    fn gradients_are_divided_by_the_denominator_and_clipped() {
        let step = |gradient, clip_norm, denominator| {
            let sums = Sums { loss: 3.0, denominator, ..Sums::default() };
            // The second step shows the first one's gradient: Adam's first step is the same for all.
            after(&[(gradient, sums), (1e-3, Sums { denominator: 4.0, ..sums })], clip_norm).0
        };
        let plain = step(0.5, 0.0, 4.0);
        assert_eq!(plain, step(1.0, 0.0, 8.0));
        assert_eq!(plain, step(0.5, 1e9, 4.0), "a norm below the limit changes nothing");
        let clipped = step(0.5, 0.5, 4.0);
        assert_ne!(plain, clipped);
        // 22 weights have a norm of sqrt(22) * 0.5.
        let by_hand = step(0.5 / 22f64.sqrt(), 0.0, 4.0);
        assert!(clipped.allclose(&by_hand, 1e-4, 1e-5, false), "{clipped:?} {by_hand:?}");
    }
}
