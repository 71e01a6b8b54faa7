//! The comparison of a GPU with the CPU, with the CPU in the place of the GPU.

use serde_json::Value;
use tandem_tests::{expect_code, program};

#[test]
fn the_cpu_agrees_with_itself() {
    let mut command = program("tandem-worker");
    let ended = expect_code(command.args(["check-gpu", "--device", "cpu", "--json"]), 0);
    let report = ended.json();
    let checks = report["checks"].as_array().expect("a list");
    for quantity in [
        "products, f32",
        "encoder output, f32",
        "length log-probabilities, f32",
        "loss, f32",
        "gradients, f32",
        "losses of training, f32",
        "decoded ids, f32",
        "weights after 20 steps of Adam, f32",
        "encoder output, bf16",
        "length log-probabilities, bf16",
        "loss, bf16",
        "gradients, bf16",
        "losses of training, bf16",
    ] {
        let check = checks.iter().find(|check| check["name"] == quantity);
        let check = check.unwrap_or_else(|| panic!("{quantity} is not compared: {report:#}"));
        assert_eq!(check["ok"], true, "{check}");
        let is_same = quantity.ends_with("f32") && quantity != "products, f32";
        assert_eq!(check["error"] == 0.0, is_same, "{check}");
    }
    assert_eq!(checks.len(), 13, "{report:#}");
    let measured = report["measurements"].as_array().expect("a list");
    let is_more_than_0 = |it: &Value| it["value"].as_f64().is_some_and(|value| value > 0.0);
    assert!(measured.len() >= 6 && measured.iter().all(is_more_than_0), "{measured:#?}");

    let lines = ended.stderr;
    assert!(lines.contains("\n     libtorch: 2."), "{lines}");
    assert!(lines.contains("\nok   gradients, f32: largest relative error 0 ("), "{lines}");
    assert!(!lines.contains("FAIL"), "{lines}");
}

#[test]
fn a_gpu_that_is_not_there_is_named() {
    let mut command = program("tandem-worker");
    command.args(["check-gpu", "--gpu", "99"]);
    let said = expect_code(&mut command, 1).stderr;
    let reasons = ["libtorch cannot use CUDA: ", "there is no GPU 99: libtorch sees "];
    assert!(reasons.iter().any(|reason| said.contains(reason)), "{said}");
}
