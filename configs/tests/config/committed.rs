//! The files that are committed: all load, the example is complete, the paper's have its counts.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tandem_config::bases::{Base, Bases};
use tandem_config::bert::{self, BertConfig, BertFolder};
use tandem_config::model::{Decoder, Encoder};
use tandem_config::parameters::{self, trained_count};
use tandem_config::schema::{Choice, Rule, schema};
use tandem_config::{RunConfig, read};

fn configs() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The run file, whose inputs need not be there.
fn run(path: &Path) -> RunConfig {
    let (run, problems) = read(path, &[]).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(problems.only_missing_inputs(), "{problems}");
    run
}

fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    files.sort();
    files
}

#[test]
fn every_run_file_is_right_and_names_its_schema() {
    let folders = ["", "paper", "demo"].map(|folder| configs().join(folder));
    let files: Vec<PathBuf> = folders.iter().flat_map(|folder| yaml_files(folder)).collect();
    assert!(files.len() >= 7, "{files:?}");
    for file in files {
        run(&file);
        let text = fs::read_to_string(&file).unwrap();
        let first = text.lines().next().unwrap();
        let schema = first
            .strip_prefix("# yaml-language-server: $schema=")
            .unwrap_or_else(|| panic!("{}: {first}", file.display()));
        assert!(file.with_file_name(schema).is_file(), "{}: {schema}", file.display());
    }
}

#[test]
fn every_key_and_choice_is_in_the_example() {
    fn words(rule: Rule, all: &mut Vec<String>) {
        for choice in rule.choices().into_iter().flatten() {
            all.push(choice.name().to_owned());
            if let Choice::Key(_, schema) = choice {
                words(Rule::of(schema), all);
            }
        }
        for (key, schema) in rule.properties() {
            if rule.choices().is_none() {
                all.push(format!("{key}:"));
                words(Rule::of(schema), all);
            }
        }
    }
    let mut all = Vec::new();
    words(Rule::of(schema()), &mut all);
    assert!(all.len() > 100);
    let example = fs::read_to_string(configs().join("example.yaml")).unwrap();
    for word in all {
        assert!(example.contains(&word), "configs/example.yaml does not mention `{word}`");
    }
}

#[test]
fn the_example_shows_the_defaults() {
    fn check(value: &Value, rule: Rule, path: &str, checked: &mut usize) {
        if let Some(choices) = rule.choices() {
            for choice in choices {
                if let Choice::Key(key, schema) = choice
                    && let Some(value) = value.get(key)
                {
                    check(value, Rule::of(schema), &format!("{path}.{key}"), checked);
                }
            }
            return;
        }
        for (key, schema) in rule.properties() {
            let path = format!("{path}.{key}");
            let Some(value) = value.get(key) else { continue };
            if let Some(default) = schema.get("default") {
                assert_eq!(value, default, "{path}");
                *checked += 1;
            }
            check(value, Rule::of(schema), &path, checked);
        }
    }
    let text = fs::read_to_string(configs().join("example.yaml")).unwrap();
    let written: Value = serde_yaml::from_str(&text).unwrap();
    let resolved = serde_json::to_value(run(&configs().join("example.yaml"))).unwrap();
    let mut checked = 0;
    check(&resolved, Rule::of(schema()), "", &mut checked);
    assert!(checked > 40, "{checked}");
    // Not only by leaving it out.
    assert_eq!(written["cluster"]["deadlines"]["save"], resolved["cluster"]["deadlines"]["save"]);
}

/// A BERT of the size of bert-base that is not on this machine, with everything that it stores.
fn base(name: &str) -> Base {
    let vocab_size = match name {
        "bert-base-uncased" => 30_522,
        "bert-base-cased" => 28_996,
        "bert-base-german-cased" => 30_000,
        "bert-base-multilingual-cased" => 119_547,
        _ => panic!("unknown BERT {name}"),
    };
    let config: BertConfig = serde_json::from_value(serde_json::json!({
        "vocab_size": vocab_size, "hidden_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 512,
    }))
    .unwrap();
    let tensors = bert::tensors(&config).into_iter().chain(bert::mlm_head(&config));
    let folder = BertFolder {
        path: name.into(),
        config: config.clone(),
        tensors: tensors.map(|tensor| (tensor.name, tensor.shape)).collect(),
        vocabulary: "vocab.txt".into(),
    };
    Base { config, folder: Some(folder) }
}

#[test]
fn the_papers_runs_train_the_papers_counts() {
    for (name, count) in [
        ("iwslt14-de-en", 38_608_896),
        ("iwslt14-de-en-released", 48_079_872),
        ("wmt14-de-en", 66_920_448),
        ("wmt14-de-en-released", 104_721_408),
        ("wmt14-en-de", 66_920_448),
        ("wmt16-ro-en", 66_920_448),
    ] {
        let run = run(&configs().join("paper").join(format!("{name}.yaml")));
        assert_eq!(run.run.name, name);
        let Encoder::Bert(encoder) = &run.model.encoder;
        let Some(Decoder::Bert(decoder)) = &run.model.decoder else { panic!("{name}") };
        let encoder = base(encoder.pretrained.as_deref().unwrap());
        let bases = Bases { encoder, decoder: Some(base(&decoder.pretrained)) };
        assert_eq!(trained_count(&parameters::model(&run, &bases)), count, "{name}");
    }
}
