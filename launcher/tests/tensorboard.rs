//! What TensorBoard's own reader finds in our logs (tests/python/read_tensorboard.py).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tandem_launcher::tensorboard::Writer;
use tandem_tests::python;

type Points = BTreeMap<String, Vec<(u64, Value)>>;

/// All points in `folder`, in the order of reading.
fn read(folder: &Path) -> Points {
    serde_json::from_value(python::read("read_tensorboard.py", folder)).unwrap()
}

fn steps(points: &Points, tag: &str) -> Vec<u64> {
    points[tag].iter().map(|(step, _)| *step).collect()
}

/// Logs what a run logs at each of `steps`; `mark` tells the attempts apart.
fn train(writer: &mut Writer, steps: impl Iterator<Item = u64>, mark: f64) {
    for step in steps {
        writer.scalar("train/loss", step, step as f64 + mark);
        if step % 5 == 0 {
            writer.scalar("eval/bleu", step, mark);
            writer.text("samples", step, &format!("| source | {mark} |"));
        }
    }
}

fn newest_file(folder: &Path) -> PathBuf {
    fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).max().unwrap()
}

#[test]
fn a_run_killed_and_resumed_has_one_point_for_each_tag_and_step() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut first = Writer::open(folder, None);
    first.config(
        "seed: 1\nmodel:\n  encoder: { bert: { layers: [1, 2] } }\ntraining: { lr: 5e-4 }\n",
    );
    train(&mut first, 1..=37, 0.0);
    drop(first);
    // Killed while it wrote a record.
    let torn = newest_file(folder);
    let length = fs::metadata(&torn).unwrap().len();
    File::options().write(true).open(&torn).unwrap().set_len(length - 5).unwrap();

    let mut second = Writer::open(folder, Some(20));
    second.config("seed: 1\n");
    train(&mut second, 21..=33, 0.25);
    drop(second);
    let mut third = Writer::open(folder, Some(30));
    train(&mut third, 30..=50, 0.5);
    third.flush();

    let points = read(folder);
    assert_eq!(steps(&points, "train/loss"), (1..=50).collect::<Vec<_>>());
    assert_eq!(steps(&points, "eval/bleu"), (1..=10).map(|k| 5 * k).collect::<Vec<_>>());
    assert_eq!(steps(&points, "samples"), steps(&points, "eval/bleu"));
    assert_eq!(points["train/loss"][19].1, json!(20.0));
    assert_eq!(points["train/loss"][29].1, json!(30.25));
    assert_eq!(points["train/loss"][30].1, json!(31.5));
    assert_eq!(points["samples"][9].1, json!("| source | 0.5 |"));
}

#[test]
fn the_readers_own_purge_works_where_the_old_file_could_not_be_mended() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    train(&mut Writer::open(folder, None), 1..=37, 0.0);
    let old = newest_file(folder);
    let unmended = fs::read(&old).unwrap();
    train(&mut Writer::open(folder, Some(20)), 21..=50, 0.5);
    fs::write(&old, unmended).unwrap();

    let points = read(folder);
    assert_eq!(steps(&points, "train/loss"), (1..=50).collect::<Vec<_>>());
    assert_eq!(points["train/loss"][20].1, json!(21.5));
}

#[test]
fn the_config_is_shown_as_text_and_as_hyperparameters() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(folder.path(), None);
    writer.config("seed: 1\ntraining: { lr: 5e-4, adam: { betas: [0.9, 0.98] } }\nname: demo\n");
    writer.flush();

    let points = read(folder.path());
    let expected = json!({"seed": 1.0, "training.lr": 5e-4, "training.adam.betas": "[0.9,0.98]", "name": "demo"});
    assert_eq!(points["_hparams_/session_start_info"], [(0, expected)]);
    assert!(points["config"][0].1.as_str().unwrap().starts_with("```yaml\nseed: 1\n"));
}
