//! How much of the reduction of gradients hides behind the computation.
//!
//! The reducer, its communication thread and the network are real; the computation is not: each
//! rank sleeps instead, so that the network alone decides, also on few CPUs. Backward is a share of
//! the computation, and reaches layer after layer, as in training.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tandem_config::cluster::{GradientDtype, Reduction};
use tandem_config::parameters::{Init, Parameter};
use tch::{Device, Kind, Tensor};

use crate::model::Parameters;
use crate::parallel::{Collective, Reducer, reducer};

/// What is reduced.
#[derive(Debug, Clone)]
pub struct Settings {
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
    /// How many times as long as the communication alone the computation takes.
    pub ratios: Vec<f64>,
    /// Steps of which the median counts.
    pub steps: usize,
}

/// Times a step without computation, then with computations that take so many times as long; what
/// is exposed of the communication is a share of the step.
///
/// # Errors
/// A failing communication library.
pub fn run(collective: Box<dyn Collective>, settings: &Settings) -> anyhow::Result<Value> {
    let Settings { reduction, shards, layers, weights, bucket_elements, steps, .. } = *settings;
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
    let reduced = reducer::Settings { reduction, dtype, shards, sums: 1, bucket_elements };
    let reducer = Reducer::new(collective, &parameters, &reduced);
    let (size, backward) = (world_size as f64, settings.backward);
    let mut bench = Steps { parameters, reducer, world_size: size, backward, steps };
    // Connections are made, and memory is taken, once.
    bench.step(Duration::ZERO)?;
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

struct Steps {
    parameters: Parameters,
    reducer: Reducer,
    world_size: f64,
    backward: f64,
    steps: usize,
}

impl Steps {
    /// The median time of a step that computes so long; the same on each rank.
    fn median(&mut self, compute: Duration) -> anyhow::Result<Duration> {
        let mut seconds = Vec::new();
        for _ in 0..self.steps {
            seconds.push(self.step(compute)?);
        }
        seconds.sort_by(f64::total_cmp);
        Ok(Duration::from_secs_f64(seconds[seconds.len() / 2]))
    }

    /// The time of a step, as the ranks' mean.
    fn step(&mut self, compute: Duration) -> anyhow::Result<f64> {
        let started = Instant::now();
        let layers = &self.parameters.trained;
        let backward = compute.mul_f64(self.backward);
        let own = self.reducer.shards().len();
        for index in 0..own {
            std::thread::sleep((compute - backward) / own as u32);
            self.reducer.begin(index, &Tensor::from_slice(&[1f32]));
            for layer in layers.iter().rev() {
                std::thread::sleep(backward / (own * layers.len()) as u32);
                layer.sum(Kind::Float).backward();
            }
            self.reducer.end(index);
        }
        self.reducer.finish()?;
        let seconds = started.elapsed().as_secs_f64();
        Ok(self.reducer.total(seconds as f32)? / self.world_size)
    }
}
