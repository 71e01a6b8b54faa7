//! Several hosts without Slurm: a hostfile, and Open MPI's own remote start.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tandem_tests::live::{Run, eventually};
use tandem_tests::{Tiny, adapters, processes};
use tempfile::TempDir;

use crate::lab::{script, state, tandem};

const STEPS: u64 = 1200;
/// How soon a host that is cut off is to be missed.
const DEADLINE: Duration = Duration::from_secs(15);

const SETTINGS: [&str; 7] = [
    "training.log_every=50",
    "evaluation.every=0",
    "evaluation.sentences=4",
    "checkpoints.every=50",
    "checkpoints.keep_last=2",
    "cluster.reduction=reproducible",
    "cluster.max_restarts=9",
];

/// What leads mpirun to the simulated hosts, and keeps it from using anything but their network.
const OPEN_MPI: [(&str, &str); 6] = [
    ("plm", "rsh"),
    ("plm_rsh_no_tree_spawn", "1"),
    ("pml", "ob1"),
    ("btl", "tcp,self"),
    ("btl_tcp_if_include", "eth0"),
    ("oob_tcp_if_include", "eth0"),
];

/// Hosts n1 and n2, and n0 for the launcher.
struct Hosts {
    folder: TempDir,
}

impl Hosts {
    fn start() -> Self {
        let hosts = Self { folder: tempfile::Builder::new().prefix("hosts").tempdir().unwrap() };
        hosts.script("up", &["2"]);
        std::fs::write(hosts.path("hostfile"), "n1 slots=1\nn2 slots=1 # the other\n").unwrap();
        hosts
    }

    fn script(&self, verb: &str, arguments: &[&str]) {
        let mut command = Command::new("timeout");
        command.arg("60").arg(script("hosts.sh")).arg(verb).arg(self.folder.path());
        let log = std::fs::File::create(self.path("script.out")).unwrap();
        command.args(arguments).stdout(log.try_clone().unwrap()).stderr(log);
        let status = command.status().unwrap();
        let text = std::fs::read_to_string(self.path("script.out")).unwrap();
        assert!(status.success(), "hosts.sh {verb} {arguments:?}: {status}\n{text}");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Launches a run from n0.
    fn launch(&self, tiny: &Tiny, name: &str, more: &[&str]) -> (Child, PathBuf) {
        let mut command = Command::new(script("hosts.sh"));
        command.arg("head").arg(self.folder.path());
        command.args([tandem().as_str(), "launch"]).arg(tiny.ab_net(name, 0, 0.1));
        let (steps, hostfile) = (
            format!("training.steps={STEPS}"),
            format!("cluster.hostfile={}", self.path("hostfile").display()),
        );
        for setting in SETTINGS.iter().chain(&[steps.as_str(), hostfile.as_str()]).chain(more) {
            command.args(["--set", setting]);
        }
        for (name, value) in OPEN_MPI {
            command.env(format!("OMPI_MCA_{name}"), value);
        }
        command.env("OMPI_MCA_plm_rsh_agent", self.path("agent"));
        let log = std::fs::File::create(tiny.path(&format!("{name}.out"))).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        (command.spawn().unwrap(), tiny.path(name))
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let status = Command::new(script("hosts.sh")).arg("down").arg(self.folder.path()).status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("the hosts in {} did not go down", self.folder.path().display());
        }
    }
}

fn events(run: &Path, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("events.jsonl")).unwrap_or_default();
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["event"] == name).collect()
}

fn wait_for_checkpoint(run: &Path) {
    eventually("a checkpoint is published", || {
        state(run)["latest"].as_u64().is_some_and(|latest| latest >= 50)
    });
}

/// Waits for the first failure; what it was, and after how long.
fn failure(run: &Path) -> (Value, Duration) {
    let started = Instant::now();
    eventually("the attempt fails", || !events(run, "failure").is_empty());
    (events(run, "failure").swap_remove(0)["failure"].clone(), started.elapsed())
}

#[test]
#[ignore = "needs root and Slurm: make test-slurm"]
fn a_hostfile_is_enough_and_a_lost_host_is_missed() {
    let tiny = Arc::new(Tiny::new());
    let steps = format!("training.steps={STEPS}");
    let undisturbed = Run::new(&tiny, "undisturbed", 1, &[&SETTINGS[..], &[&steps]].concat());
    undisturbed.launch(&[], 0);
    let wanted = adapters(undisturbed.folder(), STEPS);
    let hosts = Hosts::start();
    let finish = |mut child: Child, run: &Path| {
        let status = child.wait().unwrap();
        let said = std::fs::read_to_string(run.with_extension("out")).unwrap_or_default();
        assert!(status.success(), "{said}");
        assert!(adapters(run, STEPS) == wanted, "other weights\n{said}");
        assert_eq!(processes::of_run("tandem-worker", run), [0_u32; 0], "workers are left");
        said
    };

    // The link is cut, and comes back when the run has missed it.
    let (child, run) = hosts.launch(&tiny, "cut", &[]);
    wait_for_checkpoint(&run);
    hosts.script("cut", &["n2"]);
    let (failure_, after) = failure(&run);
    println!("a cut link: missed after {:.1} s", after.as_secs_f64());
    assert!(after < DEADLINE, "{after:?}");
    assert_eq!((&failure_["kind"], &failure_["host"]), (&"hang".into(), &"n2".into()));
    eventually("the worker that is cut off ends", || {
        let left = processes::of_run("tandem-worker", &run);
        !left.iter().any(|pid| processes::variable(*pid, "TANDEM_GENERATION") == Some(1))
    });
    hosts.script("join", &["n2"]);
    finish(child, &run);

    // The host loses its power, and stays away.
    let within = "cluster.workers={ min: 1, max: 2 }";
    let (child, run) = hosts.launch(&tiny, "power", &[within]);
    wait_for_checkpoint(&run);
    hosts.script("power", &["n2"]);
    let (failure_, after) = failure(&run);
    println!("a power cut: missed after {:.1} s", after.as_secs_f64());
    assert!(after < DEADLINE, "{after:?}");
    assert_eq!(failure_["host"], "n2");
    let said = finish(child, &run);
    assert!(said.contains("going on with 1 worker instead of 2, on n1"), "{said}");
}
