//! `tandem-worker check-gpu`.

use std::fmt::Display;

use tandem_cluster::run::exit::Exit;
use tch::Device;

use super::DeviceArg;
use crate::verify::check_gpu;

/// Compare a GPU's numbers with the CPU's, and measure its speed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which of the visible GPUs, counted from 0.
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    gpu: usize,
    /// Print one JSON object at the end; lines for people go to standard error.
    #[arg(long)]
    json: bool,
    /// Compare the CPU with itself: for tests.
    #[arg(long, hide = true, value_enum, default_value_t = DeviceArg::Cuda)]
    device: DeviceArg,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let device = match self.device {
            DeviceArg::Cuda => check_gpu::device(self.gpu)?,
            DeviceArg::Cpu => Device::Cpu,
        };
        let tell = |line: &dyn Display| match self.json {
            true => eprintln!("{line}"),
            false => println!("{line}"),
        };
        let report = check_gpu::run(device, &tell)?;
        if self.json {
            println!("{}", serde_json::to_string(&report)?);
        }
        Ok(if report.failures().next().is_some() { Exit::Failed } else { Exit::Done })
    }
}
