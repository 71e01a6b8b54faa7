//! Every composition of encoder, decoder and objective, from YAML to BLEU at tiny size: trained on
//! two workers, taken up from a checkpoint, decoded, scored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use tandem_tests::{Tiny, adapters, assert_reported_scores, expect_code, program, translate};

const TRANSFORMER: &str = "{ transformer: { layers: 2, hidden: 32, heads: 2, feed_forward: 64, \
                           max_length: 32, vocabulary: VOCABULARY } }";
const LEARNT: &str = "{ learn: { size: 110, lowercase: false } }";
const BERT_ENCODER: &str = "{ bert: { pretrained: ./bert-de/export, adapters: { dim: 16 } } }";
const BERT_DECODER: &str =
    "{ bert: { pretrained: ./bert-en/export, cross_attention: { heads: 2 } } }";
const MASKED: &str = "{ masked: { length_classes: 40 } }";
const CORRECTED: &str = "{ masked: { length_classes: 40, correction: { share: 0.5 } } }";
const CTC: &str = "{ ctc: { upsampling: 2, glancing: { start: 0.5, end: 0.5 } } }";
const AUTOREGRESSIVE: &str = "{ autoregressive: {} }";

/// Trains in one go, and in two halves, which must give the same bits; then looks at the scores.
fn from_yaml_to_bleu(tiny: &Tiny, name: &str, encoder: &str, decoder: &str, objective: &str) {
    let config = |name: &str| tiny.translation(name, 2, encoder, decoder, objective);
    let launch = |name: &str, set: &str| {
        let mut command = program("tandem");
        command.arg("launch").arg(config(name)).arg("--set").arg(set);
        expect_code(&mut command, 0);
    };
    launch(name, "training.steps=12");
    let resumed = format!("{name}-resumed");
    launch(&resumed, "training.steps=6");
    launch(&resumed, "training.steps=12");
    let whole = adapters(&tiny.path(name), 12);
    assert!(whole == adapters(&tiny.path(&resumed), 12), "{name}: resuming gave other weights");

    assert_reported_scores(&tiny.path(name), 12);
}

fn frozen(language: &str) -> String {
    format!("{{ bert: {{ pretrained: ./bert-{language}/export, train: frozen }} }}")
}

fn transformer(vocabulary: &str) -> String {
    TRANSFORMER.replace("VOCABULARY", vocabulary)
}

#[test]
fn transformers_with_vocabularies_of_their_own() {
    let tiny = Tiny::texts();
    let learnt = transformer(LEARNT);
    from_yaml_to_bleu(&tiny, "autoregressive", &learnt, &learnt, AUTOREGRESSIVE);
    from_yaml_to_bleu(&tiny, "mask-predict", &learnt, &learnt, MASKED);
    let longer = learnt.replace("max_length: 32", "max_length: 48");
    from_yaml_to_bleu(&tiny, "transformer-ctc", &learnt, &longer, CTC);
    let translations = translate(&tiny.path("autoregressive"), "eins zwei .\n\nneun .\n");
    assert_eq!((translations.len(), translations[1].as_str()), (3, ""));
    for side in ["source", "target"] {
        assert_eq!(vocabulary(&tiny, side).lines().count(), 110, "{side}");
    }

    // Weights belong to the vocabulary that they were trained with.
    let mut entries: Vec<String> = vocabulary(&tiny, "target").lines().map(str::to_owned).collect();
    entries.swap(108, 109);
    tiny.write("autoregressive/vocabulary/target/vocab.txt", &(entries.join("\n") + "\n"));
    let config = tiny.path("autoregressive.yaml");
    let mut launch = program("tandem");
    launch.arg("launch").arg(&config).args(["--set", "training.steps=15"]);
    expect_code(&mut launch, 2).assert_said("was trained on another target vocabulary (SHA-256");

    // A run that starts over learns its vocabulary anew.
    let size = "model.decoder.transformer.vocabulary.learn.size=105";
    let mut launch = program("tandem");
    launch.arg("launch").arg(&config).args(["--restart", "--set", size]);
    expect_code(&mut launch, 0);
    assert_eq!(vocabulary(&tiny, "target").lines().count(), 105);
}

