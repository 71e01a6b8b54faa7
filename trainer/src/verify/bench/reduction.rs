//! How much of the reduction of gradients hides behind the computation.
//!
//! The reducer, its communication thread and the network are real; the computation is not: each
//! rank sleeps instead, so that the network alone decides, also on few CPUs. Backward is a share of
//! the computation, and reaches layer after layer, as in training; so does the next step's forward,
//! which needs each layer's sums before it passes.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tandem_config::parameters::{Init, Parameter};
use tandem_config::schema::cluster::{GradientDtype, Reduction};
use tch::{Device, Kind, Tensor};

use crate::model::Parameters;
use crate::parallel::{Collective, Reducer, reducer};

/// What is reduced.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// In which order the sum is taken.
    pub reduction: Reduction,
    /// Micro-batches of a step, over all ranks.
    pub shards: usize,
    /// Trained layers, with as many weights each.
    pub layers: usize,
    /// Weights of a layer.
    pub weights: usize,
    /// Elements of a bucket.
    pub bucket_elements: usize,
    /// The share of backward in the computation.
    pub backward: f64,
    /// Whether forward waits for all sums, as it does where gradients are clipped.
    pub waits_for_all: bool,
    /// How many times as long as the communication alone the computation takes.
    pub ratios: Vec<f64>,
    /// Steps in a row, of which the median counts.
    pub steps: usize,
}

/// Times steps without computation, then with computations that take so many times as long; what
/// is exposed of the communication is a share of the step.
///
/// # Errors
/// A failing communication library.
pub(crate) fn run(collective: Box<dyn Collective>, settings: &Settings) -> anyhow::Result<Value> {
    let Settings { reduction, shards, layers, weights, bucket_elements, .. } = *settings;
    let world_size = collective.world_size();
    let layer = |index| Parameter {
        name: format!("layer.{index}"),
        shape: vec![weights],
        trained: true,
        init: Init::Ones,
    };
    let list: Vec<Parameter> = (0..layers).map(layer).collect();
    let parameters = Parameters::new(&list, &[], 1, Kind::Float, Device::Cpu)?;
    let dtype = GradientDtype::F32;
    let into_forward = !settings.waits_for_all;
    let reduced =
        reducer::Settings { reduction, dtype, shards, sums: 1, bucket_elements, into_forward };
    let reducer = Reducer::new(collective, &parameters, &reduced);
    let mut bench = Steps { parameters, reducer, world_size, settings };
    let communication = bench.median(Duration::ZERO)?;
    let mut measured = json!({
        "ranks": world_size,
        "shards": shards,
        "reduction": reduction,
        "bytes": layers * weights * size_of::<f32>(),
        "communication_seconds": communication.as_secs_f64(),
    });
    let mut behind = Vec::new();
    for &ratio in &settings.ratios {
        let compute = communication.mul_f64(ratio);
        let step = bench.median(compute)?;
        let exposed = step.saturating_sub(compute).as_secs_f64() / step.as_secs_f64();
        behind.push(json!({
            "computation_to_communication": ratio,
            "step_seconds": step.as_secs_f64(),
            "exposed": exposed,
        }));
    }
    measured["behind"] = behind.into();
    Ok(measured)
}

struct Steps<'a> {
    parameters: Parameters,
    reducer: Reducer,
    world_size: usize,
    settings: &'a Settings,
}

impl Steps<'_> {
    /// The median time from one step's sums to the next one's, where each step computes so long; the
    /// same on each rank.
    fn median(&mut self, compute: Duration) -> anyhow::Result<Duration> {
        // Connections are made, and memory is taken, once.
        self.step(compute)?;
        let mut own = Vec::new();
        for _ in 0..self.settings.steps {
            let started = Instant::now();
            self.step(compute)?;
            own.push(started.elapsed());
        }
        let mut seconds = Vec::new();
        for elapsed in own {
            let all_ranks = self.reducer.total(elapsed.as_secs_f32())?;
            seconds.push(all_ranks / self.world_size as f64);
        }
        seconds.sort_by(f64::total_cmp);
        Ok(Duration::from_secs_f64(seconds[seconds.len() / 2]))
    }

    fn step(&mut self, compute: Duration) -> anyhow::Result<()> {
        let layers = &self.parameters.trained;
        let own = self.reducer.shards().len();
        let backward = compute.mul_f64(self.settings.backward);
        let of_layer = |computation: Duration| computation / (own * layers.len()) as u32;
        if self.settings.waits_for_all {
            self.reducer.finish()?;
        }
        for index in 0..own {
            for layer in 0..layers.len() {
                let weights = self.settings.weights;
                self.reducer.wait_for(&(layer * weights..(layer + 1) * weights))?;
                std::thread::sleep(of_layer(compute - backward));
            }
            self.reducer.finish()?;
            self.reducer.begin(index, &Tensor::zeros([1], (Kind::Float, Device::Cpu)));
            for layer in layers.iter().rev() {
                std::thread::sleep(of_layer(backward));
                layer.sum(Kind::Float).backward();
            }
            self.reducer.end(index);
        }
        self.reducer.send_rest();
        let _sums = self.reducer.sums()?;
        Ok(())
    }
}
