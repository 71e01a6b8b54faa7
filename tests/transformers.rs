//! Models as folders for transformers: what `tandem translate` writes, Python writes, for every composition.

use std::path::{Path, PathBuf};
use std::process::Command;

use safetensors::{Dtype, SafeTensors};
use tandem_tests::{Tiny, expect_code, program};

const TRANSFORMER: &str = "{ transformer: { layers: 2, hidden: 32, heads: 2, feed_forward: 64, \
                           max_length: 32, MORE vocabulary: VOCABULARY } }";
const MASKED: &str = "{ masked: { length_classes: 40 } }";
const CTC: &str = "{ ctc: { glancing: {} } }";
const AUTOREGRESSIVE: &str = "{ autoregressive: {} }";
const RELEASED: [&str; 4] = [
    "decoding.mask_predict.stop=released",
    "decoding.mask_predict.iterations=4",
    "decoding.mask_predict.length_candidates=6",
    "decoding.mask_predict.score=average",
];
const FEWER_PASSES: [&str; 3] = [
    "decoding.mask_predict.threshold=0.3",
    "decoding.mask_predict.prune_after=2",
    "decoding.mask_predict.length_candidates=6",
];
const CTC_SEARCH: [&str; 2] = ["decoding.ctc.width=6", "decoding.ctc.token_bonus=0.3"];
const CTC_LANGUAGE_MODEL: [&str; 3] = [
    "decoding.ctc.width=6",
    "decoding.ctc.token_bonus=1",
    "decoding.ctc.language_model={order: 4, weight: 0.8}",
];
const GNMT: [&str; 3] = [
    "decoding.beam_search.score=gnmt",
    "decoding.beam_search.length_penalty=0.6",
    "decoding.beam_search.width=3",
];

fn transformer(vocabulary: &str, more: &str) -> String {
    TRANSFORMER.replace("VOCABULARY", vocabulary).replace("MORE", more)
}

/// Runs `tandem` with these words.
fn tandem(words: &[&str], overrides: &[&str], code: i32) -> String {
    let mut command = program("tandem");
    command.args(words);
    for text in overrides {
        command.args(["--set", text]);
    }
    expect_code(&mut command, code).stderr
}

/// Sentences like those of the training, and others: empty ones, a long one, words that no vocabulary has.
fn sources(tiny: &Tiny) -> String {
    let pairs = std::fs::read_to_string(tiny.path("train.tsv")).expect("pairs");
    let known = pairs.lines().step_by(23).filter_map(|pair| pair.split('\t').next());
    let mut lines: Vec<String> = known.map(str::to_owned).collect();
    lines.extend(
        ["", "   ", "neun", "  Eins,zwei ?! ", "Öl [MASK] <s> 3,5 \u{4e2d}"].map(str::to_owned),
    );
    lines.push("sechs sieben ".repeat(20));
    lines.join("\n") + "\n"
}

/// Trains a model.
fn train(tiny: &Tiny, name: &str, encoder: &str, decoder: &str, objective: &str) {
    let config = tiny.translation(name, 1, encoder, decoder, objective);
    let quickly = ["training.steps=150", "evaluation.every=0", "checkpoints.every=50"];
    tandem(&["launch", &config.to_string_lossy()], &quickly, 0);
}

/// Writes the folder `as_name`, with what `tandem translate` makes of the sources beside it.
fn export(tiny: &Tiny, run: &str, as_name: &str, decoding: &[&str]) -> PathBuf {
    let (run, folder) = (tiny.path(run), tiny.path(&format!("{as_name}-python")));
    let (run, path) = (run.to_string_lossy(), folder.to_string_lossy());
    let (from, to) = (format!("{path}.source"), format!("{path}.translated"));
    std::fs::write(&from, sources(tiny)).expect("a file");
    tandem(&["translate", &run, "--input", &from, "--output", &to], decoding, 0);
    tandem(&["export", &run, "--format", "transformers", "--output", &path], decoding, 0);
    folder
}

/// Has Python load and use all folders.
fn check(folders: &[PathBuf]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("../.deps/bench-venv/bin/python");
    assert!(python.is_file(), "{} is missing: run `make test-transformers`", python.display());
    let cache = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(python);
    command.arg(root.join("python/check_transformers.py")).arg(root.join("golden")).args(folders);
    command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", cache.path());
    println!("{}", expect_code(&mut command, 0).stdout);
}

