//! The optimizer step, made block by block: a block of weights is updated when the next forward pass needs
//! it, which then waits for the gradients of that block.
//!
//! So communication is hidden behind the next forward pass, too. Code that reads all weights finishes the
//! step first. The weights get the same bits whenever a block is updated.
//!
//! What this is worth: with as much communication as computation, 5 % of a step is exposed instead of 34 %
//! (`docs/reduction.md`). Its price is this file, `optim/runs.rs`, `model/block.rs`, a call per layer in the
//! forward pass, and Adam in one call per block instead of one.

use std::time::{Duration, Instant};

use crate::model::{Block, Parameters};
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
    /// What gradients are multiplied with.
    scale: f64,
    /// Each run's learning rate, until it is made.
    rates: Vec<Option<f64>>,
}

impl Updates {
    /// Nothing to do yet.
    pub fn new(adam: Adam, reducer: Reducer, parameters: &Parameters) -> Self {
        let (waited, runs) = (Duration::ZERO, runs(parameters));
        Self { adam, reducer, runs, step: None, waited, failure: None }
    }

    /// Begins a step with the gradients that are on their way, times `scale`; `rate` is the learning
    /// rate of a parameter's name.
    pub fn begin(&mut self, parameters: &Parameters, scale: f64, rate: impl Fn(&str) -> f64) {
        self.adam.begin();
        let rate = |run: &Run| Some(rate(&parameters.names[run.parameters.start]));
        self.step = Some(Step { scale, rates: self.runs.iter().map(rate).collect() });
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
            let mut part = gradients.narrow(0, start, count);
            if step.scale != 1.0 {
                part *= step.scale;
            }
            self.adam.update(parameters, &run, &gradients, rate);
            step.rates[index] = None;
        }
        self.step = Some(step);
        Ok(())
    }
}
