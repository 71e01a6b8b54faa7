//! `tandem-worker bench`.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use tandem_config::training::Precision;
use tch::Device;

use crate::bench;
use crate::precision::Kinds;

/// What is timed.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// A step for each batch: forward, backward, Adam, with dropout 0.1.
    Train(Args),
    /// Mask-Predict with given length candidates.
    Decode(Args),
}

/// Settings of both.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A model folder in the parity layout.
    #[arg(long)]
    model: PathBuf,
    /// Batches as tab-separated ids; lines that begin with # are comments.
    #[arg(long)]
    batches: PathBuf,
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

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    Bf16,
}

impl Command {
    pub fn run(self) -> anyhow::Result<u8> {
        let (Self::Train(args) | Self::Decode(args)) = &self;
        tch::set_num_threads(args.threads);
        crate::native::tune_cpu();
        let (dtype, precision) = match args.dtype {
            Dtype::F32 => ("f32", Precision::F32),
            Dtype::Bf16 => ("bf16", Precision::Bf16),
        };
        let kinds = Kinds::new(precision, Device::Cpu);
        let (verb, mut measured) = match &self {
            Self::Train(_) => {
                ("train", bench::train(&args.model, &args.batches, kinds, args.repeats)?)
            }
            Self::Decode(_) => {
                ("decode", bench::decode(&args.model, &args.batches, kinds, args.repeats)?)
            }
        };
        measured["verb"] = verb.into();
        measured["dtype"] = dtype.into();
        measured["threads"] = args.threads.into();
        measured["peak_resident_bytes"] = crate::metrics::peak_rss_bytes().into();
        println!("{measured}");
        Ok(0)
    }
}
