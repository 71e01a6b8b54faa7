//! Whole files: what is no run file, and what comes back from a good one.

use std::path::Path;

use serde_json::Value;
use tandem_config::schema::data::Text;
use tandem_config::schema::model::{Decoder, Encoder};
use tandem_config::{ProblemKind, RunConfig};

use crate::support::{Folder, VALID};

fn problem(text: impl AsRef<[u8]>) -> String {
    Folder::new().load(text, &[]).unwrap_err()
}

#[test]
fn files_that_are_no_run_files() {
    let empty = "run.yaml: the file is empty, a run needs at least run, data, model and training";
    assert_eq!(problem(""), empty);
    assert_eq!(problem("# nothing yet\n"), empty);
    assert_eq!(problem("---\n"), empty);
    let map = "must be a map of run | seed | data | model | training | decoding | evaluation | \
               checkpoints | cluster";
    assert_eq!(problem("hello\n"), format!("run.yaml:1:1: found the text `hello`, {map}"));
    assert_eq!(problem("\n- a\n- b\n"), format!("run.yaml:2:1: found a list of 2, {map}"));
    let latin_1 = b"run:\n  name: m\xfcller\n";
    assert_eq!(problem(latin_1), "run.yaml:2:10: not UTF-8, save the file as UTF-8");
}

#[test]
fn a_file_that_is_not_there() {
    let problems = tandem_config::load(Path::new("nowhere.yaml"), &[]).unwrap_err();
    let expected = "nowhere.yaml: there is no such file, give the path of a run's YAML";
    assert_eq!(problems.to_string(), expected);
    assert_eq!(problems.list[0].kind, ProblemKind::Unreadable);
    let problems = tandem_config::load(&std::env::temp_dir(), &[]).unwrap_err();
    assert!(problems.to_string().contains("cannot be read"), "{problems}");
}

#[test]
fn hostile_files_are_refused() {
    let deep = format!("run: {}", "[".repeat(70));
    assert_eq!(problem(deep), "run.yaml:1:69: nested deeper than 64 levels");
    let deeper = format!("run: {}", "[".repeat(100_000));
    assert!(problem(deeper).starts_with("run.yaml:1:"));
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let below = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb += &format!("a{level}: &a{level} [{below}]\n");
    }
    assert!(problem(bomb).contains("more than 100000 values"));
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_change_nothing() {
    let text = format!("\u{feff}{}", VALID.replace('\n', "\r\n"));
    let folder = Folder::new();
    assert_eq!(folder.load(&text, &[]), Ok(()));
    let broken = text.replace("seed: 7", "seed: x");
    let message = "run.yaml:4:7: seed: found the text `x`, must be a whole number of at least 0";
    assert_eq!(folder.load(broken, &[]), Err(message.into()));
}

#[test]
fn anchors_repeat_values() {
    let text = VALID.replace("tsv: {path", "tsv: &pairs {path").replace(
        "    files:\n      source: valid.de\n      target: valid.en\n",
        "    tsv: *pairs\n",
    );
    let run = load(&Folder::new(), &text, &[]);
    assert_eq!(run.data.valid.as_ref(), Some(&run.data.train));
}

#[test]
fn merged_maps_are_as_if_written_out() {
    let merged = VALID
        .replace(
            "tsv: {path: train.tsv, source: 1, target: 2}",
            "tsv: &pairs {target: 2, path: train.tsv, source: 1}",
        )
        .replace(
            "    files:\n      source: valid.de\n      target: valid.en\n",
            "    tsv: {<<: *pairs, source: 3}\n",
        );
    let written = VALID.replace(
        "    files:\n      source: valid.de\n      target: valid.en\n",
        "    tsv: {path: train.tsv, source: 3, target: 2}\n",
    );
    let folder = Folder::new();
    assert_eq!(load(&folder, &merged, &[]), load(&folder, &written, &[]));
    // Of several maps the first that has a key counts.
    let several = merged.replace("<<: *pairs, source: 3", "<<: [{source: 3}, *pairs, {source: 4}]");
    assert_eq!(load(&folder, &several, &[]), load(&folder, &written, &[]));
    let said = problem(merged.replace("<<: *pairs", "<<: pairs"));
    let must =
        "data.valid.tsv.<<: must be a map that has a name, as in `<<: *name`, or a list of such";
    assert!(said.contains(&format!("run.yaml:9:11: {must}")), "{said}");
    let foreign = merged.replace("&pairs {", "&pairs {sources: 1, ");
    assert!(problem(foreign).contains("data.valid.tsv.sources"));
}

#[test]
fn homes_and_variables_in_paths_are_expanded() {
    let folder = Folder::new();
    let home = std::env::var("HOME").expect("a home");
    let run = load(&folder, VALID, &["run.folder=~/runs", "data.cache=\"${HOME}/$HOME\""]);
    assert_eq!(run.run.path(), Path::new(&home).join("runs/valid"));
    assert_eq!(run.data.cache, Some(format!("{home}/{home}").into()));
    for (key, path) in [
        ("run.folder", "$TANDEM_NOT_SET/runs"),
        ("data.train.tsv.path", "$TANDEM_NOT_SET/a.tsv"),
        ("model.encoder.bert.pretrained", "$TANDEM_NOT_SET/bert"),
        ("cluster.hostfile", "$TANDEM_NOT_SET/hosts"),
    ] {
        let said = folder.load(VALID, &[&format!("{key}={path}")]).unwrap_err();
        let start = format!("--set {key}={path}: {key}: `{path}` has the variable TANDEM_NOT_SET,");
        assert!(said.starts_with(&start), "{said}");
    }
    let said = folder.load(VALID, &["run.folder=~anna/runs"]).unwrap_err();
    assert!(said.contains("somebody's home"), "{said}");
}

