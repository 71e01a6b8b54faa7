//! A BERT that is trained on pairs, and a model that learns from its soft labels: what goes together
//! and what does not.

use std::path::Path;

use serde_json::json;
use tandem_config::pretrained::bert::{self, BertConfig};
use tandem_config::schema::evaluation::Metric;

use crate::support::{Case, Folder, VALID, check_changes, write_bert, write_weights};

/// A student that is valid beside what [`Folder`] makes.
fn student() -> String {
    let labels = "autoregressive: {soft_labels: {pretrained: german}}";
    include_str!("transformer.yaml")
        .replace("{learn: {size: 100, lowercase: true}}", "{bert: german}")
        .replace("autoregressive: {label_smoothing: 0.1}", labels)
}

/// A teacher that is valid beside what [`Folder`] makes: sides of 7 tokens at most, as 2 · 7 + 1
/// fit into its 16 positions.
fn teacher() -> String {
    let (start, end) = (VALID.find("  decoder:").unwrap(), VALID.find("  objective:").unwrap());
    let objective = "    masked:\n      label_smoothing: 0.1\n";
    VALID
        .replace(&VALID[start..end], "")
        .replace("      adapters:\n        dim: 4\n        layers: all\n", "      train: all\n")
        .replace(objective, "    mlm:\n      conditional: true\n")
        .replace("max_length: 12", "max_length: 7")
        .replace("decoding:\n  mask_predict:\n    iterations: 4\n", "")
}

#[test]
fn both_stages_are_valid() {
    let folder = Folder::new();
    let run = |text: &str| {
        assert_eq!(folder.load(text, &[]), Ok(()));
        tandem_config::load(&folder.path("run.yaml"), &[]).unwrap()
    };
    let taught = run(&student());
    let labels = taught.model.soft_labels().unwrap();
    let german = folder.path("german").to_string_lossy().into_owned();
    assert_eq!(labels.bert(), german, "paths become absolute");
    assert_eq!((labels.weight, labels.temperature, labels.top, labels.passes), (0.5, 10.0, 8, 7));
    let teacher = run(&teacher());
    assert!(teacher.model.joins_pairs() && !taught.model.joins_pairs());
    assert_eq!(teacher.evaluation.metric, Metric::Loss);
}

#[test]
fn a_run_can_be_the_teacher() {
    let folder = Folder::new();
    let student = |teacher: &str| student().replace("pretrained: german", teacher);
    let load = |teacher: &str| folder.load(student(teacher), &[]);
    let key = "run.yaml:27:36: model.objective.autoregressive.soft_labels";
    let unknown = "there is no german.yaml, must be a run's folder or a run file";
    assert_eq!(load("teacher: german.yaml"), Err(format!("{key}.teacher: {unknown}")));

    // A run file whose BERT is yet to be made, or is there.
    std::fs::write(folder.path("german.yaml"), teacher()).unwrap();
    assert_eq!(load("teacher: german.yaml"), Ok(()));
    let read = |name: &str| tandem_config::load(&folder.path(name), &[]).unwrap();
    let labels = read("run.yaml").model.soft_labels().unwrap().clone();
    let run = read("german.yaml").run.path();
    let export = std::path::absolute(run.join("export")).unwrap();
    assert_eq!(Path::new(labels.bert()), export);
    assert_eq!(labels.teacher, Some(folder.path("german.yaml")));
    let bert = tandem_config::load::labelling_bert(&read("run.yaml")).unwrap().unwrap();
    assert_eq!(bert.folder.unwrap().path, folder.path("german"), "what its run starts from");

    // A run folder, whose BERT has to be there.
    std::fs::create_dir(folder.path("run")).unwrap();
    std::fs::write(folder.path("run/config.yaml"), teacher()).unwrap();
    let said = load("teacher: run").unwrap_err();
    assert!(said.starts_with(&format!("{key}.teacher: there is no folder run/export")), "{said}");
    write_bert(&folder.path("run/export"), json!({}));
    assert_eq!(load("teacher: run"), Ok(()));
    let bert = tandem_config::load::labelling_bert(&read("run.yaml")).unwrap().unwrap();
    assert_eq!(bert.folder.unwrap().path, folder.path("run/export"));

    std::fs::write(folder.path("german.yaml"), "data: {}\n").unwrap();
    let said = "german.yaml does not say where its run lies, must be a run file";
    assert_eq!(load("teacher: german.yaml"), Err(format!("{key}.teacher: {said}")));
}

#[test]
fn conflicts_of_students() {
    check_changes(&student(), STUDENTS);
}

#[test]
fn conflicts_of_teachers() {
    check_changes(&teacher(), TEACHERS);
}

#[test]
fn a_gpt2_has_other_ids() {
    let text = student();
    let start = text.find("    transformer:\n      layers: 2\n      hidden: 12").unwrap();
    let decoder = &text[start..text.find("  objective:").unwrap()];
    let gpt2 = "    gpt2: {pretrained: ./gpt2, cross_attention: {heads: 2}}\n";
    let said = Folder::new().load(text.replace(decoder, gpt2), &[]).unwrap_err();
    assert_eq!(
        said,
        "run.yaml:18:5: model.decoder.gpt2: a GPT-2 writes other ids than the BERT of soft_labels, \
         must be {transformer: ...} or {bert: ...} with that BERT's vocabulary"
    );
}