/// The vocabulary that the run `autoregressive` has learnt.
fn vocabulary(tiny: &Tiny, side: &str) -> String {
    let path = tiny.path("autoregressive/vocabulary").join(side).join("vocab.txt");
    std::fs::read_to_string(path).expect("a vocabulary")
}

#[test]
fn transformers_fused_with_a_bert() {
    let tiny = Tiny::new();
    let with = |shape: String| {
        shape.replace("max_length", "bert_fused: { pretrained: ./bert-de/export }, max_length")
    };
    let german = transformer("{ bert: ./bert-de/export }");
    let english = transformer("{ bert: ./bert-en/export }");
    let (fused_german, fused_english) = (with(german.clone()), with(english.clone()));
    from_yaml_to_bleu(&tiny, "fused-masked", &fused_german, &fused_english, MASKED);
    // Warm start: what the plain Transformer has trained is where the fused one begins.
    let config = tiny.translation("plain", 2, &german, &english, AUTOREGRESSIVE);
    expect_code(program("tandem").arg("launch").arg(config), 0);
    let objective = "{ autoregressive: {} }\n  init: ./plain";
    from_yaml_to_bleu(&tiny, "fused-autoregressive", &fused_german, &fused_english, objective);
    let objective = "{ masked: { length_classes: 40 } }\n  init: ./fused-masked";
    let config = tiny.translation("misfit", 2, &german, &english, objective);
    let said = expect_code(program("tandem").arg("launch").arg(config), 2).stderr;
    assert!(said.contains("this model has no trained `") && said.contains("model.init"), "{said}");
}

#[test]
fn berts_and_transformers_together() {
    let tiny = Tiny::new();
    let german = transformer("{ bert: ./bert-de/export }");
    let english = transformer("{ bert: ./bert-en/export }");
    from_yaml_to_bleu(&tiny, "enc-masked", BERT_ENCODER, &english, MASKED);
    from_yaml_to_bleu(&tiny, "corrected", BERT_ENCODER, BERT_DECODER, CORRECTED);
    from_yaml_to_bleu(&tiny, "enc-autoregressive", BERT_ENCODER, &english, AUTOREGRESSIVE);
    from_yaml_to_bleu(&tiny, "causal-bert", BERT_ENCODER, BERT_DECODER, AUTOREGRESSIVE);
    // The BERT has 32 positions, and sentences have up to 24 tokens.
    let one = CTC.replace("upsampling: 2", "upsampling: 1");
    from_yaml_to_bleu(&tiny, "ctc", BERT_ENCODER, BERT_DECODER, &one);
    // With too many targets that do not fit into their positions, nothing would be learnt.
    let misfit = "eins .\tone two three four five six seven .\n";
    tiny.write("misfits.tsv", &misfit.repeat(9));
    let mut launch = program("tandem");
    launch.arg("launch").arg(tiny.translation("misfits", 2, BERT_ENCODER, BERT_DECODER, &one));
    launch.args(["--set", "data.train.tsv.path=misfits.tsv", "--set", "data.max_ratio=99"]);
    expect_code(&mut launch, 2).assert_said("9 of 9 training pairs have more target tokens than");
    let longer = english.replace("max_length: 32", "max_length: 48");
    from_yaml_to_bleu(&tiny, "enc-ctc", BERT_ENCODER, &longer, CTC);
    from_yaml_to_bleu(&tiny, "bert-decoder", &german, BERT_DECODER, MASKED);
    let (encoder, decoder) = (frozen("de"), frozen("en"));
    from_yaml_to_bleu(&tiny, "no-adapters", &encoder, &decoder, MASKED);
}

