//! Systems and file systems that lack something.

use tandem_tests::refusal::PLAIN_FILES;

use super::support::Bench;

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
