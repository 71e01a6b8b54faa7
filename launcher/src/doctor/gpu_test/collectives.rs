//! What the GPUs do together: the worker's conformance test, started by mpirun.

use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;
use tandem_cluster::engine::{self, Job};
use tandem_cluster::run::atomic::Scratch;
use tandem_cluster::topology::{Device, EngineKind, OLDEST_SHARING_NCCL, Share, Topology};

use super::Setting;

/// The largest tensor of the bandwidth test.
const MEBIBYTES: &str = "256";
/// What NCCL's own deadline leaves for its words to arrive.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// What was found of the collective operations.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Collectives {
    /// How many ranks were tested; 0 if none could be.
    pub ranks: usize,
    /// What the test said.
    pub lines: Vec<String>,
    /// What was not tested, and why.
    pub note: Option<String>,
    /// Why the test failed, if it did.
    pub error: Option<String>,
}

/// Which ranks are tested.
struct Ranks {
    count: usize,
    per_gpu: usize,
    note: Option<String>,
}

impl Ranks {
    /// One for each GPU; two for a single one, if they may share it.
    fn choose(gpus: usize, nccl: Result<&str, &str>) -> Self {
        match nccl {
            _ if gpus > 1 => Self { count: gpus, per_gpu: 1, note: None },
            Ok(version) if shares(version) => Self { count: 2, per_gpu: 2, note: None },
            Ok(version) => {
                let (major, minor) = OLDEST_SHARING_NCCL;
                let note = format!(
                    "NCCL {version} does not let ranks share a GPU ({major}.{minor} does): with one \
                     GPU, only one rank was tested"
                );
                Self { count: 1, per_gpu: 1, note: Some(note) }
            }
            Err(reason) => {
                let note = format!(
                    "the collective operations, which one GPU does not need, were not tested: {reason}"
                );
                Self { count: 0, per_gpu: 1, note: Some(note) }
            }
        }
    }
}

fn shares(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    numbers.next().zip(numbers.next()).is_some_and(|version| version >= OLDEST_SHARING_NCCL)
}

impl Collectives {
    pub(super) fn run(setting: &Setting, tell: &mut dyn FnMut(&str)) -> anyhow::Result<Self> {
        let Ranks { count, per_gpu, note } = Ranks::choose(setting.machine.gpus, setting.nccl);
        let mut found = Self { ranks: count, note, ..Self::default() };
        if count > 0 {
            found.test(setting, per_gpu)?;
        }
        for line in &found.lines {
            tell(&format!("     {line}"));
        }
        match (&found.error, count) {
            (Some(error), _) => tell(&format!("FAIL {error}")),
            (None, 0) => {}
            (None, _) => tell(&format!("ok   collective operations: {}", found.success())),
        }
        if let Some(note) = &found.note {
            tell(&format!("     {note}"));
        }
        Ok(found)
    }

    fn test(&mut self, setting: &Setting, per_gpu: usize) -> anyhow::Result<()> {
        let (host, ranks) = (setting.machine.host.clone(), self.ranks);
        let topology = Topology {
            ranks,
            device: Device::Cuda,
            workers_per_gpu: per_gpu,
            threads: 1,
            engine: EngineKind::Mpirun,
            hosts: vec![Share { host, ranks }],
        };
        let longest = setting.deadline.saturating_duration_since(Instant::now());
        let deadline = longest.saturating_sub(DRAIN_TIMEOUT).as_secs().max(1).to_string();
        let per_gpu = per_gpu.to_string();
        let mut arguments = vec!["conformance", "--backend", "nccl", "--deadline", &deadline];
        arguments.extend(["--workers-per-gpu", &per_gpu]);
        if ranks > 1 {
            arguments.extend(["--bandwidth", MEBIBYTES]);
        }
        let mut environment = topology.sharing_environment();
        environment.push(("OMP_NUM_THREADS".into(), "1".into()));
        let job = Job {
            program: setting.worker.to_owned(),
            arguments: arguments.into_iter().map(String::from).collect(),
            environment,
        };
        let scratch = Scratch::new().context("no place for what the test says")?;
        let log = scratch.path().join("conformance.log");
        let mut group = engine::start(&topology, &job, &log)?;
        let status = group.wait(longest.max(Duration::from_secs(1)));
        if status.is_none() {
            group.end(&[]);
        }
        let text = std::fs::read_to_string(&log).context("cannot read what the test said")?;
        self.lines = text.lines().map(str::to_owned).collect();
        self.error = match status {
            Some(status) if status.success() => None,
            Some(_) => Some("collective operations".into()),
            None => {
                let seconds = longest.as_secs_f64();
                Some(format!("the collective operations did not end within {seconds:.0} s"))
            }
        };
        Ok(())
    }

    /// What has been shown, for people, if nothing failed.
    pub(crate) fn success(&self) -> String {
        match self.ranks {
            0 => "what GPUs do together was not tested".into(),
            1 => "one rank conforms".into(),
            ranks => format!("{ranks} ranks work together"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_gpu_is_shared_where_nccl_allows_it() {
        let ranks = |gpus, nccl| {
            let Ranks { count, per_gpu, note } = Ranks::choose(gpus, nccl);
            (count, per_gpu, note.is_some())
        };
        assert_eq!(ranks(8, Ok("2.29.7")), (8, 1, false));
        assert_eq!(ranks(2, Err("too old")), (2, 1, false));
        assert_eq!(ranks(1, Ok("2.30.0")), (2, 2, false));
        assert_eq!(ranks(1, Ok("3.0.1")), (2, 2, false));
        assert_eq!(ranks(1, Ok("2.29.7")), (1, 1, true));
        assert_eq!(ranks(1, Err("too old")), (0, 1, true));
        let note = Ranks::choose(1, Ok("2.29.7")).note.unwrap();
        assert!(
            note.starts_with("NCCL 2.29.7 does not let ranks share a GPU (2.30 does)"),
            "{note}"
        );
    }
}