#[test]
fn a_transformer_trained_together_with_a_bert() {
    let tiny = Tiny::new();
    let bert = "{ pretrained: ./bert-de/export, distillation: 0.1, rate: { peak: 4, end: 9 } }";
    let german = transformer("{ bert: ./bert-de/export }");
    let german = german.replace("max_length", &format!("ct_nmt: {bert}, max_length"));
    let english = transformer("{ bert: ./bert-en/export }");
    from_yaml_to_bleu(&tiny, "ct-nmt", &german, &english, AUTOREGRESSIVE);
    // The BERT is tuned until step 9, and the rest to the end.
    let run = tiny.path("ct-nmt");
    let changes = |from: u64, to: u64| {
        [true, false].map(|of_bert| weights(&run, from, of_bert) != weights(&run, to, of_bert))
    };
    assert_eq!(changes(3, 6), [true, true]);
    assert_eq!(changes(6, 9), [true, true]);
    assert_eq!(changes(9, 12), [false, true]);
}

/// A run's trained weights at a step, by name: those of the BERT beside its model, or the others.
fn weights(run: &Path, step: u64, of_bert: bool) -> BTreeMap<String, Vec<u8>> {
    let bytes = adapters(run, step);
    let file = SafeTensors::deserialize(&bytes).expect("weights");
    let tensors = file.iter().filter(|(name, _)| name.contains("fused.bert.") == of_bert);
    let found: BTreeMap<_, _> =
        tensors.map(|(name, tensor)| (name.to_owned(), tensor.data().to_owned())).collect();
    assert!(!found.is_empty());
    found
}

#[test]
fn a_gpt2_behind_a_bert() {
    let tiny = Tiny::new();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/gpt2/folder");
    let decoder =
        format!("{{ gpt2: {{ pretrained: {folder}, cross_attention: {{ heads: 2 }} }} }}");
    from_yaml_to_bleu(&tiny, "gpt2", BERT_ENCODER, &decoder, AUTOREGRESSIVE);
    let translations = translate(&tiny.path("gpt2"), "eins zwei .\n\nneun .\n");
    assert_eq!((translations.len(), translations[1].as_str()), (3, ""));
}

