//! The language model of CTC's search: estimated once, by whatever needs it first, and handed on.

use std::fs;
use std::path::Path;

use tandem_tests::{Ended, Tiny, expect_code, program};

const SIDE: &str = "{ transformer: { layers: 1, hidden: 32, heads: 2, feed_forward: 64, max_length: 48, \
                    vocabulary: { learn: { size: 110, lowercase: false } } } }";
const SEARCH: [&str; 3] = [
    "decoding.ctc.width=4",
    "decoding.ctc.token_bonus=2",
    "decoding.ctc.language_model={order: 3, weight: 1}",
];

fn tandem(verb: &str, path: &Path, overrides: &[&str], code: i32) -> Ended {
    let mut command = program("tandem");
    command.arg(verb).arg(path);
    for text in overrides {
        command.args(["--set", text]);
    }
    expect_code(&mut command, code)
}

/// What the model of a run or an exported folder makes of the test set.
fn translations(path: &Path, overrides: &[&str]) -> String {
    let output = tempfile::tempdir().expect("a temporary folder");
    let mut command = program("tandem");
    command.arg("evaluate").arg(path).arg("--output").arg(output.path());
    for text in overrides {
        command.args(["--set", text]);
    }
    expect_code(&mut command, 0);
    fs::read_to_string(output.path().join("translations.jsonl")).expect("translations")
}

#[test]
fn it_is_estimated_once_and_goes_along_with_the_model() {
    let tiny = Tiny::texts();
    let (run, texts) = (tiny.path("run"), tiny.path("train.tsv"));
    let objective = "{ ctc: { upsampling: 2 } }";
    let config = tiny.translation("run", 1, SIDE, SIDE, objective);
    tandem("launch", &config, &["training.steps=60", "evaluation.every=0"], 0);
    let file = run.join("language_models/order-3.ngrams");
    assert!(!file.exists(), "nothing has asked for it");

    // A trained run needs its texts once more.
    let aside = tiny.path("aside.tsv");
    fs::rename(&texts, &aside).expect("one file system");
    let said = tandem("evaluate", &run, &SEARCH, 2);
    said.assert_said("order-3.ngrams is not there, which decoding.ctc.language_model needs");
    said.assert_said("train.tsv");
    fs::rename(&aside, &texts).expect("one file system");
    let found = translations(&run, &[&SEARCH[..], &["cluster.workers=2"]].concat());
    let bytes = fs::read(&file).expect("a language model");
    fs::remove_file(&texts).expect("texts");
    assert_eq!(translations(&run, &SEARCH), found);
    assert_ne!(translations(&run, &SEARCH[..2]), found, "it changes nothing");
    let python = tiny.path("python");
    let mut export = program("tandem");
    export.arg("export").arg(&run).args(["--format", "transformers", "--output"]).arg(&python);
    for text in SEARCH {
        export.args(["--set", text]);
    }
    expect_code(&mut export, 0);
    assert!(fs::read(python.join("language_model.ngrams")).expect("a copy") == bytes);

    // Training with it makes the same one, on as many ranks as it has, and what is exported has it.
    let tiny = Tiny::texts();
    let config = tiny.translation("trained", 2, SIDE, SIDE, objective);
    tandem("launch", &config, &SEARCH, 0);
    let run = tiny.path("trained");
    assert!(fs::read(run.join("language_models/order-3.ngrams")).expect("another") == bytes);
    fs::remove_file(tiny.path("train.tsv")).expect("texts");
    let (found, export) = (translations(&run, &[]), tiny.path("handed-on"));
    fs::rename(run.join("export"), &export).expect("one file system");
    assert_eq!(translations(&export, &[]), found);
    tandem("evaluate", &export, &["decoding.ctc.language_model.order=2"], 2)
        .assert_said("order-2.ngrams is not there");

    // What is damaged is neither used nor handed on.
    for (run, verb, code) in [(&export, "evaluate", 2), (&run, "export", 1)] {
        let file = run.join("language_models/order-3.ngrams");
        let mut bytes = fs::read(&file).expect("a language model");
        *bytes.last_mut().expect("bytes") ^= 1;
        fs::write(&file, bytes).expect("a language model");
        tandem(verb, run, &[], code).assert_said("order-3.ngrams is damaged");
    }
    assert!(!run.join("export/adapters.safetensors").exists(), "half of a model is handed on");
}
