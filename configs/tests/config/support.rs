//! A folder with a valid run file, its texts and a tiny pair of BERTs.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tandem_config::pretrained::bert::{self, BertConfig};
use tempfile::TempDir;

/// A run file that is valid beside what [`Folder`] makes.
pub(crate) const VALID: &str = include_str!("valid.yaml");

/// Changes, and the problems that they make.
pub(crate) type Case = (&'static [(&'static str, &'static str)], &'static [&'static str]);

/// Makes each case's changes in a valid run file and compares what is said, to the letter.
pub(crate) fn check_changes(valid: &str, cases: &[Case]) {
    let folder = Folder::new();
    for (changes, problems) in cases {
        let mut text = valid.to_owned();
        for (from, to) in *changes {
            assert!(text.contains(from), "the valid file has no {from:?}");
            text = text.replacen(from, to, 1);
        }
        let expected: Vec<String> =
            problems.iter().map(|problem| format!("run.yaml:{problem}")).collect();
        assert_eq!(folder.load(text, &[]), Err(expected.join("\n")), "{changes:?}");
    }
}

/// A temporary folder with texts, `german` and `english`.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for file in ["train.tsv", "valid.de", "valid.en", "test.jsonl", "mono.de"] {
            std::fs::write(folder.path(file), "").unwrap();
        }
        write_bert(&folder.path("german"), json!({}));
        write_bert(&folder.path("english"), json!({}));
        let gpt2 = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/gpt2/folder");
        std::os::unix::fs::symlink(gpt2, folder.path("gpt2")).unwrap();
        folder
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Loads `text` as run.yaml; problems as lines without this folder's name.
    pub(crate) fn load(&self, text: impl AsRef<[u8]>, overrides: &[&str]) -> Result<(), String> {
        let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
        std::fs::write(self.path("run.yaml"), text).unwrap();
        match tandem_config::load(&self.path("run.yaml"), &overrides) {
            Ok(_) => Ok(()),
            Err(problems) => {
                let folder = format!("{}/", self.0.path().display());
                Err(problems.to_string().replace(&folder, ""))
            }
        }
    }
}

/// Makes a Hugging Face folder of 3 layers, 8 wide, 16 positions, 12 entries; `changes` go into
/// config.json alone.
pub(crate) fn write_bert(folder: &Path, changes: Value) {
    let mut config = json!({
        "model_type": "bert", "vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 3,
        "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 16,
    });
    let shape: BertConfig = serde_json::from_value(config.clone()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    std::fs::write(folder.join("vocab.txt"), "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n").unwrap();
    let tensors = bert::tensors(&shape).into_iter().chain(bert::mlm_head(&shape));
    write_weights(folder, tensors.map(|tensor| (tensor.name, tensor.shape)));
}

/// Writes model.safetensors with zeros.
pub(crate) fn write_weights(folder: &Path, tensors: impl Iterator<Item = (String, Vec<usize>)>) {
    let mut header = json!({ "__metadata__": { "format": "pt" } });
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        header[name] = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] });
    }
    let header = header.to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + end, 0);
    std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
}