#[test]
fn a_roberta_behind_an_xlm_r() {
    let tiny = Tiny::texts();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/roberta");
    let encoder = format!("{{ bert: {{ pretrained: {golden}/source, adapters: {{ dim: 4 }} }} }}");
    let decoder = |from: &str| {
        format!("{{ bert: {{ pretrained: {from}, cross_attention: {{ heads: 2 }} }} }}")
    };
    from_yaml_to_bleu(&tiny, "roberta", &encoder, &decoder(&format!("{golden}/target")), MASKED);
    let translations = translate(&tiny.path("roberta"), "eins zwei .\n\nneun .\n");
    assert_eq!((translations.len(), translations[1].as_str()), (3, ""));

    // Trained on, it is still a RoBERTa, which can write.
    let config = format!(
        "run: {{ name: on, folder: {} }}
data: {{ train: {{ lines: {{ path: mono.en }} }}, max_length: 24, too_long: cut }}
model: {{ encoder: {{ bert: {{ pretrained: {golden}/target, train: all }} }}, objective: {{ mlm: {{}} }} }}
training: {{ steps: 2, max_tokens: 400, micro_batches: 1, schedule: {{ constant: {{ rate: 0.01 }} }} }}
evaluation: {{ every: 0 }}
cluster: {{ engine: solo, workers: 1, threads: 1, device: cpu }}
",
        tiny.path("").display()
    );
    let config = tiny.write("on.yaml", &config);
    expect_code(program("tandem").arg("launch").arg(config), 0);
    let names = |folder: &Path| {
        let bytes = std::fs::read(folder.join("model.safetensors")).expect("weights");
        let file = SafeTensors::deserialize(&bytes).expect("weights");
        file.names().into_iter().map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    let export = tiny.path("on/export");
    assert_eq!(names(&export), names(&Path::new(golden).join("target")));
    let shape = std::fs::read_to_string(export.join("config.json")).expect("a config");
    assert!(shape.contains("\"model_type\": \"roberta\""), "{shape}");
    let decoder = decoder("./on/export");
    let config = tiny.translation("behind", 1, &encoder, &decoder, AUTOREGRESSIVE);
    expect_code(program("tandem").arg("launch").arg(config), 0);
}

#[test]
fn a_transformer_that_learns_from_a_berts_soft_labels() {
    let tiny = Tiny::texts();
    let mono =
        |side: &str| std::fs::read_to_string(tiny.path("mono").with_extension(side)).unwrap();
    tiny.write("mono.both", &(mono("de") + &mono("en")));
    tiny.pre_train("both", 64);
    tiny.pre_train("en", 32);

    // The teacher, in one go and in two halves.
    let run_file = |name: &str, steps: u64| {
        let config = format!(
            "run: {{ name: {name}, folder: {runs} }}
data:
  train: {{ tsv: {{ path: train.tsv, source: 1, target: 2 }} }}
  valid: {{ tsv: {{ path: valid.tsv, source: 1, target: 2 }} }}
  max_length: 24
model:
  encoder: {{ bert: {{ pretrained: ./bert-both/export, train: all }} }}
  objective: {{ mlm: {{ conditional: true, corruption: {{ mask: 1.0, random: 0.0 }} }} }}
training: {{ steps: {steps}, max_tokens: 400, micro_batches: 2, \
             schedule: {{ constant: {{ rate: 0.002 }} }} }}
evaluation: {{ every: 6, metric: loss }}
checkpoints: {{ every: 3, keep_last: 10 }}
cluster: {{ workers: 2, threads: 1, device: cpu }}
",
            runs = tiny.path("").display()
        );
        tiny.write(&format!("{name}.yaml"), &config)
    };
    let teacher = |name: &str, steps: u64| {
        expect_code(program("tandem").arg("launch").arg(run_file(name, steps)), 0);
    };
    teacher("teacher", 12);
    teacher("teacher-resumed", 6);
    teacher("teacher-resumed", 12);
    let exported = |name: &str| std::fs::read(tiny.path(name).join("export/model.safetensors"));
    assert!(exported("teacher").unwrap() == exported("teacher-resumed").unwrap());

    let side = transformer("{ bert: ./bert-both/export }");
    let objective = "{ autoregressive: { soft_labels: { pretrained: ./teacher/export } } }";
    from_yaml_to_bleu(&tiny, "student", &side, &side, objective);
    let events = std::fs::read_to_string(tiny.path("student/events.jsonl")).expect("events");
    assert_eq!(events.matches("\"labelled\"").count(), 24, "380 pairs in chunks of 16: {events}");
    let events = std::fs::read_to_string(tiny.path("student-resumed/events.jsonl")).unwrap();
    assert_eq!(events.matches("\"labelled\"").count(), 0, "labels are made once: {events}");

    // A teacher that is not there yet is trained by the student's launch, once, and makes the same.
    run_file("late-teacher", 12);
    let late = objective.replace("pretrained: ./teacher/export", "teacher: late-teacher.yaml");
    let late = tiny.translation("late", 2, &side, &side, &late);
    let launch = |steps: &str, words: &str, are_said: bool| {
        let mut command = program("tandem");
        command.arg("launch").arg(&late).args(["--set", steps, "--set", "data.cache=cache-late"]);
        let said = expect_code(&mut command, 0).stderr;
        assert_eq!(said.contains(words), are_said, "{said}");
    };
    launch("training.steps=6", "soft_labels.teacher: training ", true);
    launch("training.steps=12", "soft_labels.teacher: training ", false);
    assert!(exported("late-teacher").unwrap() == exported("teacher").unwrap());
    assert!(labels(&tiny.path("cache-late")) == labels(&tiny.path("cache")), "other labels");
    assert!(adapters(&tiny.path("student"), 12) == adapters(&tiny.path("late"), 12));

    let other = "teacher: late-teacher.yaml, pretrained: ./teacher/export";
    let other = objective.replace("pretrained: ./teacher/export", other);
    let config = tiny.translation("other", 1, &side, &side, &other);
    expect_code(program("tandem").arg("launch").arg(config), 2)
        .assert_said("late-teacher/export, but `pretrained` is ");

    // One worker alone makes the same labels, and another weight learns something else from them.
    let alone = tiny.translation("alone", 1, &side, &side, objective);
    let mut launch = program("tandem");
    launch.arg("launch").arg(alone).args(["--set", "data.cache=cache-alone"]);
    launch.args(["--set", "model.objective.autoregressive.soft_labels.weight=0.2"]);
    expect_code(&mut launch, 0);
    assert!(labels(&tiny.path("cache")) == labels(&tiny.path("cache-alone")), "other labels");
    assert!(adapters(&tiny.path("student"), 12) != adapters(&tiny.path("alone"), 12));

    let english = transformer("{ bert: ./bert-en/export }");
    let config = tiny.translation("misfit", 1, &side, &english, objective);
    expect_code(program("tandem").arg("launch").arg(config), 2)
        .assert_said("the decoder has another vocabulary than the teacher");
}

/// The bytes of the soft labels in a cache folder, by the names of their files.
fn labels(cache: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = |folder: &Path| {
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path())
    };
    let mut folders = entries(cache).filter(|path| path.extension() == Some("labels".as_ref()));
    let folder = folders.next().expect("labels");
    assert!(folders.next().is_none(), "{}", cache.display());
    let name = |path: &Path| path.strip_prefix(cache).expect("below").to_owned();
    let found: BTreeMap<_, _> =
        entries(&folder).map(|path| (name(&path), std::fs::read(&path).expect("labels"))).collect();
    assert_eq!(found.len(), 24);
    found
}

