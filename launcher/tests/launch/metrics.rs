//! What Prometheus' own client reads from a launch (tests/python/read_metrics.py).

use serde_json::{Value, json};
use tandem_tests::live::eventually;
use tandem_tests::python;

use super::support::fake_run;

#[test]
fn prometheus_reads_a_run_in_training() {
    let run = fake_run(2).with("FAKE_STEP_MS", "50").with("FAKE_SLOW", "1");
    let run = run.set("training.steps=2000");
    let launch = run.start_with(&[], |command| {
        command.args(["--metrics", "127.0.0.1:0"]);
    });
    let mut url = None;
    eventually("it says where its metrics are", || {
        let said = launch.stderr();
        url = said.lines().find_map(|line| line.strip_prefix("metrics: ").map(str::to_owned));
        url.is_some()
    });
    let url = url.unwrap();
    run.wait_for_step(25);
    let mut metrics = Value::Null;
    eventually("a straggler is seen", || {
        metrics = python::read("read_metrics.py", url.clone());
        let ranks = metrics["tandem_rank_straggler"].as_array();
        ranks.is_some_and(|ranks| ranks.iter().any(|rank| rank[1] == 1.0))
    });
    let of_rank = |name: &str, rank: &str| {
        let samples = metrics[name].as_array().unwrap_or_else(|| panic!("{name}: {metrics}"));
        let sample = samples.iter().find(|sample| sample[0]["rank"] == rank);
        let sample = sample.unwrap_or_else(|| panic!("{name} of rank {rank}: {metrics}"));
        assert!(sample[0]["host"].is_string(), "{metrics}");
        sample[1].as_f64().unwrap()
    };
    assert_eq!(of_rank("tandem_rank_straggler", "0"), 0.0);
    assert_eq!(of_rank("tandem_rank_slowdown_ratio", "1"), 1.25);
    assert_eq!(of_rank("tandem_rank_compute_seconds", "0"), 1.0);
    assert_eq!(of_rank("tandem_rank_resident_memory_bytes", "1"), f64::from(1 << 30));
    assert_eq!(metrics["tandem_rank_gpu_memory_allocated_bytes"], Value::Null, "it is on CPUs");
    assert!(metrics["tandem_last_step_timestamp_seconds"][0][1].as_f64() > Some(1.7e9));
    assert!(metrics["tandem_step"][0][1].as_f64() >= Some(20.0), "{metrics}");
    assert_eq!(metrics["tandem_planned_steps"], json!([[{}, 2000.0]]));
    assert_eq!(metrics["tandem_run"], json!([[{ "status": "running", "stage": "train" }, 1.0]]));
    assert_eq!(metrics["tandem_restarts_total"], json!([[{}, 0]]));
    assert_eq!(metrics["tandem_time_seconds"].as_array().unwrap().len(), 8, "{metrics}");
    run.stop(0);
    launch.wait(75);
}
