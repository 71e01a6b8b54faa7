//! The whole way from YAML to BLEU, at tiny size: the demo's pipeline.

use std::path::Path;

use tandem_tests::{Tiny, assert_reported_scores, expect_code, program, translate};

#[test]
fn two_berts_become_a_translator() {
    let tiny = Tiny::new();
    let config = tiny.ab_net("pair", 2, 0.1);
    let ended = expect_code(program("tandem").arg("launch").arg(config), 0);
    let run = tiny.path("pair");

    let report = std::fs::read_to_string(run.join("report.md")).expect("a report");
    let scores = run.join("evaluation/test-step-00000012/scores.json");
    let scores: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&scores).expect("scores")).expect("JSON");
    let bleu = assert_reported_scores(&run, 12);
    for figure in ["loss", "nll", "ppl", "length_nll", "passes"] {
        assert!(scores["figures"][figure].as_f64() > Some(0.0), "{figure} is missing in {scores}");
    }
    assert!(report.contains("## Validation"), "{report}");
    let alone =
        std::fs::read_to_string(tiny.path("bert-de/evaluation/valid-step-00000006/scores.json"));
    assert!(alone.expect("scores of the pre-training").contains("\"ppl\""));
    for checkpoint in ["latest", "best", "average", "step-00000012"] {
        let path = run.join("checkpoints").join(checkpoint).join("manifest.json");
        assert!(path.is_file(), "{} is missing", path.display());
    }
    let said = ended.stdout + &ended.stderr;
    assert!(said.contains(&format!("BLEU {bleu:.2}")), "{said}");

    // What the length prediction costs.
    let mut command = program("tandem");
    command.arg("evaluate").arg(&run).args([
        "--json",
        "--set",
        "decoding.mask_predict.score=average",
    ]);
    command.args(["--set", "decoding.mask_predict.lengths=oracle"]);
    let oracle = expect_code(&mut command, 0).json();
    assert_eq!(oracle["figures"]["length_accuracy"], 1.0, "{oracle}");
    assert_ne!(scores["figures"]["length_accuracy"], 1.0, "{scores}");
    let mut command = program("tandem");
    command.arg("evaluate").arg(&run).args(["--set", "training.steps=1"]);
    expect_code(&mut command, 2);

    // Translations come in the order of their lines, an empty one for an empty line.
    let lines = "eins zwei drei .\n\nneun .\nvier fünf sechs sieben acht neun .\n";
    let translations = translate(&run, lines);
    assert_eq!(translations.len(), 4, "{translations:?}");
    assert_eq!(translations[1], "");
    assert!(!translations[3].is_empty(), "{translations:?}");
    assert_lines_are_translated_as_asked(&tiny, &run);

    let mut command = program("tandem");
    command.arg("average").arg(&run).args(["--last", "0"]);
    expect_code(&mut command, 2).assert_said("at least 1 checkpoint");
}

/// Training data that is not what the config says of it is told before the first step.
#[test]
fn bad_lines_are_told_at_the_start_and_too_many_are_refused() {
    let tiny = Tiny::new();
    let config = tiny.ab_net("bad", 1, 0.1);
    let train = tiny.path("train.tsv");
    let good = std::fs::read_to_string(&train).expect("the data");
    let launch = |text: &str, settings: &[&str], code: i32| {
        std::fs::write(&train, text).expect("a file");
        let mut command = program("tandem");
        command.arg("launch").arg(&config).args(["--set", "training.steps=2"]).args(settings);
        expect_code(&mut command, code).stderr
    };
    let commas = good.replace('\t', ",");
    let said = launch(&format!("{commas}{good}"), &[], 2);
    assert!(said.contains("lines are bad, and data.max_bad is 0.05"), "{said}");
    assert!(said.contains("too few columns\n") && said.contains("line 1: "), "{said}");
    let said = launch(&format!("{commas}{good}"), &["--set", "data.max_bad=1"], 0);
    let lines = good.lines().count();
    let told = format!("train: {} lines, {lines} dropped ({lines} too few columns)", 2 * lines);
    let place = said.find(&format!("data.{told}")).expect("the data's line");
    assert!(place < said.find("\nstep ").unwrap_or(said.len()), "{said}");
    let status = expect_code(program("tandem").arg("status").arg(tiny.path("bad")), 0).stdout;
    assert!(status.contains(&format!("data        {told}")), "{status}");
    let log = std::fs::read_to_string(tiny.path("bad/logs/attempt-2/rank-0.log"));
    assert!(log.is_ok_and(|log| log.contains("too few columns")), "the log tells it");
}

/// `tandem translate` with other settings of decoding, and with lines that it refuses.
fn assert_lines_are_translated_as_asked(tiny: &Tiny, run: &Path) {
    let input = tiny.path("lines.txt");
    let translate = |lines: &[u8], setting: &str, code: i32| {
        std::fs::write(&input, lines).expect("a file");
        let mut command = program("tandem");
        command.arg("translate").arg(run).arg("--input").arg(&input).args(["--set", setting]);
        let ended = expect_code(&mut command, code);
        (ended.stdout, ended.stderr)
    };
    let lines = "eins zwei drei vier fünf .\n".as_bytes();
    let once = "decoding.mask_predict.iterations=1";
    let (text, _) = translate(lines, once, 0);
    assert_eq!(text.lines().count(), 1, "{text}");
    for (lines, setting, reason) in [
        (lines, "training.steps=1", "only keys of decoding"),
        (lines, "decoding.mask_predict.iterations=0", "iterations"),
        (lines, "decoding.mask_predict.lengths=oracle", "there are no references"),
        (b"eins\nf\xfcnf\n", once, "lines.txt, line 2: not UTF-8"),
    ] {
        let (_, said) = translate(lines, setting, 2);
        assert!(said.contains(reason), "{said}");
    }
}

#[test]
fn a_wrong_config_starts_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("wrong.yaml");
    std::fs::write(&path, "run: { name: x }\ntrainig: {}\n").expect("a file");
    let text = expect_code(program("tandem").arg("launch").arg(&path), 2).stderr;
    assert!(text.contains("wrong.yaml:2:1: trainig:"), "{text}");
    assert!(text.contains("did you mean `training`?"), "{text}");
    assert!(!folder.path().join("runs").exists());
}
