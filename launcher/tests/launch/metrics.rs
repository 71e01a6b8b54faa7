//! What Prometheus' own client reads from a launch (tests/python/read_metrics.py).

use std::io::{BufRead, BufReader};

use serde_json::json;
use tandem_tests::python;

use super::support::Bench;

#[test]
fn prometheus_reads_a_run_in_training() {
    let bench = Bench::new(1).with("FAKE_STEP_MS", "50");
    let arguments = ["launch", "run.yaml", "--metrics", "127.0.0.1:0"];
    let mut launch = bench
        .tandem(&arguments)
        .args(["--set", "training.steps=2000"])
        .env("FAKE_STEPS", "2000")
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(launch.stderr.take().unwrap()).lines();
    let url = lines.find_map(|line| line.unwrap().strip_prefix("metrics: ").map(str::to_owned));
    // The launcher must find somebody who reads what else it prints.
    let drain = std::thread::spawn(move || lines.for_each(drop));
    bench.wait_for_step(5);
    let metrics = python::read("read_metrics.py", url.unwrap());
    assert!(metrics["tandem_step"][0][1].as_f64() >= Some(5.0), "{metrics}");
    assert_eq!(metrics["tandem_planned_steps"], json!([[{}, 2000.0]]));
    assert_eq!(metrics["tandem_run"], json!([[{ "status": "running", "stage": "train" }, 1.0]]));
    assert_eq!(metrics["tandem_restarts_total"], json!([[{}, 0]]));
    assert_eq!(metrics["tandem_time_seconds"].as_array().unwrap().len(), 8, "{metrics}");
    assert!(bench.tandem(&["stop", "runs/test"]).status().unwrap().success());
    assert_eq!(launch.wait().unwrap().code(), Some(75));
    drain.join().unwrap();
}