#[test]
#[ignore = "needs PyTorch and transformers for Python: make test-transformers"]
fn python_translates_as_tandem_does() {
    let tiny = &Tiny::new();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/golden");
    let german = transformer("{ bert: ./bert-de/export }", "");
    let english = transformer("{ bert: ./bert-en/export }", "");
    let adapted = "{ bert: { pretrained: ./bert-de/export, adapters: { dim: 16 } } }";
    let written = "{ bert: { pretrained: ./bert-en/export, cross_attention: { heads: 2 } } }";
    let mut folders = Vec::new();
    let mut made = |name: &str, encoder: &str, decoder: &str, objective: &str| {
        train(tiny, name, encoder, decoder, objective);
        folders.push(export(tiny, name, name, &[]));
    };
    made("ab-net", adapted, written, MASKED);

    // AB-Net as a whole (FB) with the released code's adapters, not behind every layer; of its encoder's
    // tokenizer there is the vocabulary alone.
    std::fs::create_dir(tiny.path("bare")).expect("a folder");
    for file in ["config.json", "model.safetensors", "vocab.txt"] {
        let from = tiny.path("bert-de/export").join(file);
        std::fs::copy(from, tiny.path("bare").join(file)).expect("a copy");
    }
    let encoder = "{ bert: { pretrained: ./bare, train: all, \
                   adapters: { dim: 8, layers: { top: 1 } } } }";
    let decoder = "{ bert: { pretrained: ./bert-en/export, train: all, \
                   cross_attention: { heads: 4, feed_forward: 24, layers: { list: [0] } } } }";
    made("whole", encoder, decoder, MASKED);
    let encoder = "{ bert: { pretrained: ./bert-de/export, train: scratch } }";
    made("scratch", encoder, written, MASKED);

    made("ctc", adapted, written, &CTC.replace("ctc: {", "ctc: { upsampling: 1,"));
    made("transformer-ctc", &german, &english.replace("max_length: 32", "max_length: 48"), CTC);
    made("mask-predict", &german, &english, MASKED);
    let learnt = "{ learn: { size: 110, lowercase: true } }";
    made("learnt", &transformer(learnt, "positions: learned,"), &transformer(learnt, ""), MASKED);
    made("enc-masked", adapted, &english, MASKED);
    made("enc-autoregressive", adapted, &english, AUTOREGRESSIVE);
    made("transformer", &german, &english, AUTOREGRESSIVE);
    made("causal-bert", adapted, written, AUTOREGRESSIVE);
    made("bert-decoder", &german, written, MASKED);
    let decoder = format!(
        "{{ gpt2: {{ pretrained: {golden}/gpt2/folder, cross_attention: {{ heads: 2 }} }} }}"
    );
    made("gpt2", adapted, &decoder, AUTOREGRESSIVE);

    let encoder = format!(
        "{{ bert: {{ pretrained: {golden}/roberta/source, train: all, adapters: {{ dim: 4 }} }} }}"
    );
    let decoder = format!(
        "{{ bert: {{ pretrained: {golden}/roberta/target, train: all, cross_attention: {{ heads: 2 }} }} }}"
    );
    made("roberta", &encoder, &decoder, MASKED);
    made("causal-roberta", &encoder, &decoder, AUTOREGRESSIVE);

    let fused = "bert_fused: { pretrained: ./bert-de/export },";
    let both =
        ["de", "en"].map(|side| transformer(&format!("{{ bert: ./bert-{side}/export }}"), fused));
    made("fused-masked", &both[0], &both[1], MASKED);
    made("fused-autoregressive", &both[0], &both[1], AUTOREGRESSIVE);
    let bert = "ct_nmt: { pretrained: ./bert-de/export, rate: { peak: 40, end: 90 } },";
    let encoder = transformer("{ bert: ./bert-de/export }", bert);
    made("ct-nmt", &encoder, &english, AUTOREGRESSIVE);
    let encoder = encoder.replace("rate:", "dynamic_switch: false, distillation: 0.1, rate:");
    made("ct-nmt-without-switch", &encoder, &english, AUTOREGRESSIVE);

    // Other ways to decode go along with the model, and a model that was exported before is one, too.
    folders.push(export(tiny, "ab-net", "released", &RELEASED));
    folders.push(export(tiny, "ab-net", "fewer-passes", &FEWER_PASSES));
    folders.push(export(tiny, "ctc", "ctc-search", &CTC_SEARCH));
    folders.push(export(tiny, "ctc", "ctc-language-model", &CTC_LANGUAGE_MODEL));
    folders.push(export(tiny, "transformer", "gnmt", &GNMT));
    folders.push(export(tiny, "ab-net/export", "again", &[]));
    check(&folders);
}

