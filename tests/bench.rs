//! `tandem-worker bench` computes what the PyTorch peer computes on the same batches.

use std::path::Path;

use serde_json::Value;
use tandem_tests::{expect_code, program};

fn bench(verb: &str, batches: &str, code: i32) -> (String, String) {
    bench_in("f32", verb, batches, code)
}

fn bench_in(dtype: &str, verb: &str, batches: &str, code: i32) -> (String, String) {
    let model = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/tiny-a"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("batches.tsv");
    std::fs::write(&file, batches).expect("a file");
    let mut command = program("tandem-worker");
    command.arg("bench").arg(verb).arg("--model").arg(model).arg("--batches").arg(file);
    command.args(["--dtype", dtype, "--threads", "1", "--repeats", "3"]);
    let ended = expect_code(&mut command, code);
    (ended.stdout, ended.stderr)
}

/// Two sentence pairs.
const BATCH: &str =
    "# a comment\n1\t5 6 3\t7 8 9 3\t4 8 4 3\t1010\n1\t5 6 9 3\t7 9 3\t4 4 3\t110\n";

#[test]
fn the_training_loss_is_the_peers() {
    let (line, _) = bench("train", BATCH, 0);
    let found: Value = serde_json::from_str(&line).expect("one line of JSON");
    let loss = found["losses"][0].as_f64().expect("a loss");
    // trainer/bench/peer.py train on this file and tests/golden/tiny-a, PyTorch 2.13.
    assert!((loss - 9.811175346374512).abs() < 1e-4, "{line}");
    assert_eq!(found["target_tokens"], 7);
    assert_eq!(found["seconds"].as_array().map(Vec::len), Some(3));
}

#[test]
fn in_bf16_the_loss_is_nearly_the_same() {
    // bf16 has eight bits of mantissa: only the mean of many positions can be close.
    let ids = |row: u64, salt: u64| {
        let id = |place: u64| (5 + (row * 31 + place * 17 + salt) % 150).to_string();
        (0..4 + row % 6).map(id).collect::<Vec<_>>().join(" ") + " 3"
    };
    let rows = (0..64).map(|row| {
        let masked = vec!["4"; 4 + row as usize % 6].join(" ") + " 3";
        let places = "1".repeat(4 + row as usize % 6) + "0";
        format!("1\t{}\t{}\t{masked}\t{places}\n", ids(row, 0), ids(row, 7))
    });
    let batch: String = rows.collect();
    let loss = |dtype| {
        let (line, _) = bench_in(dtype, "train", &batch, 0);
        let found: Value = serde_json::from_str(&line).expect("one line of JSON");
        found["losses"][0].as_f64().expect("a loss")
    };
    let (f32, bf16) = (loss("f32"), loss("bf16"));
    let error = (bf16 - f32).abs() / f32;
    assert!(error > 1e-7 && error < 5e-3, "{f32} in f32, {bf16} in bf16");
}

#[test]
fn candidate_lengths_are_kept_to() {
    let (line, _) = bench("decode", "5 6 3\t3\n6 3\t2 5\n", 0);
    let found: Value = serde_json::from_str(&line).expect("one line of JSON");
    let lengths: Vec<_> = found["hypotheses"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|ids| ids.as_array().map_or(0, Vec::len))
        .collect();
    assert_eq!(lengths[0], 3, "{line}");
    assert!(lengths[1] == 2 || lengths[1] == 5, "{line}");
}

#[test]
fn a_wrong_line_is_named() {
    let (_, said) = bench("train", "1\t5 6 3\t7 8 3\t4 8 3\t10\n", 1);
    assert!(said.contains("batches.tsv:1: 3 target ids"), "{said}");
    let (_, said) = bench("decode", "5 3\t2\n999 3\t2\n", 1);
    assert!(said.contains("batches.tsv:2: `999` is not an id below 211"), "{said}");
}
