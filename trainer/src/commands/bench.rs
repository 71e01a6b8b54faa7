//! `tandem-worker bench`.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use serde_json::Value;
use tandem_cluster::run::exit::Exit;
use tandem_config::schema::cluster::Reduction;
use tandem_config::schema::training::Precision;
use tch::Device;

use super::DeviceArg;
use crate::device::precision::Kinds;
use crate::parallel::Collective;
use crate::verify::bench::{self, Workload};

/// What is timed.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// A step for each batch: forward, backward, Adam, with dropout 0.1.
    Train(Args),
    /// Mask-Predict with given length candidates.
    Decode(DecodeArgs),
    /// The reduction of gradients among the ranks that mpirun started, with nothing to compute and
    /// behind a computation.
    Reduce(ReduceArgs),
}

/// Settings of training and decoding.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A model folder in the parity layout.
    #[arg(long)]
    model: PathBuf,
    /// Batches as tab-separated ids; lines that begin with # are comments.
    #[arg(long)]
    batches: PathBuf,
    /// What computes.
    #[arg(long, value_enum, default_value_t)]
    device: DeviceArg,
    /// Precision of the computation.
    #[arg(long, default_value = "f32")]
    dtype: Dtype,
    /// CPU threads.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(i32).range(1..))]
    threads: i32,
    /// How often the batches are run.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
}

/// Settings of decoding.
#[derive(Debug, clap::Args)]
pub(super) struct DecodeArgs {
    #[command(flatten)]
    args: Args,
    /// Padded source tokens of a batch; 1 decodes each sentence alone.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    decode_tokens: u32,
}

/// Settings of the reduction.
#[derive(Debug, clap::Args)]
pub(super) struct ReduceArgs {
    /// Sum in the order that any number of ranks has.
    #[arg(long)]
    reproducible: bool,
    /// Micro-batches of a step, over all ranks; by default one for each.
    #[arg(long)]
    shards: Option<usize>,
    /// Trained layers.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..))]
    layers: u32,
    /// MiB of all gradients.
    #[arg(long, default_value_t = 24.0)]
    mib: f64,
    /// MiB of a bucket.
    #[arg(long, default_value_t = 2.0)]
    bucket_mib: f64,
    /// The share of backward in the computation.
    #[arg(long, default_value_t = 0.5)]
    backward: f64,
    /// Wait for all sums before forward, as training does where it clips gradients.
    #[arg(long)]
    waits_for_all: bool,
    /// How many times as long as the communication alone the computation takes; several in turn.
    #[arg(long, value_delimiter = ',', default_values_t = [1.0, 4.0])]
    ratios: Vec<f64>,
    /// Steps in a row, of which the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    Tf32,
    Bf16,
}

impl Command {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        match self {
            Self::Train(args) => args.run("train", bench::train),
            Self::Decode(DecodeArgs { args, decode_tokens }) => {
                args.run("decode", |work| bench::decode(work, decode_tokens as usize))
            }
            Self::Reduce(args) => args.run(),
        }
    }
}

impl Args {
    fn run(
        &self,
        verb: &str,
        measure: impl FnOnce(&Workload) -> anyhow::Result<Value>,
    ) -> anyhow::Result<Exit> {
        tch::set_num_threads(self.threads);
        let device = self.device.find()?;
        if device == Device::Cpu {
            crate::device::native::tune_cpu();
        }
        let (dtype, precision) = match self.dtype {
            Dtype::F32 => ("f32", Precision::F32),
            Dtype::Tf32 => ("tf32", Precision::Tf32),
            Dtype::Bf16 => ("bf16", Precision::Bf16),
        };
        let mut measured = measure(&Workload {
            model: &self.model,
            batches: &self.batches,
            device,
            kinds: Kinds::new(precision, device),
            repeats: self.repeats,
        })?;
        measured["verb"] = verb.into();
        measured["dtype"] = dtype.into();
        measured["device"] = if device.is_cuda() { "cuda" } else { "cpu" }.into();
        measured["threads"] = self.threads.into();
        measured["peak_resident_bytes"] = crate::training::metrics::peak_rss_bytes().into();
        println!("{measured}");
        Ok(Exit::Done)
    }
}

impl ReduceArgs {
    fn run(&self) -> anyhow::Result<Exit> {
        let (_universe, mpi) = super::rank::started_by_mpirun()?;
        let is_first = mpi.rank() == 0;
        let elements = |mib: f64| (mib * (1 << 18) as f64) as usize;
        let settings = bench::reduction::Settings {
            reduction: if self.reproducible { Reduction::Reproducible } else { Reduction::Plain },
            shards: self.shards.unwrap_or(mpi.world_size()).max(1),
            layers: self.layers as usize,
            weights: elements(self.mib) / self.layers as usize,
            bucket_elements: elements(self.bucket_mib),
            backward: self.backward.clamp(0.0, 1.0),
            waits_for_all: self.waits_for_all,
            ratios: self.ratios.iter().map(|ratio| ratio.clamp(0.0, 100.0)).collect(),
            steps: self.steps as usize,
        };
        let measured = bench::reduction::run(Box::new(mpi), &settings)?;
        if is_first {
            println!("{measured}");
        }
        Ok(Exit::Done)
    }
}