fn load(folder: &Folder, text: &str, overrides: &[&str]) -> RunConfig {
    folder.load(text, overrides).unwrap();
    let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
    tandem_config::load(&folder.path("run.yaml"), &overrides).unwrap()
}

#[test]
fn paths_become_absolute_and_names_stay() {
    let folder = Folder::new();
    let run = load(&folder, &VALID.replace("./english", "some/bert-on-the-hub"), &[]);
    let Text::Tsv { path, .. } = &run.data.train else { panic!("not tsv") };
    assert_eq!(*path, folder.path("train.tsv"));
    let Encoder::Bert(encoder) = &run.model.encoder else { panic!("no BERT") };
    assert_eq!(encoder.pretrained.as_deref(), folder.path("german").to_str());
    let Some(Decoder::Bert(decoder)) = &run.model.decoder else { panic!("no decoder") };
    assert_eq!(decoder.pretrained, "some/bert-on-the-hub");
    assert_eq!(run.run.path(), Path::new("runs/valid"));
}

#[test]
fn a_text_that_a_recipe_makes_is_told_with_its_command() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("data")).unwrap();
    let text = VALID.replace("path: train.tsv", "path: data/iwslt14.de-en/train.tsv");
    assert_ne!(text, VALID);
    let missing = "data.train.tsv.path: there is no file data/iwslt14.de-en/train.tsv";
    let said = folder.load(&text, &[]).unwrap_err();
    assert!(said.ends_with(missing), "{said}");
    std::fs::write(folder.path("data/iwslt14.de-en.yaml"), "").unwrap();
    let said = folder.load(&text, &[]).unwrap_err();
    let command = format!("{missing}, `tandem data data/iwslt14.de-en.yaml` makes it");
    assert!(said.ends_with(&command), "{said}");
    // The recipe makes nothing else there.
    let text = text.replace("train.tsv", "mono.tsv");
    let said = folder.load(&text, &[]).unwrap_err();
    assert!(said.ends_with("there is no file data/iwslt14.de-en/mono.tsv"), "{said}");
}

#[test]
fn a_resolved_config_loads_to_itself_from_another_folder() {
    let folder = Folder::new();
    for overrides in [
        &[][..],
        &["run.folder=\"0x10: #, yes\"", "training.schedule.inverse_sqrt.peak=0.30000000000000004"],
        &["seed=18446744073709551615", "data.max_length=null", "data.cache=~"],
    ] {
        let run = load(&folder, VALID, overrides);
        let other = folder.path("other");
        std::fs::create_dir_all(&other).unwrap();
        std::fs::write(other.join("config.yaml"), run.to_yaml().unwrap()).unwrap();
        assert_eq!(tandem_config::load(&other.join("config.yaml"), &[]).unwrap(), run);
    }
}

#[test]
fn overrides_set_what_is_there_and_what_is_not() {
    let folder = Folder::new();
    let run = load(
        &folder,
        VALID,
        &["training.steps=20", "cluster.deadlines.step=5", "training.steps=30", "run.name='1'"],
    );
    assert_eq!(run.training.steps, 30);
    assert_eq!(run.cluster.deadlines.step, 5.0);
    assert_eq!(run.cluster.deadlines.save, 600.0);
    assert_eq!(run.run.name, "1");
}

/// What saphyr-parser and serde_yaml make of the same text is the same.
#[test]
fn the_meaning_is_serde_yamls() {
    let whole: Value = serde_yaml::from_str(VALID).unwrap();
    let folder = Folder::new();
    let run = load(&folder, VALID, &[]);
    let ours = serde_json::to_value(run).unwrap();
    fn contained(part: &Value, whole: &Value, path: &str) {
        match (part, whole) {
            (Value::Object(part), Value::Object(whole)) => {
                for (key, value) in part {
                    contained(value, &whole[key], &format!("{path}.{key}"));
                }
            }
            // Paths have become absolute.
            (Value::String(part), Value::String(whole)) => {
                assert!(whole.ends_with(part.trim_start_matches("./")), "{path}: {whole}");
            }
            (Value::Number(part), Value::Number(whole)) => {
                assert_eq!(part.as_f64(), whole.as_f64(), "{path}");
            }
            _ => assert_eq!(part, whole, "{path}"),
        }
    }
    contained(&whole, &ours, "");
}

#[test]
fn missing_inputs_are_told_from_mistakes() {
    let folder = Folder::new();
    let path = folder.path("run.yaml");
    std::fs::write(&path, VALID.replace("train.tsv", "absent.tsv")).unwrap();
    let (run, problems) = tandem_config::read(&path, &[]).unwrap();
    assert!(problems.only_missing_inputs() && !problems.list.is_empty());
    assert_eq!(run.training.steps, 100);
    let conflict = ["training.max_tokens=2".to_owned()];
    let (_, problems) = tandem_config::read(&path, &conflict).unwrap();
    assert!(!problems.only_missing_inputs());
    assert_eq!(problems.list.len(), 2);
}
