//! A finished run is used away from where it was trained; and data that is not what it seems.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tandem_tests::{Tiny, copy_folder, expect_code, program, translate};

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
    // Lines that are cut are named.
    let long = tiny.write("long.txt", &format!("neun .\n{}\n", "eins ".repeat(60)));
    let mut command = program("tandem");
    command.arg("translate").arg(&run).arg("--input").arg(long);
    expect_code(&mut command, 0).assert_said("line 2: cut to the model's 24 tokens");
    // What computes can be said where the model is used.
    let mut command = program("tandem");
    command.arg("translate").arg(&run).args(["--set", "cluster.device=cuda", "--input"]);
    expect_code(command.arg(&config), 2)
        .assert_said("cluster.device is `cuda`, but there is no usable GPU");
}

/// Every file below a folder, with its bytes.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(contents(&path)),
            path => drop(found.insert(path.clone(), fs::read(&path).expect("a file"))),
        }
    }
    found
}

#[test]
fn an_exported_model_is_used_like_its_run_and_makes_it_needless() {
    let tiny = Tiny::new();
    let decoder = "{ transformer: { layers: 1, hidden: 16, heads: 2, feed_forward: 32, \
                   max_length: 32, vocabulary: { learn: { size: 110, lowercase: false } } } }";
    let encoder = "{ bert: { pretrained: ./bert-de/export, adapters: { dim: 16 } } }";
    let objective = "{ masked: { length_classes: 40 } }";
    let config = tiny.translation("handed", 1, encoder, decoder, objective);
    expect_code(program("tandem").arg("launch").arg(config), 0);
    let (run, lines) = (tiny.path("handed"), "eins zwei .\n\nneun .\n");
    let before = translate(&run, lines);
    // Whoever may only read the run can make models of it elsewhere.
    let untouched = contents(&run);
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    for (verb, more) in [("export", None), ("average", Some("--last=1"))] {
        let mut command = program("tandem");
        command.arg(verb).arg(&run).arg("--output").arg(elsewhere.path().join(verb)).args(more);
        expect_code(&mut command, 0);
    }
    // A model among a run's own files would be taken for the run's.
    for inside in ["", "checkpoints", "checkpoints/step-00000003", "new"] {
        let mut command = program("tandem");
        command.arg("export").arg(&run).arg("--output").arg(run.join(inside));
        expect_code(&mut command, 2).assert_said("is the folder of a run, or in one");
    }
    assert!(contents(&run) == untouched, "the run was only to be read");
    fs::rename(run.join("export"), elsewhere.path().join("own")).expect("one file system");
    fs::remove_dir_all(&run).expect("a run");

    for model in ["own", "export"] {
        assert_eq!(translate(&elsewhere.path().join(model), lines), before);
    }
    let last = elsewhere.path().join("average");
    assert_eq!(translate(&last, lines).len(), 3);
    let mut command = program("tandem");
    expect_code(command.args(["evaluate", "--json"]).arg(&last), 0);
    let mut command = program("tandem");
    command.arg("translate").arg(&last).args(["--checkpoint", "best"]);
    expect_code(&mut command, 2).assert_said("there is no checkpoint `best`");
    // What is damaged is not used.
    let weights = last.join("adapters.safetensors");
    let mut bytes = fs::read(&weights).expect("weights");
    *bytes.last_mut().expect("bytes") ^= 1;
    fs::write(&weights, bytes).expect("weights");
    let mut command = program("tandem");
    expect_code(command.arg("translate").arg(&last), 1)
        .assert_said("is damaged: adapters.safetensors has another content");
}

#[test]
fn a_bert_is_known_by_its_hash_wherever_it_lies() {
    let tiny = Tiny::new();
    let config = tiny.ab_net("based", 1, 0.1);
    expect_code(program("tandem").arg("launch").arg(config), 0);
    let (run, lines) = (tiny.path("based"), "eins zwei .\nneun .\n");
    let before = translate(&run, lines);
    // Tests share this BERT, so the run's config loses it instead.
    let config = run.join("config.yaml");
    let text = fs::read_to_string(&config).expect("a config");
    fs::write(&config, text.replace("/bert-de/export", "/lost")).expect("a config");
    let input = tiny.write("lines.txt", lines);
    let translate = |bert: Option<&str>, code| {
        let mut command = program("tandem");
        command.arg("translate").arg(&run).arg("--input").arg(&input);
        if let Some(bert) = bert {
            command.arg("--set").arg(format!(
                "model.encoder.bert.pretrained={}",
                tiny.path(bert).join("export").display()
            ));
        }
        let ended = expect_code(&mut command, code);
        (ended.stdout, ended.stderr)
    };
    assert!(translate(None, 2).1.contains("model.encoder.bert.pretrained: there is no"));
    assert_eq!(translate(Some("bert-de"), 0).0.lines().collect::<Vec<_>>(), before);
    let (_, said) = translate(Some("bert-en"), 2);
    assert!(said.contains("was trained on another encoder BERT (SHA-256"), "{said}");
    // The same weights under another vocabulary are another BERT.
    let copy = tiny.path("copy/export");
    copy_folder(&tiny.path("bert-de/export"), &copy);
    for name in ["vocab.txt", "tokenizer.json"] {
        let path = copy.join(name);
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let swapped = text.replace("eins", "EINS").replace("zwei", "eins").replace("EINS", "zwei");
        assert_ne!(swapped, text, "{name}");
        fs::write(path, swapped).expect("a file");
    }
    let (_, said) = translate(Some("copy"), 2);
    assert!(said.contains("was trained on another source vocabulary (SHA-256"), "{said}");
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
    // The training continues there, too.
    let mut command = program("tandem");
    command.arg("launch").arg(elsewhere.path().join("moved.yaml"));
    command.args(["--set", "training.steps=15", "--set"]);
    command.arg(format!("run.folder={}", elsewhere.path().display()));
    expect_code(&mut command, 0).assert_said("resuming from the checkpoint of step 12 of 15");
}

#[test]
fn a_file_that_is_not_what_its_name_says_ends_a_run_at_once() {
    let tiny = Tiny::new();
    let config = tiny.ab_net("misnamed", 1, 0.1);
    let plain = fs::read(tiny.path("train.tsv")).expect("a text");
    fs::write(tiny.path("plain.tsv.gz"), plain).expect("a file");
    let set = format!("data.train.tsv.path={}", tiny.path("plain.tsv.gz").display());
    let said =
        expect_code(program("tandem").arg("launch").arg(config).args(["--set", &set]), 2).stderr;
    let words = "plain.tsv.gz is uncompressed text; remove the extension from its name";
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
        expect_code(&mut command, code).stderr
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
