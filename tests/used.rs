//! A finished run is used away from where it was trained; and data that is not what it seems.

use std::fs;

use tandem_tests::{Tiny, expect_code, program, translate};

#[test]
fn a_model_needs_neither_its_texts_nor_the_machine_that_trained_it() {
    let tiny = Tiny::new();
    let config = tiny.ab_net("used", 1, 0.1);
    expect_code(program("tandem").arg("launch").arg(config), 0);
    let run = tiny.path("used");
    let lines = "eins zwei .\n\nneun .\n";
    let before = translate(&run, lines);
    let config = run.join("config.yaml");
    let text = fs::read_to_string(&config).expect("a config");
    let elsewhere =
        text.replace("device: cpu", "device: cuda").replace("engine: auto", "engine: srun");
    assert_ne!(text, elsewhere);
    fs::write(&config, elsewhere).expect("a config");
    for split in ["train.tsv", "valid.tsv", "test.tsv"] {
        let _ = fs::remove_file(tiny.path(split));
    }
    assert_eq!(translate(&run, lines), before);
    for verb in ["export", "average"] {
        expect_code(program("tandem").arg(verb).arg(&run), 0);
    }
    // What computes can be said where the model is used.
    let mut command = program("tandem");
    command.arg("translate").arg(&run).args(["--set", "cluster.device=cuda", "--input"]);
    let output = expect_code(command.arg(&config), 2);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("cluster.device is `cuda`, but there is no usable GPU"), "{said}");
}

#[test]
fn a_run_moves_with_its_project() {
    let tiny = Tiny::new();
    let config = tiny.ab_net("moved", 1, 0.1);
    expect_code(program("tandem").arg("launch").arg(config), 0);
    let lines = "eins zwei .\n\nneun .\n";
    let before = translate(&tiny.path("moved"), lines);
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    for entry in fs::read_dir(tiny.path("")).expect("a folder").flatten() {
        fs::rename(entry.path(), elsewhere.path().join(entry.file_name()))
            .expect("one file system");
    }
    assert_eq!(translate(&elsewhere.path().join("moved"), lines), before);
    // The training goes on there, too.
    let mut command = program("tandem");
    command.arg("launch").arg(elsewhere.path().join("moved.yaml"));
    command.args(["--set", "training.steps=15", "--set"]);
    command.arg(format!("run.folder={}", elsewhere.path().display()));
    let said = String::from_utf8_lossy(&expect_code(&mut command, 0).stderr).into_owned();
    assert!(said.contains("resuming from the checkpoint of step 12 of 15"), "{said}");
}

#[test]
fn a_file_that_is_not_what_its_name_says_ends_a_run_at_once() {
    let tiny = Tiny::new();
    let config = tiny.ab_net("misnamed", 1, 0.1);
    let plain = fs::read(tiny.path("train.tsv")).expect("a text");
    fs::write(tiny.path("plain.tsv.gz"), plain).expect("a file");
    let set = format!("data.train.tsv.path={}", tiny.path("plain.tsv.gz").display());
    let output = expect_code(program("tandem").arg("launch").arg(config).args(["--set", &set]), 2);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let words = "plain.tsv.gz is text that is not compressed; leave the ending of its name out";
    assert!(said.contains(words) && !said.contains("starting again"), "{said}");
}

#[test]
fn a_text_that_changed_under_its_name_is_not_resumed_with_unless_asked_for() {
    let tiny = Tiny::new();
    let config = tiny.ab_net("changed", 1, 0.1);
    let launch = |sets: &[&str], code| {
        let mut command = program("tandem");
        command.arg("launch").arg(&config);
        for set in sets {
            command.args(["--set", set]);
        }
        String::from_utf8_lossy(&expect_code(&mut command, code).stderr).into_owned()
    };
    launch(&[], 0);
    let files = ["train.tsv", "valid.tsv"].map(|name| tiny.path(name));
    for file in &files {
        let text = fs::read_to_string(file).expect("a text");
        let shorter = text.rsplit_once('\n').and_then(|(rest, _)| rest.rsplit_once('\n'));
        fs::write(file, shorter.expect("lines").0).expect("a text");
        let said = launch(&["training.steps=15"], 2);
        let words = [
            "data.train",
            "changed since",
            "step-00000012 was written; put the old text back, set data.allow_changed",
        ];
        assert!(words.iter().all(|words| said.contains(words)), "{said}");
    }
    let said = launch(&["training.steps=15", "data.allow_changed=true"], 0);
    assert!(said.contains("data.train and data.valid changed since"), "{said}");
    // From there on these are the run's texts.
    launch(&["training.steps=18"], 0);
}
