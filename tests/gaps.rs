//! Checkpoints that the finished model is an average of, and that were lost: they are trained again,
//! and the model is that of a run to which nothing happened.

use std::path::Path;
use std::sync::Arc;

use tandem_tests::Tiny;
use tandem_tests::live::{Run, eventually};

/// The model is the average of steps 20 and 24.
const SETTINGS: [&str; 5] = [
    "training.steps=24",
    "checkpoints.every=4",
    "checkpoints.average=2",
    "evaluation.every=0",
    "evaluation.sentences=4",
];
/// Decoding that takes seconds where it usually takes milliseconds.
const LONG: [&str; 3] = [
    "decoding.mask_predict.iterations=1000",
    "decoding.mask_predict.stop=released",
    "evaluation.sentences=20",
];

fn flip_a_bit(checkpoint: &Path) {
    let path = checkpoint.join("adapters.safetensors");
    let mut bytes = std::fs::read(&path).expect("a checkpoint");
    *bytes.last_mut().expect("a byte") ^= 1;
    std::fs::write(path, bytes).expect("a checkpoint");
}

#[test]
fn what_the_finished_model_lacks_is_trained_again() {
    let tiny = Arc::new(Tiny::new());
    let undisturbed = Run::new(&tiny, "undisturbed", 1, &SETTINGS);
    undisturbed.launch(&[], 0);
    let wanted = undisturbed.exported();

    // It cannot be written: a file is in the way of its draft.
    let run = Run::new(&tiny, "unsaved", 1, &SETTINGS);
    std::fs::create_dir_all(run.folder().join("checkpoints")).expect("a folder");
    std::fs::write(run.folder().join("checkpoints/step-00000020.tmp-1"), "").expect("a file");
    let ended = run.launch(&[], 0);
    ended.assert_said("no checkpoint was written, the older ones stay and training continues: ");
    ended.assert_said(
        "warning: the checkpoint of step 20 could not be written; the finished model needs it, so \
         that training continues from step 16",
    );
    ended.assert_said("averaged 2 checkpoints: steps 20, 24");
    assert!(run.exported() == wanted, "another model\n{}", ended.stderr);
    let points = run.curves().remove("train/loss").expect("losses");
    assert_eq!(points.iter().map(|(step, _)| *step).collect::<Vec<_>>(), Vec::from_iter(1..=24));

    // The last one cannot be, until its folder is free again.
    let run = Run::new(&tiny, "last", 1, &SETTINGS);
    std::fs::create_dir_all(run.folder().join("checkpoints")).expect("a folder");
    let drafts: Vec<_> = (1..=3)
        .map(|attempt| run.folder().join(format!("checkpoints/step-00000024.tmp-{attempt}")))
        .collect();
    drafts.iter().for_each(|draft| std::fs::write(draft, "").expect("a file"));
    let ended = run.launch(&["cluster.max_restarts=2"], 1);
    ended.assert_said(
        " in phase save at step 24 (attempt 3): the last checkpoint could not be written: cannot \
         begin a draft: ",
    );
    ended.assert_said(
        "next: 2 restarts brought no new checkpoint; the same command resumes from step 20",
    );
    drafts.iter().for_each(|draft| std::fs::remove_file(draft).expect("a file"));
    run.launch(&[], 0);
    assert!(run.exported() == wanted, "another model");

    // It is damaged while the model is tested, after the last step.
    for (damaged, before) in [(20, 16), (24, 20)] {
        let run = Run::new(&tiny, &format!("damaged-{damaged}"), 1, &SETTINGS);
        let launch = run.start(&LONG);
        eventually("it is tested", || !run.events("averaged").is_empty());
        launch.kill();
        eventually("all are gone", || run.processes().is_empty());
        flip_a_bit(&run.checkpoint(damaged));
        let ended = run.launch(&[], 0);
        ended.assert_said(&format!("step-000000{damaged} is damaged: adapters.safetensors has "));
        ended.assert_said(&format!("so that training continues from step {before}"));
        assert!(run.exported() == wanted, "another model\n{}", ended.stderr);
    }
}
