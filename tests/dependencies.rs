//! Runs that are trained before those that need them, and launchers that need the same one.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use tandem_tests::launch::Launch;
use tandem_tests::live::{Run, eventually, send};
use tandem_tests::{Tiny, adapters, expect_code};

const STEPS: u64 = 12;
const SIDE: &str = "{ transformer: { layers: 1, hidden: WIDTH, heads: 2, feed_forward: 64, \
                    max_length: 32, vocabulary: { learn: { size: 110, lowercase: false } } } }";

/// The run file of a Transformer of this width that starts from another run, or from nothing.
fn transformer(tiny: &Tiny, name: &str, width: usize, init: &str) -> PathBuf {
    let side = SIDE.replace("WIDTH", &width.to_string());
    let objective = format!("{{ autoregressive: {{}} }}\n  init: {init}");
    tiny.translation(name, 1, &side, &side, &objective)
}

fn run(tiny: &Arc<Tiny>, name: &str, init: &str) -> Run {
    Run::of(tiny, transformer(tiny, name, 32, init), name, &[])
}

/// Waits until the launcher says this.
fn until_said(launch: &Launch, words: &str) {
    eventually("it says so", || launch.stderr().contains(words));
}

#[test]
fn a_model_starts_from_a_run_that_is_trained_first() {
    let tiny = Arc::new(Tiny::texts());
    let whole = run(&tiny, "whole", "null");
    whole.launch(&[], 0);
    let expected = run(&tiny, "from-a-folder", "./whole");
    expected.launch(&[], 0);
    let cold = run(&tiny, "cold", "null").set("seed=2");
    cold.launch(&[], 0);

    let base = run(&tiny, "base", "null");
    let warm = run(&tiny, "warm", "base.yaml");
    let plan = expect_code(&mut warm.command("plan", &[]), 0).stdout;
    assert!(plan.contains("model.init: ") && plan.contains("/base is trained first"), "{plan}");

    let launch = warm.start(&[]);
    let held = base.rank(1, 0);
    send(held, "STOP");
    let status = expect_code(warm.tandem(&["status"]).arg(warm.folder()), 0).stdout;
    assert!(status.contains("/base is trained first (model.init)"), "{status}");
    send(held, "CONT");
    let latest = base.folder().join("checkpoints/latest");
    eventually("there is a checkpoint", || latest.exists());
    warm.stop(0);
    launch.wait(75).assert_said("model.init: training ");
    let launch = warm.start(&[]);
    send(base.rank(2, 0), "STOP");
    launch.kill();
    for pid in base.workers() {
        send(pid, "KILL");
    }
    eventually("all are gone", || base.processes().is_empty());
    assert!(!warm.folder().join("checkpoints").exists(), "the kill came too late");
    warm.launch(&[], 0);
    assert!(adapters(base.folder(), STEPS) == adapters(whole.folder(), STEPS), "another base");
    let trained = adapters(warm.folder(), STEPS);
    assert!(trained == adapters(expected.folder(), STEPS), "it did not start from the base");
    assert!(trained != adapters(cold.folder(), STEPS));
    let report = std::fs::read_to_string(warm.folder().join("report.md")).expect("a report");
    assert!(report.contains("- start: the trained weights of "), "{report}");
    assert_eq!(warm.state()["needed"], Value::Null);

    // Starting over takes the same base once more, and does not train it again.
    let attempts = base.state()["attempts"].clone();
    expect_code(warm.command("launch", &[]).arg("--restart"), 0);
    assert_eq!(base.state()["attempts"], attempts);
    assert!(adapters(warm.folder(), STEPS) == trained, "other weights");

    // A run file that has changed since is not what was trained.
    transformer(&tiny, "base", 16, "null");
    let ended = expect_code(warm.command("launch", &[]).arg("--restart"), 2);
    ended.assert_said("model.init: `");
}

#[test]
fn a_run_that_does_not_fit_is_refused_before_it_is_trained() {
    let tiny = Arc::new(Tiny::texts());
    let other = transformer(&tiny, "other", 16, "null");
    let run = run(&tiny, "misfit", "other.yaml");
    let ended = run.launch(&[], 2);
    ended.assert_said("has the shape [");
    ended.assert_said("it must be a run whose model is a part of this one");
    assert!(!run.folder().exists() && !tiny.path("other").exists());
    let text = std::fs::read_to_string(&other).expect("a run file");
    tiny.write("other.yaml", &text.replace("init: null", "init: misfit.yaml"));
    run.launch(&[], 2).assert_said("model.init: ");
    run.launch(&["model.init=misfit.yaml"], 2).assert_said("would need itself first");
}

#[test]
fn launchers_that_need_the_same_run_wait_for_each_other() {
    let tiny = Arc::new(Tiny::texts());
    let base = run(&tiny, "base", "null");
    let [first, second] = ["first", "second"].map(|name| run(&tiny, name, "base.yaml"));
    let training = first.start(&[]);
    let held = base.rank(1, 0);
    send(held, "STOP");

    let waits =
        format!("model.init: waiting for the launcher with process number {}", training.pid());
    let launch = second.start(&[]);
    until_said(&launch, &waits);
    second.stop(0);
    let stopped = launch.wait(75);
    stopped.assert_said(&format!(", which trains {}", base.folder().display()));

    let launch = second.start(&[]);
    until_said(&launch, &waits);
    training.kill();
    send(held, "KILL");
    launch.wait(0);
    assert_eq!(base.state()["status"], "done");
    first.launch(&[], 0);
    assert!(adapters(first.folder(), STEPS) == adapters(second.folder(), STEPS));
    assert_eq!(base.events("exit").len(), 1, "it was finished once");
}