/// The BERT is `german` with another number of token types, or without a head.
fn damage(folder: &Folder, types: usize, has_head: bool) {
    let path: &Path = &folder.path("german");
    let mut config = json!({
        "model_type": "bert", "vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 3,
        "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 16,
    });
    config["type_vocab_size"] = types.into();
    std::fs::write(path.join("config.json"), config.to_string()).unwrap();
    let shape: BertConfig = serde_json::from_value(config).unwrap();
    let head = if has_head { bert::mlm_head(&shape) } else { vec![] };
    let tensors = bert::tensors(&shape).into_iter().chain(head);
    write_weights(path, tensors.map(|tensor| (tensor.name, tensor.shape)));
}

#[test]
fn the_teacher_tells_sides_apart_and_predicts() {
    let folder = Folder::new();
    damage(&folder, 1, true);
    let types = "german has one token type, must be a BERT with two: of sources and of targets";
    for (text, place) in [
        (student(), "27:36: model.objective.autoregressive.soft_labels.pretrained"),
        (teacher(), "19:7: model.encoder.bert.pretrained"),
    ] {
        assert_eq!(folder.load(text, &[]), Err(format!("run.yaml:{place}: {types}")));
    }
    damage(&folder, 2, false);
    assert_eq!(folder.load(teacher(), &[]), Ok(()), "its head is trained");
    assert_eq!(
        folder.load(student(), &[]).unwrap_err(),
        "run.yaml:27:36: model.objective.autoregressive.soft_labels.pretrained: german has no head \
         that predicts words, must be the export of a run with the mlm objective and `conditional: \
         true`"
    );
}

const STUDENTS: &[Case] = &[
    (
        &[("{bert: german}", "{learn: {size: 100, lowercase: true}}")],
        &[
            "16:7: model.encoder.transformer.vocabulary: the BERT of soft_labels reads and labels its own ids, must be {bert: ...}: that BERT or another one with its vocabulary",
        ],
    ),
    (
        &[("{bert: english}", "{file: {path: english/vocab.txt, lowercase: true}}")],
        &[
            "25:7: model.decoder.transformer.vocabulary: the BERT of soft_labels reads and labels its own ids, must be {bert: ...}: that BERT or another one with its vocabulary",
        ],
    ),
    (
        &[("pretrained: german", "pretrained: ./nowhere")],
        &[
            "27:36: model.objective.autoregressive.soft_labels.pretrained: there is no folder nowhere, must be a Hugging Face folder (beside this file, or an absolute path) or a model's name on the hub",
        ],
    ),
    (
        &[("pretrained: german", "top: 0, weight: 2, temperature: 0, passes: 0")],
        &[
            "27:41: model.objective.autoregressive.soft_labels.top: found 0, must be a whole number from 1 to 128",
            "27:52: model.objective.autoregressive.soft_labels.weight: found 2, must be a number from 0 to 1",
            "27:68: model.objective.autoregressive.soft_labels.temperature: found 0, must be a number of at least 0.01",
            "27:79: model.objective.autoregressive.soft_labels.passes: found 0, must be a whole number from 1 to 512",
        ],
    ),
    (
        &[("pretrained: german", "weight: 0.5")],
        &[
            "27:22: model.objective.autoregressive.soft_labels: found neither `pretrained` nor `teacher`, must have one of pretrained | teacher",
        ],
    ),
    (
        &[("pretrained: german", "pretrained: german, tutor: german")],
        &[
            "27:56: model.objective.autoregressive.soft_labels.tutor: unknown key, allowed: pretrained | teacher | weight | temperature | top | passes",
        ],
    ),
];

const TEACHERS: &[Case] = &[
    (
        &[("max_length: 7", "max_length: 8")],
        &[
            "14:3: data.max_length: found 8, must be at most 7: [CLS] and both sides fit into the encoder's BERT, which has 16 positions",
        ],
    ),
    (
        &[("max_tokens: 400", "max_tokens: 14")],
        &[
            "27:3: training.max_tokens: found 14, must be at least 15: the longest pair by data.max_length or the model's positions",
        ],
    ),
    (
        &[("    tsv: {path: train.tsv, source: 1, target: 2}", "    lines: {path: mono.de}")],
        &[
            "6:3: data.train: lines are one language, and `conditional: true` reads pairs, must be one of {tsv: ...} | {files: ...} | {jsonl: ...}",
        ],
    ),
    (
        &[(
            "      pretrained: german\n      train: all\n",
            "      train: scratch\n      new: {layers: 2, hidden: 8, heads: 2, feed_forward: 16, vocabulary: {learn: {size: 100, lowercase: false}}}\n",
        )],
        &[
            "20:7: model.encoder.bert.new: with `conditional: true` a BERT is trained on, not made, give `pretrained` instead: it may be the export of an mlm run on text of both languages",
        ],
    ),
    (
        &[("conditional: true", "conditional: yes")],
        &[
            "23:20: model.objective.mlm.conditional: found the text `yes`, must be true or false, did you mean `true`?",
        ],
    ),
    (
        &[("  too_long: cut", "  distillation: {teacher: valid.de}")],
        &["15:3: data.distillation: the mlm objective does not translate, leave distillation out"],
    ),
];
