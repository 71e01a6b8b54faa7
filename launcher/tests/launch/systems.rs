//! Systems and file systems that lack something.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use tandem_tests::refusal::{NO_IPV4, NO_LOCKS, PLAIN_FILES, obey_modes};

use super::support::{Bench, Ended};

/// Neither modes can be set nor links made, as on CIFS, FUSE or object stores that are mounted.
#[test]
fn plain_files_are_enough() {
    let bench = Bench::new(1)
        .with("FAKE_FAULT", "die:0:7,die:0:12,die:0:17")
        .set("cluster.max_restarts=1")
        .refusing(&PLAIN_FILES);
    let ended = bench.launch();
    ended.assert_code(0);
    // Each checkpoint is progress, and is gone on from.
    for step in [5, 10, 15] {
        ended.assert_said(&format!("resuming from the checkpoint of step {step} of 20"));
    }
    let checkpoints = bench.run().store();
    assert!(checkpoints.folder().join("best").is_file());
    for name in ["latest", "best", "average"] {
        assert_eq!(checkpoints.open(name).unwrap().step(), 20, "{name}");
    }
    assert!(bench.run().export().join("adapters.safetensors").is_file());
}

#[test]
fn ipv6_alone_is_enough() {
    Bench::new(1).refusing(&[NO_IPV4]).launch().assert_code(0);
}

#[test]
fn a_file_system_without_locks_is_named() {
    for refusal in NO_LOCKS {
        let bench = Bench::new(1).refusing(&[refusal]);
        let ended = bench.launch();
        ended.assert_code(1);
        let words = refusal.words();
        let wanted = format!("error: cannot lock {}/lock: {words}: ", bench.run().path().display());
        assert!(ended.said.starts_with(&wanted), "{}", ended.said);
        assert_eq!(ended.said.matches(&words).count(), 1, "{}", ended.said);
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
        let bench = Bench::new(2);
        let limit = format!("ulimit {option} 24; exec \"$@\"");
        let ended = bench.start_by(&["bash", "-c", &limit, "bash"]).wait();
        ended.assert_code(2);
        let wanted = format!("error: {what}, but {needed}");
        assert!(ended.said.starts_with(&wanted), "{}", ended.said);
        ended.assert_said(&format!("; raise the limit: `ulimit {option} 4096`"));
    }
}

#[test]
fn a_run_that_may_not_be_read_is_no_absent_one() {
    let bench = Bench::new(1);
    bench.launch().assert_code(0);
    let run = bench.run();
    for (closed, named) in [(run.state(), run.state()), (run.path().into(), run.path().into())] {
        fs::set_permissions(&closed, Permissions::from_mode(0o000)).unwrap();
        let mut status = bench.tandem(&["status", "runs/test"]);
        obey_modes(&mut status);
        let ended = Ended::new(status.output().unwrap());
        fs::set_permissions(&closed, Permissions::from_mode(0o755)).unwrap();
        ended.assert_code(2);
        let wanted = format!("error: cannot read {}: Permission denied", named.display());
        assert!(ended.said.starts_with(&wanted), "{}", ended.said);
    }
}
