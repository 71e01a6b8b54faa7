//! Restarts with more or fewer workers than before.

use std::process::Command;
use std::sync::Arc;

use tandem_tests::live::{Run, send};
use tandem_tests::{Tiny, adapters, expect_code};

const SETTINGS: [&str; 8] = [
    "training.steps=48",
    "training.micro_batches=4",
    "training.max_tokens=100",
    "evaluation.every=0",
    "evaluation.sentences=4",
    "checkpoints.every=4",
    "cluster.workers={ min: 1, max: 2 }",
    "cluster.reduction=reproducible",
];

/// Workers have a CPU each. One CPU is taken away from the launcher, then a worker is killed.
#[test]
fn a_restart_goes_on_with_the_cpus_that_are_left() {
    let tiny = Arc::new(Tiny::new());
    let undisturbed = Run::new(&tiny, "undisturbed", 1, &SETTINGS);
    undisturbed.launch(&["cluster.workers=1"], 0);

    let run = Run::new(&tiny, "shrunk", 2, &SETTINGS);
    let launch = run.start(&[]);
    run.wait_for_checkpoint(1, 8);
    let pid = launch.pid().to_string();
    expect_code(Command::new("taskset").args(["--pid", "--cpu-list", &one_cpu(), &pid]), 0);
    send(run.rank(1, 0), "KILL");
    let ended = launch.wait(0);
    ended.assert_said("resuming with 1 worker instead of 2");
    let attempts = run.events("attempt");
    let ranks: Vec<_> = attempts.iter().map(|event| &event["topology"]["ranks"]).collect();
    assert_eq!(ranks, [2, 1, 1], "two train, one trains on, one tests");
    assert!(adapters(run.folder(), 48) == adapters(undisturbed.folder(), 48), "other weights");
    run.assert_no_process();
}

/// The first of the CPUs that this process may use.
fn one_cpu() -> String {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let list = list.expect("a list of CPUs").trim();
    assert!(list.contains([',', '-']), "this test needs two CPUs");
    list.split([',', '-']).next().expect("a CPU").to_owned()
}
