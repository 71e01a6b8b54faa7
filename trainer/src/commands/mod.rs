//! The verbs of `tandem-worker`.

mod bench;
mod check_gpu;
mod conformance;
mod evaluate;
mod libraries;
mod rank;
mod serve;
mod train;
mod translate;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use tandem_cluster::error::with_causes;
use tandem_cluster::run::exit::Exit;
use tandem_config::schema::cluster::Device as DeviceConfig;
use tch::Device;

/// One rank of a Tandem run; started by `tandem`, except for `parity`, `bench`,
/// `conformance`, `check-gpu` and `libraries`.
#[derive(Debug, Parser)]
#[command(name = "tandem-worker", version)]
enum Command {
    /// Train the run in a folder.
    Train(train::Args),
    /// Score a checkpoint on a split.
    Evaluate(evaluate::Args),
    /// Translate a file, line by line.
    Translate(translate::Args),
    /// Translate sentences that the coordinator sends, until it asks to stop.
    Serve(serve::Args),
    /// Time fixed batches on a model of the parity layout; prints one line of JSON.
    #[command(subcommand)]
    Bench(bench::Command),
    /// Test the collective operations of the ranks that mpirun started.
    Conformance(conformance::Args),
    /// Compare a GPU's numbers with the CPU's, and measure its speed.
    CheckGpu(check_gpu::Args),
    /// Print which libraries this program finds, as JSON.
    Libraries,
    /// Compare this program with what the authors' released code computed.
    Parity {
        /// A folder of the parity format.
        folder: PathBuf,
        /// What computes, in f32.
        #[arg(long, value_enum, default_value_t)]
        device: DeviceArg,
    },
}

/// The device, for commands that have no run.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum DeviceArg {
    /// The CPU.
    #[default]
    Cpu,
    /// The first visible GPU.
    Cuda,
}

impl DeviceArg {
    /// # Errors
    /// There is no GPU, or CUDA cannot be used.
    fn find(self) -> anyhow::Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda => crate::session::worker::device(DeviceConfig::Cuda, 1, 0),
        }
    }
}

/// Runs the verb that the command line names.
pub fn main() -> ExitCode {
    // SAFETY: the program has just begun.
    unsafe { crate::device::native::bound_caches() };
    tandem_cluster::process::end_on_panic();
    let result = match Command::parse() {
        Command::Train(args) => args.run(),
        Command::Evaluate(args) => args.run(),
        Command::Translate(args) => args.run(),
        Command::Serve(args) => args.run(),
        Command::Bench(command) => command.run(),
        Command::Conformance(args) => args.run(),
        Command::CheckGpu(args) => args.run(),
        Command::Libraries => libraries::run(),
        Command::Parity { folder, device } => {
            let agrees =
                device.find().and_then(|device| crate::verify::parity::run(&folder, device));
            agrees.map(|agrees| if agrees { Exit::Done } else { Exit::Failed })
        }
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("error: {}", with_causes(error.as_ref()));
            Exit::Failed.into()
        }
    }
}
