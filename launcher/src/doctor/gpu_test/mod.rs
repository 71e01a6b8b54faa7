//! `tandem doctor --gpu`: each GPU against the CPU, then all of them together, within a deadline.

mod collectives;
mod telling;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Serialize;
use tandem_cluster::hosts::Machine;
use tandem_cluster::run::gpu_report::GpuReport;

pub(crate) use collectives::Collectives;
use telling::{Ended, run};

/// How long the whole of `tandem doctor --gpu` may take.
pub(crate) const LONGEST: Duration = Duration::from_secs(90);
/// What the GPUs one by one leave of it to the collective operations.
const FOR_COLLECTIVES: Duration = Duration::from_secs(30);

/// What the test needs to know.
pub(crate) struct Setting<'a> {
    /// The machine whose GPUs are tested.
    pub machine: &'a Machine,
    /// The worker program.
    pub worker: &'a Path,
    /// NCCL's version, or why it cannot be used.
    pub nccl: Result<&'a str, &'a str>,
    /// When all of it must have ended.
    pub deadline: Instant,
}

/// What the test has found.
#[derive(Debug, Serialize)]
pub(crate) struct GpuTest {
    /// Each GPU.
    pub gpus: Vec<Tested>,
    /// What they do together.
    pub collectives: Collectives,
}

/// A GPU that was tested.
#[derive(Debug, Serialize)]
pub(crate) struct Tested {
    /// Its number among the visible ones.
    pub gpu: usize,
    /// What was found; none if the test did not get that far.
    pub report: Option<GpuReport>,
    /// Why it did not.
    pub error: Option<String>,
}

impl GpuTest {
    /// Tests all GPUs, one after another and then together; prints each line as soon as it is known.
    ///
    /// # Errors
    /// A worker that cannot be started, or a log that cannot be read.
    pub(crate) fn run(setting: &Setting, tell: &mut dyn FnMut(&str)) -> anyhow::Result<Self> {
        let count = setting.machine.gpus;
        let mut gpus = Vec::new();
        for gpu in 0..count {
            let mut tell = |line: &str| match count {
                1 => tell(line),
                _ => tell(&format!("GPU {gpu}  {line}")),
            };
            gpus.push(Tested::run(setting, gpu, &mut tell)?);
        }
        let collectives = Collectives::run(setting, tell)?;
        Ok(Self { gpus, collectives })
    }

    /// What failed, for people: empty if nothing did.
    pub(crate) fn failures(&self) -> Vec<String> {
        let several = self.gpus.len() > 1;
        let name = |gpu: usize| if several { format!("GPU {gpu}: ") } else { String::new() };
        let of_gpus = self.gpus.iter().filter_map(|tested| {
            let words = tested.failure()?;
            Some(format!("{}{words}", name(tested.gpu)))
        });
        of_gpus.chain(self.collectives.error.clone()).collect()
    }

    /// What has been shown, for people, if nothing failed.
    pub(crate) fn success(&self) -> String {
        let together = self.collectives.success();
        match self.gpus.len() {
            1 => format!("the GPU computes what the CPU does; {together}"),
            count => format!("{count} GPUs compute what the CPU does; {together}"),
        }
    }
}

impl Tested {
    fn run(setting: &Setting, gpu: usize, tell: &mut dyn FnMut(&str)) -> anyhow::Result<Self> {
        let left = setting.deadline.saturating_duration_since(Instant::now());
        let longest = left.saturating_sub(FOR_COLLECTIVES);
        let mut command = Command::new(setting.worker);
        command.args(["check-gpu", "--json", "--gpu", &gpu.to_string()]);
        let mut last = String::new();
        let ended = run(&mut command, longest, &mut |line| {
            line.clone_into(&mut last);
            tell(line);
        })?;
        let error = match ended {
            Ended::InTime { printed, .. } if !printed.trim().is_empty() => {
                match serde_json::from_str(&printed) {
                    Ok(report) => return Ok(Self { gpu, report: Some(report), error: None }),
                    Err(_) => "the worker is of another version of Tandem".into(),
                }
            }
            Ended::InTime { status, .. } => {
                format!("the test ended early ({status}): {}", last.trim())
            }
            Ended::Late => format!(
                "the test did not end within {:.0} s; the last line was `{}`",
                longest.as_secs_f64(),
                last.trim()
            ),
        };
        tell(&format!("FAIL {error}"));
        Ok(Self { gpu, report: None, error: Some(error) })
    }

    fn failure(&self) -> Option<String> {
        let Some(report) = &self.report else { return self.error.clone() };
        let failed: Vec<&str> = report.failures().collect();
        (!failed.is_empty()).then(|| failed.join(", "))
    }
}

#[cfg(test)]
mod tests;
