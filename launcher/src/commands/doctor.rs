//! `tandem doctor`: whether this machine works, or a run on it would.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tandem_cluster::engine::{self, Job};
use tandem_cluster::room::Machine;
use tandem_cluster::topology::{Device, EngineKind, Share, Topology};

use crate::doctor::{CHECKS, Level, Site, examine};
use crate::exit::{Exit, Refused};
use crate::{output, worker};

/// How long the test of the GPUs may take.
const GPU_DEADLINE: Duration = Duration::from_secs(180);
/// The largest tensor of the bandwidth test.
const MEBIBYTES: &str = "256";

/// Find out what keeps this machine, or a run on it, from working, and what helps.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's config, which is looked at as well.
    config: Option<PathBuf>,
    /// Change a key of the config: path.to.key=value.
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    overrides: Vec<String>,
    /// Test the collective operations of all visible GPUs, and their bandwidth.
    #[arg(long)]
    gpu: bool,
    /// Print JSON.
    #[arg(long, conflicts_with = "gpu")]
    json: bool,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// A test of the GPUs that cannot be started.
    pub fn run(self) -> anyhow::Result<Exit> {
        let findings = examine(&Site::look(self.config.as_deref(), &self.overrides));
        let failures = findings.iter().filter(|finding| finding.level == Level::Fail).count();
        if self.json {
            output::print(serde_json::to_string_pretty(&findings)?)?;
        } else {
            let lines: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
            let (checks, warnings) = (CHECKS.len(), findings.len() - failures);
            output::print(format_args!(
                "{lines}{checks} checks: {failures} failures, {warnings} warnings"
            ))?;
        }
        let exit = if failures == 0 { Exit::Done } else { Exit::Failed };
        if self.gpu { Ok(worse(exit, test_gpus()?)) } else { Ok(exit) }
    }
}

fn worse(one: Exit, other: Exit) -> Exit {
    if one == Exit::Done { other } else { one }
}

/// Runs the worker's own test on all GPUs, and prints what it says.
fn test_gpus() -> anyhow::Result<Exit> {
    let machine = Machine::this();
    if machine.gpus == 0 {
        let reason = machine.gpus_by;
        return Err(Refused(format!("there is no GPU to test ({reason})")).into());
    }
    let topology = Topology {
        ranks: machine.gpus,
        device: Device::Cuda,
        workers_per_gpu: 1,
        threads: 1,
        engine: EngineKind::Mpirun,
        hosts: vec![Share { host: machine.host, ranks: machine.gpus }],
    };
    let arguments = ["conformance", "--backend", "nccl", "--bandwidth", MEBIBYTES];
    let job = Job {
        program: worker::find()?,
        arguments: arguments.map(String::from).into(),
        environment: vec![("OMP_NUM_THREADS".into(), "1".into())],
    };
    let log = std::env::temp_dir().join(format!("tandem-doctor-{}.log", std::process::id()));
    let mut group = engine::start(&topology, &job, &log)?;
    let status = group.wait(GPU_DEADLINE);
    if status.is_none() {
        group.end(&[]);
    }
    let text = std::fs::read_to_string(&log).context("cannot read what the test said")?;
    let _ = std::fs::remove_file(&log);
    output::write(text)?;
    let passed = status.is_some_and(|status| status.success());
    let seconds = GPU_DEADLINE.as_secs();
    output::print(match (passed, status) {
        (true, _) => format!("pass: {} GPUs work together", topology.ranks),
        (false, Some(_)) => format!("fail: {} GPUs do not work together", topology.ranks),
        (false, None) => format!("fail: the test did not end within {seconds} s"),
    })?;
    Ok(if passed { Exit::Done } else { Exit::Failed })
}
