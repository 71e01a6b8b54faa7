//! `tandem doctor` on this machine, which has what the tests need.

use std::process::Command;

use serde_json::{Value, json};
use tandem_tests::{Tiny, expect_code, program};

/// The findings of a doctor that ends with this code.
fn findings(command: &mut Command, code: i32) -> Vec<Value> {
    expect_code(command.arg("--json"), code).json().as_array().expect("a list").clone()
}

fn checks<'a>(findings: &'a [Value], level: &str) -> Vec<&'a str> {
    let of_level = |finding: &&Value| finding["level"] == level;
    findings.iter().filter(of_level).filter_map(|finding| finding["check"].as_str()).collect()
}

/// The launcher counts GPUs for all workers: one that sees none must not compute on the CPU.
#[test]
fn a_worker_that_was_told_of_a_gpu_does_not_go_on_without() {
    let tiny = Tiny::texts();
    let side = "{ transformer: { layers: 1, hidden: 16, heads: 2, feed_forward: 16, \
                vocabulary: { learn: { size: 110, lowercase: false } } } }";
    let config = tiny.translation("told", 1, side, side, "{ masked: {} }");
    let text = std::fs::read_to_string(config).expect("a config");
    let texts = format!("path: {}/", tiny.path("").display());
    let text = text.replace("device: cpu", "device: auto").replace("path: ", &texts);
    std::fs::create_dir(tiny.path("told")).expect("a folder");
    tiny.write("told/config.yaml", &text);
    let mut command = program("tandem-worker");
    command.arg("train").arg("--run").arg(tiny.path("told"));
    command.env("TANDEM_DEVICE", "cuda").env("CUDA_VISIBLE_DEVICES", "-1");
    expect_code(&mut command, 1).assert_said("there is to be a GPU, but ");
}

#[test]
fn a_machine_that_tests_is_well() {
    let tiny = Tiny::texts();
    let config = tiny.write(
        "alone.yaml",
        "run: { name: alone }
data: { train: { lines: { path: mono.de } }, max_length: 24 }
model:
  encoder:
    bert:
      train: scratch
      new: { layers: 1, hidden: 32, heads: 2, feed_forward: 64, positions: 32, \
             vocabulary: { learn: { size: 110, lowercase: false } } }
  objective: { mlm: {} }
training: { steps: 6, max_tokens: 256, micro_batches: 1, schedule: { constant: { rate: 0.01 } } }
evaluation: { every: 0 }
cluster: { workers: 1, threads: 1, device: cpu }
",
    );
    let all = findings(program("tandem").arg("doctor").arg(&config), 0);
    assert!(checks(&all, "fail").is_empty(), "{all:#?}");
    assert!(!tiny.path("runs").exists(), "nothing is made");

    let mut wrong = program("tandem");
    wrong.arg("doctor").arg(&config).args(["--set", "data.train.lines.path=nothing.de"]);
    wrong.env("TANDEM_WORKER", "/nowhere/tandem-worker").env("TMPDIR", "/nowhere");
    let all = findings(&mut wrong, 1);
    assert_eq!(checks(&all, "fail"), ["config", "worker", "temporary-folder"], "{all:#?}");
    assert!(all[0]["what"].as_str().is_some_and(|what| what.contains("nothing.de")), "{all:#?}");
}

#[test]
fn a_worker_that_does_not_answer_is_given_up() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let worker = folder.path().join("tandem-worker");
    std::fs::write(&worker, "#!/bin/sh\nexec sleep 60\n").expect("a file");
    expect_code(Command::new("chmod").arg("+x").arg(&worker), 0);
    let mut command = program("tandem");
    let all = findings(command.arg("doctor").env("TANDEM_WORKER", &worker), 1);
    assert_eq!(checks(&all, "fail"), ["libraries"], "{all:#?}");
    assert!(all.iter().any(|it| it["what"].to_string().contains("did not answer")), "{all:#?}");
}

#[test]
fn gpus_are_tested_where_there_are_any() {
    let mut command = program("tandem");
    command.args(["doctor", "--gpu"]);
    if std::path::Path::new("/dev/nvidia0").exists() {
        let said = expect_code(&mut command, 0).stdout;
        assert!(said.contains("\npass: "));
    } else {
        let reason = "there is no GPU to test (there is no /dev/nvidia0)";
        expect_code(&mut command, 2).assert_said(reason);
        let found = expect_code(command.arg("--json"), 2).json();
        assert_eq!((&found["verdict"], &found["gpus"]), (&json!(reason), &json!([])));
        assert!(found["findings"].is_array(), "{found:#}");
    }
}