/// Mask-Predict with a threshold and with pruned lengths: fewer passes over fewer rows, as reported.
#[test]
fn mask_predict_in_fewer_passes() {
    let tiny = Tiny::texts();
    let learnt = transformer(LEARNT);
    let config = tiny.translation("fewer", 1, &learnt, &learnt, MASKED);
    let settings = |sets: &[&str]| {
        let keys = sets.iter().map(|set| format!("decoding.mask_predict.{set}"));
        keys.flat_map(|key| ["--set".to_owned(), key]).collect::<Vec<_>>()
    };
    let always = ["stop=released", "iterations=10", "length_candidates=4"];
    let mut launch = program("tandem");
    launch.arg("launch").arg(config).args(settings(&always)).args(["--set", "training.steps=60"]);
    expect_code(&mut launch, 0);
    let run = tiny.path("fewer");
    let report = std::fs::read_to_string(run.join("report.md")).expect("a report");
    assert!(report.contains("- Decoder passes per sentence: 11.0 on average, over "), "{report}");

    let figures = |sets: &[&str]| {
        let mut evaluate = program("tandem");
        evaluate.arg("evaluate").arg(&run).arg("--json").args(settings(sets));
        let output = expect_code(&mut evaluate, 0);
        let said: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
        ["passes", "decoder_rows"].map(|figure| said["figures"][figure].as_f64().expect(figure))
    };
    let [passes, rows] = figures(&[]);
    assert!(passes == 11.0 && rows > 2.0 * 11.0, "{passes} passes over {rows} rows");
    let [pruned_passes, pruned_rows] = figures(&["prune_after=1"]);
    assert_eq!(pruned_passes, 11.0);
    assert!((pruned_rows - (rows / 11.0 + 10.0)).abs() < 1e-9, "{pruned_rows} after {rows} rows");
    let [passes, _] = figures(&["threshold=0.3"]);
    assert!(passes < 11.0, "{passes} passes");
    let [passes, rows] = figures(&["threshold=0.3", "prune_after=1"]);
    assert!(passes < 11.0 && rows < pruned_rows, "{passes} passes over {rows} rows");

    let mut evaluate = program("tandem");
    evaluate.arg("evaluate").arg(&run).args(settings(&["prune_after=12"]));
    let output = expect_code(&mut evaluate, 2);
    let said = output.stderr;
    assert!(said.contains("prune_after: found 12, but there are at most 11 passes"), "{said}");
}
