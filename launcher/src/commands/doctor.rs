//! `tandem doctor`: checks a machine, and whether a run would work on it.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use crate::doctor::gpu_test::{self, Collectives, GpuTest, Setting, Tested};
use crate::doctor::{CHECKS, Finding, Level, Site, examine};
use crate::prepare::worker;
use crate::terminal::exit::{Exit, Refused};
use crate::terminal::output;

/// Find problems that would keep this machine, or a run on it, from working, and say how to fix them.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A config, to check a run of it as well.
    config: Option<PathBuf>,
    /// Change a key of the config: path.to.key=value.
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    overrides: Vec<String>,
    /// Test and measure all visible GPUs, alone and together, for at most 90 s.
    #[arg(long)]
    gpu: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The output of `--gpu --json`.
#[derive(Serialize)]
struct GpuReport {
    findings: Vec<Finding>,
    gpus: Vec<Tested>,
    collectives: Option<Collectives>,
    verdict: String,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let deadline = Instant::now() + gpu_test::LONGEST;
        let site = Site::look(self.config.as_deref(), &self.overrides);
        let findings = examine(&site);
        let failed = |finding: &&Finding| finding.level == Level::Fail;
        let failures = findings.iter().filter(failed).count();
        if !self.json {
            let lines: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
            let (checks, warnings) = (CHECKS.len(), findings.len() - failures);
            output::print(format_args!(
                "{lines}{checks} checks: {failures} failures, {warnings} warnings"
            ))?;
        }
        if self.gpu {
            return self.test_gpus(&site, findings, deadline);
        }
        if self.json {
            output::print(serde_json::to_string_pretty(&findings)?)?;
        }
        Ok(if failures == 0 { Exit::Done } else { Exit::Failed })
    }

    /// Has the worker test all GPUs, and prints the results and a verdict that includes the findings.
    fn test_gpus(
        &self,
        site: &Site,
        findings: Vec<Finding>,
        deadline: Instant,
    ) -> anyhow::Result<Exit> {
        let machine = &site.machine;
        if machine.gpus == 0 {
            let refused = Refused(format!("there is no GPU to test ({})", machine.gpus_by));
            if self.json {
                let verdict = refused.to_string();
                GpuReport { findings, gpus: Vec::new(), collectives: None, verdict }.print()?;
            }
            return Err(refused.into());
        }
        let nccl = match site.found_libraries() {
            Some(libraries) => {
                let reason = libraries.no_nccl.as_deref().unwrap_or("NCCL cannot be used");
                libraries.nccl.as_deref().ok_or(reason)
            }
            None => Err("the worker does not start"),
        };
        let setting = Setting { machine, worker: &worker::find()?, nccl, deadline };
        let test = GpuTest::run(&setting, &mut |line| {
            if !self.json {
                // Printing the verdict reports an output that cannot be written.
                let _ = output::print(line);
            }
        })?;
        let failed = findings.iter().filter(|finding| finding.level == Level::Fail);
        let mut failures: Vec<String> = failed.map(|finding| finding.check.into()).collect();
        failures.extend(test.failures());
        let (exit, verdict) = match failures.is_empty() {
            true => (Exit::Done, format!("pass: {}", test.success())),
            false => (Exit::Failed, format!("fail: {}", failures.join("; "))),
        };
        if self.json {
            let GpuTest { gpus, collectives } = test;
            GpuReport { findings, gpus, collectives: Some(collectives), verdict }.print()?;
        } else {
            output::print(verdict)?;
        }
        Ok(exit)
    }
}

impl GpuReport {
    fn print(&self) -> anyhow::Result<()> {
        output::print(serde_json::to_string_pretty(self)?).map(drop)
    }
}
