//! Systems and file systems that lack something.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use tandem_tests::refusal::{NO_IPV4, NO_LOCKS, PLAIN_FILES, obey_modes, refuse};
use tandem_tests::{Ended, run_by};

use super::support::{fake_run, run_folder};

/// Neither modes can be set nor links made, as on CIFS, FUSE or object stores that are mounted.
#[test]
fn plain_files_are_enough() {
    let run =
        fake_run(1).with("FAKE_FAULT", "die:0:7,die:0:12,die:0:17").set("cluster.max_restarts=1");
    let ended = run.start_with(&[], |command| refuse(command, &PLAIN_FILES)).wait(0);
    // Each checkpoint is progress, and is gone on from.
    for step in [5, 10, 15] {
        ended.assert_said(&format!("resuming from the checkpoint of step {step} of 20"));
    }
    let checkpoints = run_folder(&run).store();
    assert!(checkpoints.folder().join("best").is_file());
    for name in ["latest", "best", "average"] {
        assert_eq!(checkpoints.open(name).unwrap().step(), 20, "{name}");
    }
    assert!(run_folder(&run).export().join("adapters.safetensors").is_file());
}

#[test]
fn ipv6_alone_is_enough() {
    fake_run(1).start_with(&[], |command| refuse(command, &[NO_IPV4])).wait(0);
}

#[test]
fn a_file_system_without_locks_is_named() {
    for refusal in NO_LOCKS {
        let run = fake_run(1);
        let ended = run.start_with(&[], |command| refuse(command, &[refusal])).wait(1);
        let words = refusal.words();
        let wanted = format!("error: cannot lock {}/lock: {words}: ", run.folder().display());
        assert!(ended.stderr.starts_with(&wanted), "{}", ended.stderr);
        assert_eq!(ended.stderr.matches(&words).count(), 1, "{}", ended.stderr);
        ended.assert_said("choose another with `run.folder`");
    }
}

/// With few files mpirun would hang, and with few processes workers would die without a word.
#[test]
fn low_limits_are_refused() {
    for (option, what, needed) in [
        ("-n", "a process may open only 24 files", "workers and their connections need "),
        ("-u", "this user may have only 24 processes and threads", "the run needs "),
    ] {
        let run = fake_run(2);
        let limit = format!("ulimit {option} 24; exec \"$@\"");
        let limited = ["bash", "-c", &limit, "bash"];
        let ended = run.start_with(&[], |command| run_by(command, &limited)).wait(2);
        let wanted = format!("error: {what}, but {needed}");
        assert!(ended.stderr.starts_with(&wanted), "{}", ended.stderr);
        ended.assert_said(&format!("; raise the limit: `ulimit {option} 4096`"));
    }
}

#[test]
fn a_run_that_may_not_be_read_is_no_absent_one() {
    let run = fake_run(1);
    run.launch(&[], 0);
    for closed in [run_folder(&run).state(), run.folder().into()] {
        fs::set_permissions(&closed, Permissions::from_mode(0o000)).unwrap();
        let mut status = run.tandem(&["status", "runs/test"]);
        obey_modes(&mut status);
        let ended = Ended::of(&mut status);
        fs::set_permissions(&closed, Permissions::from_mode(0o755)).unwrap();
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        let wanted = format!("error: cannot read {}: Permission denied", closed.display());
        assert!(ended.stderr.starts_with(&wanted), "{}", ended.stderr);
    }
}
