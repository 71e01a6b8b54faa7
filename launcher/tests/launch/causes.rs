//! Whatever goes wrong, the first line of the report names the rank and the cause, and the report is
//! short and comes last.

use tandem_tests::live::{Run, eventually, send};

use crate::support::fake_run;

fn two() -> Run {
    fake_run(2).set("cluster.max_restarts=0").set("cluster.deadlines.step=2")
}

/// Faults that a worker of two has in step 7 by itself.
#[test]
fn the_first_line_names_rank_and_cause() {
    for (fault, code, words) in [
        ("panic", 1, "index 7 out of range"),
        ("batch", 1, "a token is no token"),
        ("error", 1, "is poisoned"),
        ("die", 1, "its process ended without reporting an error: ended by signal 6 (SIGABRT)"),
        ("memory", 1, "ended by signal 9 (SIGKILL); the system does so when memory runs out"),
        ("exit", 93, "exit code 93"),
        ("hang", 1, "no progress in phase train for "),
        ("starve", 1, "hung in phase data at step 7 (attempt 1): no progress in phase data for "),
        ("stopped", 1, "no heartbeat for "),
    ] {
        let ended = two().with("FAKE_FAULT", &format!("{fault}:1:7")).launch(&[], code);
        ended.assert_cause(fault, &["error: rank 1 on ", " at step 7 ", words]);
    }
}

/// Ranks that are not the same program, or do not stand on the same BERTs.
#[test]
fn ranks_that_differ_are_named() {
    for fact in ["encoder BERT (SHA-256)", "tandem-worker version"] {
        let ended = two().with("FAKE_OTHER", &format!("1:{fact}")).launch(&[], 2);
        let facts = [format!("its {fact} is "), "all must be the same".into()];
        ended.assert_cause(fact, &["error: rank ", &facts[0], &facts[1]]);
    }
}

#[test]
fn a_killed_mpirun_is_named() {
    let run = two().set("training.steps=100000");
    let launch = run.start(&[]);
    run.wait_for_step(3);
    run.engines().into_iter().for_each(|pid| send(pid, "KILL"));
    let ended = launch.wait(1);
    ended.assert_cause("mpirun", &["the workers failed", "was ended by signal 9 (SIGKILL)"]);
    eventually("all are gone", || run.processes().is_empty());
}

#[test]
fn a_missing_file_and_a_wrong_config_are_named() {
    let ended = two().set("data.train.tsv.path=absent.tsv").launch(&[], 2);
    ended.assert_said("absent.tsv");
    let run = two();
    std::fs::remove_file(run.beside("bert/model.safetensors")).unwrap();
    let ended = run.launch(&[], 2);
    ended.assert_said("model.safetensors");
}

#[test]
fn a_straggler_is_named_once() {
    let ended = fake_run(2).with("FAKE_SLOW", "1").set("training.steps=60").launch(&[], 0);
    let words = "rank 1 is 25 % slower than the others in compute, up to step 20";
    assert_eq!(ended.stderr.matches("slower than").count(), 1, "{}", ended.stderr);
    ended.assert_said(words);
}