#[test]
fn a_folder_for_transformers_has_all_weights_and_says_what_it_is() {
    let tiny = Tiny::shared();
    let config = tiny.ab_net("card", 1, 0.1);
    tandem(&["launch", &config.to_string_lossy()], &[], 0);
    let run = tiny.path("card");
    let name = run.to_string_lossy();
    tandem(&["export", &name, "--format", "transformers"], &[], 0);
    let folder = run.join("export/transformers");
    let read =
        |file: &str| std::fs::read(folder.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    let text = |file: &str| String::from_utf8(read(file)).expect("UTF-8");

    let bytes = read("model.safetensors");
    let weights = SafeTensors::deserialize(&bytes).expect("weights");
    assert!(weights.iter().all(|(_, tensor)| tensor.dtype() == Dtype::F32));
    // Trained ones come from the run, frozen ones from the BERT.
    for (name, file, stored) in [
        ("encoder.layer.1.adapter.up.weight", run.join("export/adapters.safetensors"), None),
        (
            "decoder.bert.embeddings.LayerNorm.bias",
            tiny.path("bert-en/export/model.safetensors"),
            Some("bert.embeddings.LayerNorm.bias"),
        ),
    ] {
        let source = std::fs::read(&file).expect("weights");
        let source = SafeTensors::deserialize(&source).expect("weights");
        let expected = source.tensor(stored.unwrap_or(name)).expect(name);
        assert_eq!(weights.tensor(name).expect(name).data(), expected.data(), "{name}");
    }

    let config: serde_json::Value = serde_json::from_str(&text("config.json")).expect("JSON");
    assert_eq!(config["auto_map"]["AutoModel"], "modeling_tandem.TandemModel");
    assert_eq!(config["length_classes"], 40);
    assert_eq!(config["source"]["adapters"]["layers"], serde_json::json!([0, 1]));
    assert_eq!(config["max_source_length"], 24);
    let card = text("README.md");
    for said in
        ["BLEU", "bert-de/export", "SHA-256", "train.tsv", "--format transformers", "licence"]
    {
        assert!(card.contains(said), "{said}: {card}");
    }
    assert!(
        !card.contains(&*tiny.path("").to_string_lossy()),
        "where things lie is nobody's business"
    );

    // It is no model of Tandem's own, and takes no such model's place.
    let said = tandem(&["export", &name, "--format", "transformers", "--output", &name], &[], 2);
    assert!(said.contains("is the folder of a run"), "{said}");
    let own = run.join("export");
    let said = tandem(
        &["export", &name, "--format", "transformers", "--output", &own.to_string_lossy()],
        &[],
        2,
    );
    assert!(said.contains("has a config.yaml"), "{said}");

    // A BERT that lies elsewhere must be the one of the training.
    let other = tiny.path("bert-de/export");
    let other = format!("model.decoder.bert.pretrained={}", other.display());
    let said = tandem(&["export", &name, "--format", "transformers"], &[&other], 2);
    assert!(said.contains("was trained on another decoder BERT"), "{said}");
    let said = tandem(&["export", &name], &[&other], 2);
    assert!(said.contains("--set is for --format transformers alone"), "{said}");
    let oracle = "decoding.mask_predict.lengths=oracle";
    let said = tandem(&["export", &name, "--format", "transformers"], &[oracle], 2);
    assert!(said.contains("must be predicted"), "{said}");

    let bert = tiny.path("bert-de");
    let said = tandem(&["export", &bert.to_string_lossy(), "--format", "transformers"], &[], 2);
    assert!(said.contains("a run with the mlm objective exports its BERT to"), "{said}");
}
