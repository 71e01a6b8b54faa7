//! Translations of any origin, scored as the sacrebleu package scores them.

use std::process::Command;

use serde_json::Value;
use tandem_tests::{expect_code, program};
use tempfile::TempDir;

/// What the sacrebleu package makes of strings; see make_scores.py beside it.
const GOLDEN: &str = include_str!("../launcher/tests/golden/scores.json");

fn score(folder: &TempDir, more: &[&str]) -> Command {
    let mut command = program("tandem");
    command.current_dir(folder.path()).args(["score", "hypotheses", "references"]).args(more);
    command
}

#[test]
fn files_are_scored_as_sacrebleu_scores_them() {
    let golden: Value = serde_json::from_str(GOLDEN).expect("JSON");
    let cases = golden["cases"].as_array().expect("cases").iter();
    let is_of_lines = |case: &&Value| {
        let pairs = case["pairs"].as_array().expect("pairs");
        pairs.len() > 20 && pairs.iter().all(|pair| !pair.to_string().contains("\\n"))
    };
    let case = cases.rev().find(is_of_lines).expect("a case of many lines");
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (side, name) in ["hypotheses", "references"].iter().enumerate() {
        let pairs = case["pairs"].as_array().expect("pairs").iter();
        let text: String =
            pairs.map(|pair| pair[side].as_str().expect("text").to_owned() + "\n").collect();
        std::fs::write(folder.path().join(name), text).expect("a file");
    }
    for (more, bleu, chrf) in [
        (&["--json"][..], "bleu_13a", "chrf"),
        (&["--json", "--lowercase"], "bleu_lowercase", "chrf_lowercase"),
    ] {
        let found = expect_code(&mut score(&folder, more), 0).json();
        for (found, expected) in [(&found["bleu_13a"], &case[bleu]), (&found["chrf"], &case[chrf])]
        {
            let [is, should] =
                [found, expected].map(|value| value["score"].as_f64().expect("a score"));
            assert!((is - should).abs() < 1e-3, "{is} instead of {should}");
        }
    }
    let said = expect_code(&mut score(&folder, &["--split-compounds", "--lowercase"]), 0).stdout;
    for text in ["BLEU = ", "tok:13a|", "tok:13a+atat|", "case:lc|", "chrF2 = "] {
        assert!(said.contains(text), "{text}: {said}");
    }
}

#[test]
fn files_that_are_no_pairs_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &[u8]| {
        std::fs::write(folder.path().join(name), text).expect("a file");
    };
    let refused = || expect_code(&mut score(&folder, &[]), 2).stderr;
    write("hypotheses", b"one\ntwo\nthree\n");
    assert!(refused().contains("references"), "there is none");
    write("references", b"one\ntwo\n");
    let said = refused();
    assert!(said.contains("hypotheses has 3 lines and references has 2"), "{said}");
    write("references", b"one\ntw\xf6\nthree\n");
    let said = refused();
    assert!(said.contains("references, line 2: not UTF-8"), "{said}");
}
