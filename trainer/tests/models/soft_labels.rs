//! Both stages of BERT-Distilled, from text to gradients, against transformers and PyTorch's own
//! layers; tests/golden/bert_distilled/make.py made the golden.

use std::sync::Arc;

use serde_json::json;
use tandem_config::parameters;
use tandem_config::pretrained::bert::{Bert, BertConfig};
use tandem_config::schema::data::{BadLines, Data, Text, TooLong};
use tandem_config::schema::model::{Corruption, Mlm as MlmConfig, Train};
use tandem_trainer::data::corpus::Corpus;
use tandem_trainer::data::corrupt::Replacements;
use tandem_trainer::data::example::{
    Draw, MlmBatch, MlmExamples, Padded, PairExamples, Prediction, join,
};
use tandem_trainer::data::soft_labels::{SoftLabels, Store};
use tandem_trainer::data::split::{Side, Sides, Split};
use tandem_trainer::data::tokenizer::Tokenizer;
use tandem_trainer::model::{Parameters, Pass};
use tandem_trainer::objective::Translation;
use tandem_trainer::objective::mlm::Mlm;
use tandem_trainer::training::teacher::Teacher;
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;

use crate::golden::{Golden, close};
use crate::support::{parts, transformer};

const WORDS: usize = 23;
const CLS: u32 = 2;
const TOP: usize = 4;
/// The first pair needs 13.
const POSITIONS: usize = 12;

/// The teacher's shape, and all of its weights, which are trained.
fn teacher(golden: &Golden) -> (BertConfig, Parameters) {
    let config: BertConfig = serde_json::from_value(json!({
        "vocab_size": WORDS, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 12, "max_position_embeddings": POSITIONS,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }))
    .expect("a config");
    let list = parameters::mlm(&Bert::new(config.clone()), Train::Scratch);
    let parameters = Parameters::new(&list, &[], 1, Kind::Float, Device::Cpu).expect("parameters");
    golden.load(&parameters, "teacher.weight.");
    (config, parameters)
}

fn model(config: &BertConfig, parameters: &Parameters) -> Mlm {
    Mlm::new(parameters, config, None, Kind::Float)
}

/// A side's ids, each row without its padding.
fn ids(golden: &Golden, side: &str) -> Vec<Vec<u32>> {
    let rows = Vec::<Vec<i64>>::try_from(golden.get(side)).expect("rows");
    let real = |row: Vec<i64>| row.into_iter().filter(|&id| id > 0).map(|id| id as u32).collect();
    rows.into_iter().map(real).collect()
}

/// The golden's pairs as a corpus: entry n of the vocabulary is spelt `wn`.
fn corpus(golden: &Golden, folder: &TempDir) -> (Tokenizer, Arc<Corpus>) {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
    let words = (special.len()..WORDS).map(|id| format!("w{id}"));
    let entries: Vec<String> = special.iter().cloned().chain(words).collect();
    let vocabulary = folder.path().join("vocab.txt");
    std::fs::write(&vocabulary, entries.join("\n") + "\n").expect("a vocabulary");
    let tokenizer = Tokenizer::open(&vocabulary).expect("a vocabulary");

    let text = |ids: &[u32]| {
        let words: Vec<&str> =
            ids[..ids.len() - 1].iter().map(|&id| entries[id as usize].as_str()).collect();
        words.join(" ")
    };
    let (sources, targets) = (ids(golden, "source"), ids(golden, "target"));
    let lines = sources.iter().zip(&targets).map(|(s, t)| format!("{}\t{}\n", text(s), text(t)));
    let path = folder.path().join("pairs.tsv");
    std::fs::write(&path, lines.collect::<String>()).expect("pairs");
    let data = Data {
        train: Text::Tsv { path, source: 1, target: 2 },
        valid: None,
        test: None,
        distillation: None,
        back_translation: None,
        max_length: None,
        too_long: TooLong::Refuse,
        max_ratio: 9.0,
        bad_lines: BadLines::Refuse,
        max_bad: 0.05,
        allow_changed: false,
        cache: None,
    };
    let side = Side { tokenizer: &tokenizer, max_length: 32 };
    let sides = Sides::Pair { source: side, target: side };
    let texts = std::slice::from_ref(&data.train);
    let cache = folder.path().join("cache");
    let corpus = Corpus::open(&data, texts, Split::Train, sides, &cache, 1).expect("a corpus");
    for (sample, (source, target)) in sources.iter().zip(&targets).enumerate() {
        let found = (corpus.source(sample).expect("ids"), corpus.target(sample).expect("ids"));
        assert_eq!(found, (&**source, &**target));
    }
    (tokenizer, Arc::new(corpus))
}

#[test]
fn a_berts_conditional_loss_and_gradients_are_those_of_transformers() {
    let golden = Golden::open("bert_distilled");
    let (config, parameters) = teacher(&golden);
    let chosen = Vec::<Vec<i64>>::try_from(golden.get("teacher.chosen")).expect("rows");
    let (sources, targets) = (ids(&golden, "source"), ids(&golden, "target"));
    let (mut rows, mut second, mut masked) = (Vec::new(), Vec::new(), Vec::new());
    let mut labels = Vec::new();
    for ((source, target), chosen) in sources.iter().zip(&targets).zip(chosen).skip(1) {
        let (mut row, start) = join(source, target, CLS);
        let places: Vec<usize> = (0..target.len()).filter(|&place| chosen[place] == 1).collect();
        for &place in &places {
            labels.push(i64::from(target[place]));
            row[start + place] = 4;
        }
        rows.push(row);
        second.push(start as i64);
        masked.push(places.into_iter().map(|place| start + place).collect::<Vec<_>>());
    }
    let input = Padded::new(&rows, 0);
    let flat = |(row, places): (usize, &Vec<usize>)| {
        places.iter().map(|place| (row * input.columns + place) as i64).collect::<Vec<_>>()
    };
    let loss_positions = masked.iter().enumerate().flat_map(flat).collect();
    let samples = vec![1, 2, 3];
    let batch = MlmBatch { input, second: Some(second), loss_positions, labels, samples };
    let loss = model(&config, &parameters).loss(&batch, Device::Cpu, &Pass::eval());
    close("loss", &Tensor::from(loss.sums().loss as f32), golden.get("teacher.loss"));
    loss.surrogate.backward();
    golden.check_gradients(&parameters, "teacher.gradient.");
}

