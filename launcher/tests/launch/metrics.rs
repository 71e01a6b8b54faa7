//! What Prometheus' own client reads from a launch (tests/python/read_metrics.py).

use serde_json::json;
use tandem_tests::live::eventually;
use tandem_tests::python;

use super::support::fake_run;

#[test]
fn prometheus_reads_a_run_in_training() {
    let run = fake_run(1).with("FAKE_STEP_MS", "50").set("training.steps=2000");
    let launch = run.start_with(&[], |command| {
        command.args(["--metrics", "127.0.0.1:0"]);
    });
    let mut url = None;
    eventually("it says where its metrics are", || {
        let said = launch.stderr();
        url = said.lines().find_map(|line| line.strip_prefix("metrics: ").map(str::to_owned));
        url.is_some()
    });
    run.wait_for_step(5);
    let metrics = python::read("read_metrics.py", url.unwrap());
    assert!(metrics["tandem_step"][0][1].as_f64() >= Some(5.0), "{metrics}");
    assert_eq!(metrics["tandem_planned_steps"], json!([[{}, 2000.0]]));
    assert_eq!(metrics["tandem_run"], json!([[{ "status": "running", "stage": "train" }, 1.0]]));
    assert_eq!(metrics["tandem_restarts_total"], json!([[{}, 0]]));
    assert_eq!(metrics["tandem_time_seconds"].as_array().unwrap().len(), 8, "{metrics}");
    run.stop(0);
    launch.wait(75);
}
