//! What a launch starts from: another config, other names of this machine, hosts that are away.

use std::fs;

use tandem_tests::live::eventually;

use crate::support::{fake_run, run_folder};

#[test]
fn before_the_first_checkpoint_any_change_of_the_config_is_fine() {
    let run = fake_run(1).with("FAKE_FAULT", "exit:0:3!");
    run.launch(&[], 93);
    assert_eq!(run_folder(&run).store().steps().unwrap(), [0; 0]);
    let run = run.with("FAKE_FAULT", "").set("seed=9").set("training.max_tokens=90");
    let ended = run.launch(&[], 0);
    ended.assert_said(
        "note: nothing was trained yet: starting over with this config (`seed` 1, not 9)",
    );
    let config = fs::read_to_string(run_folder(&run).config()).unwrap();
    assert!(config.contains("seed: 9"), "{config}");

    let run = run.set("seed=10");
    let refused = || {
        let other = run.launch(&[], 2);
        other.assert_said("holds another run: `seed` was 9 and is 10 now");
    };
    refused();
    // To save space, after the end.
    fs::remove_dir_all(run_folder(&run).path().join("checkpoints")).unwrap();
    refused();
    assert!(run_folder(&run).export().exists());
}

#[test]
fn a_config_that_cannot_be_read_any_more_is_no_hindrance_before_the_first_checkpoint() {
    let run = fake_run(1).with("FAKE_FAULT", "exit:0:3!");
    run.launch(&[], 93);
    fs::write(run_folder(&run).config(), "of: another version\n").unwrap();
    run.with("FAKE_FAULT", "").launch(&[], 0);
}

#[test]
fn other_names_of_this_machine_in_a_hostfile_are_this_machine() {
    for names in ["localhost slots=2\n", "127.0.0.1\n::1\n"] {
        let run = fake_run(2).with("FAKE_FAULT", "die:1:13");
        let hostfile = run.beside("hosts");
        fs::write(&hostfile, names).unwrap();
        let ended = run.set(&format!("cluster.hostfile={}", hostfile.display())).launch(&[], 0);
        ended.assert_said("resuming from the checkpoint of step 10 of 20");
    }
}

#[test]
fn a_stop_while_a_host_is_waited_for_is_a_stop() {
    // An address for documents, where nobody is.
    let run = fake_run(2).with("OMPI_MCA_plm_rsh_agent", "false");
    let hostfile = run.beside("hosts");
    fs::write(&hostfile, "localhost\n198.51.100.7\n").unwrap();
    let run = run.set(&format!("cluster.hostfile={}", hostfile.display()));
    let launch = run.start(&[]);
    eventually("it waits", || !run.events("failure").is_empty());
    run.stop(0);
    let ended = launch.wait(75);
    ended.assert_said("waiting for 198.51.100.7, at most 300 s");
    ended.assert_said("stopped before the first checkpoint; the same command starts again");
    assert_eq!(run.state()["status"], "stopped");
}

#[test]
fn a_launch_inside_of_mpirun_is_refused() {
    let ended = fake_run(2).with("OMPI_COMM_WORLD_SIZE", "1").launch(&[], 2);
    let words = "error: this is one of 1 processes that mpirun started (OMPI_COMM_WORLD_SIZE)";
    assert!(ended.stderr.starts_with(words), "{}", ended.stderr);
    assert!(ended.stderr.contains("without mpirun"), "{}", ended.stderr);
}