#[test]
fn what_is_learnt_from_soft_labels_is_what_pytorch_learns() {
    let golden = Golden::open("bert_distilled");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (tokenizer, corpus) = corpus(&golden, &folder);
    let (config, weights) = teacher(&golden);
    let teacher = Teacher {
        model: model(&config, &weights),
        corpus: &corpus,
        special: tokenizer.special(),
        positions: POSITIONS,
        passes: 3,
        words: WORDS,
    };
    let store = Store::new(folder.path(), [7; 32], Arc::clone(&corpus), TOP);
    assert_eq!(store.chunks(), 1);
    assert!(store.open(0).is_none());
    let (words, logits) = teacher.label(&store, 0, Device::Cpu, &|| ()).expect("labels");
    store.write(0, &words, &logits).expect("a chunk");
    let other = Store::new(folder.path(), [8; 32], Arc::clone(&corpus), TOP);
    assert!(other.open(0).is_none(), "labels of another key");
    let soft_labels = SoftLabels::new(store.clone(), vec![store.open(0).expect("the chunk")]);

    let labels = json!({ "pretrained": "nowhere", "weight": 0.4, "temperature": 2.5, "top": TOP });
    let objective = json!({ "autoregressive": { "soft_labels": labels } });
    let (source, target) = (transformer(WORDS, "sinusoidal"), transformer(WORDS, "learned"));
    let (run, bases, parameters) = parts(source, target, objective, 0, 1);
    golden.load(&parameters, "student.weight.");
    let student = Translation::new(&run.model, &bases, CLS.into(), &parameters, Kind::Float)
        .expect("a student");
    let examples = PairExamples {
        corpus: Arc::clone(&corpus),
        prediction: Prediction::Autoregressive,
        soft_labels: Some(Arc::new(soft_labels)),
        source: Replacements::of(&tokenizer),
        target: Replacements::of(&tokenizer),
        seed: 1,
    };
    let batch = examples.batch(&[0, 1, 2, 3], Draw::Train { epoch: 0, step: 1 }).expect("a batch");
    let loss = student.loss(&batch, Device::Cpu, &Pass::eval());
    close("loss", &Tensor::from(loss.sums().loss as f32), golden.get("student.loss"));
    let soft_nll = Tensor::from(loss.sums().soft_nll as f32);
    close("soft nll", &soft_nll, golden.get("student.soft_nll"));
    loss.surrogate.backward();
    golden.check_gradients(&parameters, "student.gradient.");

    // Held-out text is scored by the data alone.
    let held_out = examples.batch(&[0, 1, 2, 3], Draw::Evaluation).expect("a batch");
    assert!(held_out.soft.is_none());
    assert_eq!(student.loss(&held_out, Device::Cpu, &Pass::eval()).sums().soft_nll, 0.0);
    // Damage is noticed.
    let path = store.folder().join("000000");
    let mut bytes = std::fs::read(&path).expect("the chunk");
    *bytes.last_mut().expect("bytes") ^= 1;
    std::fs::write(&path, bytes).expect("the chunk");
    assert!(store.open(0).is_none());
}

#[test]
fn targets_alone_are_predicted_of_joined_pairs() {
    let golden = Golden::open("bert_distilled");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (tokenizer, corpus) = corpus(&golden, &folder);
    let corruption = Corruption { mask: 1.0, random: 0.0 };
    let examples = MlmExamples {
        corpus: Arc::clone(&corpus),
        objective: MlmConfig { predicted: 0.4, corruption, conditional: true },
        replacements: Replacements::of(&tokenizer),
        seed: 1,
    };
    assert_eq!(examples.lengths(), [(13, 0), (11, 0), (9, 0), (8, 0)]);
    let mut ends = 0;
    for epoch in 0..50 {
        let batch = examples.batch(&[2, 0], Draw::Train { epoch, step: 1 }).expect("a batch");
        assert_eq!(batch.input.lengths, [9, 13]);
        assert_eq!(batch.second.as_deref(), Some(&[7, 8][..]));
        let (row, columns) = (&batch.input.ids, batch.input.columns);
        for (&place, &label) in batch.loss_positions.iter().zip(&batch.labels) {
            let (sample, column) = match place as usize / columns {
                0 => (2, place as usize % columns - 7),
                _ => (0, place as usize % columns - 8),
            };
            let target = corpus.target(sample).expect("ids");
            assert_eq!(label, i64::from(target[column]));
            ends += usize::from(column + 1 == target.len());
        }
        let masks: Vec<i64> = (0..row.len()).filter(|&i| row[i] == 4).map(|i| i as i64).collect();
        assert_eq!(batch.loss_positions, masks);
        assert_eq!(row[0], i64::from(CLS));
        let again = examples.batch(&[2, 0], Draw::Train { epoch, step: 1 });
        assert_eq!(batch, again.expect("a batch"));
    }
    assert!(ends > 20, "the final [SEP] is predicted as well: {ends}");
}
