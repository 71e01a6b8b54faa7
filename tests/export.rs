//! A pre-trained BERT is exported as transformers itself would have written it.
//!
//! golden/mlm_export/golden.json is what transformers writes; make.py beside it made it, and
//! load.py loads a real export in transformers.

use std::path::Path;

use serde_json::Value;
use tandem_tests::{expect_code, program};

#[test]
fn names_shapes_and_config_are_transformers() {
    let golden = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/mlm_export/golden.json"));
    let golden: Value =
        serde_json::from_slice(&std::fs::read(golden).expect("a golden")).expect("JSON");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pieces = golden["vocabulary"].as_array().expect("a vocabulary");
    let lines = pieces.iter().filter_map(Value::as_str).map(|piece| format!("{piece}\n"));
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("a file");
    };
    write("vocab.txt", &lines.collect::<String>());
    write("text", &"a bad ab\nder Abbau .\n".repeat(20));
    let config = format!(
        "run: {{ name: tiny, folder: {} }}
data: {{ train: {{ lines: {{ path: text }} }} }}
model:
  encoder:
    bert:
      train: scratch
      new: {{ layers: 2, hidden: 32, heads: 4, feed_forward: 64, positions: 48, \
             vocabulary: {{ file: {{ path: vocab.txt, lowercase: false }} }} }}
  objective: {{ mlm: {{}} }}
training: {{ steps: 2, max_tokens: 256, micro_batches: 1, schedule: {{ constant: {{ rate: 0.01 }} }} }}
evaluation: {{ every: 0 }}
cluster: {{ engine: solo, workers: 1, device: cpu }}
",
        folder.path().display()
    );
    write("tiny.yaml", &config);
    expect_code(program("tandem").arg("launch").arg(folder.path().join("tiny.yaml")), 0);

    let export = folder.path().join("tiny/export");
    let file = std::fs::read(export.join("model.safetensors")).expect("weights");
    let length = u64::from_le_bytes(file[..8].try_into().expect("8 bytes")) as usize;
    let mut header: Value = serde_json::from_slice(&file[8..8 + length]).expect("a header");
    let header = header.as_object_mut().expect("an object");
    assert_eq!(header.remove("__metadata__"), Some(golden["model"]["metadata"].clone()));
    let expected = golden["model"]["tensors"].as_object().expect("tensors");
    let mut names: Vec<_> = header.keys().collect();
    names.sort();
    assert_eq!(names, expected.keys().collect::<Vec<_>>());
    for (name, tensor) in header.iter() {
        for key in ["dtype", "shape"] {
            assert_eq!(tensor[key], expected[name][key], "{key} of {name}");
        }
    }

    let config = std::fs::read(export.join("config.json")).expect("config.json");
    let found: Value = serde_json::from_slice(&config).expect("JSON");
    let mut expected = golden["model"]["config"].clone();
    expected.as_object_mut().expect("an object").remove("transformers_version");
    assert_eq!(found, expected);
    for name in ["vocab.txt", "tokenizer.json", "tokenizer_config.json"] {
        assert!(export.join(name).is_file(), "{name} is missing");
    }
}

#[test]
fn a_bert_that_was_trained_on_keeps_its_precision() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bert = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/demo/bert-en"));
    std::fs::write(folder.path().join("text"), "a short line\n".repeat(8)).expect("a file");
    let config = format!(
        "run: {{ name: on, folder: {} }}
data: {{ train: {{ lines: {{ path: text }} }} }}
model: {{ encoder: {{ bert: {{ pretrained: {}, train: all }} }}, objective: {{ mlm: {{}} }} }}
training: {{ steps: 1, max_tokens: 256, micro_batches: 1, schedule: {{ constant: {{ rate: 0.001 }} }} }}
evaluation: {{ every: 0 }}
cluster: {{ engine: solo, workers: 1, threads: 1, device: cpu }}
",
        folder.path().display(),
        bert.display()
    );
    let path = folder.path().join("on.yaml");
    std::fs::write(&path, config).expect("a file");
    expect_code(program("tandem").arg("launch").arg(path), 0);

    let export = folder.path().join("on/export");
    let config = std::fs::read_to_string(export.join("config.json")).expect("config.json");
    assert!(config.contains("\"bfloat16\""), "{config}");
    let size =
        |folder: &Path| std::fs::metadata(folder.join("model.safetensors")).expect("weights").len();
    assert!(size(&export).abs_diff(size(bert)) < 1000, "two bytes a weight");
}
