//! What a launch starts from: another config, other names of this machine, hosts that are away.

use std::fs;

use tandem_tests::live::eventually;

use crate::support::{Bench, Ended};

#[test]
fn before_the_first_checkpoint_any_change_of_the_config_is_fine() {
    let bench = Bench::new(1).with("FAKE_FAULT", "exit:0:3!");
    bench.launch().assert_code(93);
    assert_eq!(bench.run().store().steps().unwrap(), [0; 0]);
    let bench = bench.with("FAKE_FAULT", "").set("seed=9").set("training.max_tokens=90");
    let ended = bench.launch();
    ended.assert_code(0);
    ended.assert_said(
        "note: nothing was trained yet: starting over with this config (`seed` 1, not 9)",
    );
    let config = fs::read_to_string(bench.run().config()).unwrap();
    assert!(config.contains("seed: 9"), "{config}");

    let bench = bench.set("seed=10");
    let refused = || {
        let other = bench.launch();
        other.assert_code(2);
        other.assert_said("holds another run: `seed` was 9 and is 10 now");
    };
    refused();
    // To save space, after the end.
    fs::remove_dir_all(bench.run().path().join("checkpoints")).unwrap();
    refused();
    assert!(bench.run().export().exists());
}

#[test]
fn a_config_that_cannot_be_read_any_more_is_no_hindrance_before_the_first_checkpoint() {
    let bench = Bench::new(1).with("FAKE_FAULT", "exit:0:3!");
    bench.launch().assert_code(93);
    fs::write(bench.run().config(), "of: another version\n").unwrap();
    bench.with("FAKE_FAULT", "").launch().assert_code(0);
}

#[test]
fn other_names_of_this_machine_in_a_hostfile_are_this_machine() {
    for names in ["localhost slots=2\n", "127.0.0.1\n::1\n"] {
        let bench = Bench::new(2).with("FAKE_FAULT", "die:1:13");
        let hostfile = bench.path("hosts");
        fs::write(&hostfile, names).unwrap();
        let ended = bench.set(&format!("cluster.hostfile={}", hostfile.display())).launch();
        ended.assert_code(0);
        ended.assert_said("resuming from the checkpoint of step 10 of 20");
    }
}

#[test]
fn a_stop_while_a_host_is_waited_for_is_a_stop() {
    // An address for documents, where nobody is.
    let bench = Bench::new(2).with("OMPI_MCA_plm_rsh_agent", "false");
    let hostfile = bench.path("hosts");
    fs::write(&hostfile, "localhost\n198.51.100.7\n").unwrap();
    let bench = bench.set(&format!("cluster.hostfile={}", hostfile.display()));
    let live = bench.start();
    eventually("it waits", || !bench.events("failure").is_empty());
    Ended::new(bench.tandem(&["stop", "runs/test"]).output().unwrap()).assert_code(0);
    let ended = live.wait();
    ended.assert_code(75);
    ended.assert_said("waiting for 198.51.100.7, at most 300 s");
    ended.assert_said("stopped before the first checkpoint; the same command starts again");
    assert_eq!(bench.state()["status"], "stopped");
}

#[test]
fn a_launch_inside_of_mpirun_is_refused() {
    let ended = Bench::new(2).with("OMPI_COMM_WORLD_SIZE", "1").launch();
    ended.assert_code(2);
    let words = "error: this is one of 1 processes that mpirun started (OMPI_COMM_WORLD_SIZE)";
    assert!(ended.said.starts_with(words), "{}", ended.said);
    assert!(ended.said.contains("without mpirun"), "{}", ended.said);
}
