//! The preflight, with ranks of this machine in the place of hosts.

use serde_json::Value;
use tandem_tests::Tiny;
use tandem_tests::fault::slow_down_shortly;
use tandem_tests::live::Run;

/// Two ranks that train a little.
fn run(name: &str) -> Run {
    let settings = ["training.steps=4", "evaluation.every=0", "evaluation.sentences=4"];
    Run::new(&Tiny::shared(), name, 2, &settings)
}

fn findings(preflight: &Value) -> Vec<&str> {
    let findings = preflight["findings"].as_array().expect("findings");
    findings.iter().filter_map(Value::as_str).collect()
}

#[test]
fn a_slow_rank_is_named_before_anything_is_loaded() {
    let run = run("slow-rank");
    let launch = run.start(&["cluster.preflight=always"]);
    let pid = run.rank(1, 1);
    while run.events("preflight").is_empty() && slow_down_shortly(pid) {}
    let ended = launch.wait(0);
    let preflight = run.events("preflight").swap_remove(0);
    let slow = " (rank 1): a matrix product takes ";
    assert!(findings(&preflight).iter().any(|text| text.contains(slow)), "{preflight:#}");
    assert!(preflight["seconds"].as_f64() < Some(5.0), "{preflight:#}");
    ended.assert_said("note: preflight: ");
    ended.assert_said(slow);
    // The events of two ranks may come in either order, but each has measured by then.
    let time = |of: &Value| of["time"].as_f64().expect("a time");
    let ranks = preflight["ranks"].as_array().expect("ranks");
    assert_eq!(ranks.len(), 2);
    let loaded = time(&run.events("plan")[0]);
    assert!(ranks.iter().all(|rank| time(&rank["probe"]) < loaded), "{preflight:#}");
    let report = std::fs::read_to_string(run.folder().join("report.md")).expect("a report");
    assert!(report.contains("(rank 1): matrix product "), "{report}");
}

#[test]
fn ranks_of_one_host_are_measured_only_if_that_is_asked_for() {
    let run = run("as-usual");
    run.launch(&[], 0);
    assert_eq!(run.events("preflight").len(), 0);
}
