//! No weight is used before the pass has said that it needs the weight's block: until then all of them
//! are no numbers, and the loss is what it is with the true ones all the same.

use std::cell::RefCell;

use serde_json::{Value, json};
use tandem_config::parameters;
use tandem_config::pretrained::bert::{Bert, BertConfig};
use tandem_config::schema::model::Train;
use tandem_trainer::data::ctc::{CtcBatch, Glance};
use tandem_trainer::data::example::{MlmBatch, Padded, PairBatch, Replaced, SoftRows};
use tandem_trainer::model::{Block, Parameters, Pass};
use tandem_trainer::objective::ctc::Ctc;
use tandem_trainer::objective::mlm::Mlm;
use tandem_trainer::objective::{MicroBatch, Objective, Translation};
use tandem_trainer::random::{Purpose, stream};
use tch::{Device, Kind, no_grad};

use crate::support::{
    CLS, SOURCE_WORDS, bert, bert_encoder, ct_nmt, fused, gpt2, parts, transformer,
};

/// A model of each kind, with a micro-batch of its objective.
pub(crate) struct Model {
    pub name: &'static str,
    pub parameters: Parameters,
    pub objective: Objective,
    pub batch: MicroBatch,
}

/// Entries of the target's vocabulary; the golden GPT-2 has more.
const TARGET_WORDS: usize = 19;

fn pairs() -> PairBatch {
    let target = Padded::new(&[vec![7, 8, 3], vec![9, 3]], 0);
    PairBatch {
        source: Padded::new(&[vec![5, 6, 3], vec![11, 12, 9, 3]], 0),
        decoder_input: Padded::new(&[vec![4, 8, 4], vec![4, 3]], 0),
        loss_positions: vec![0, 2, 3],
        labels: vec![7, 3, 9],
        target,
        soft: None,
        replaced: None,
        samples: vec![0, 1],
    }
}

fn passages() -> MicroBatch {
    MicroBatch::Passage(MlmBatch {
        input: Padded::new(&[vec![2, 4, 7, 3], vec![2, 4, 3]], 0),
        second: None,
        loss_positions: vec![1, 5],
        labels: vec![8, 9],
        samples: vec![0, 1],
    })
}

pub(crate) fn models() -> Vec<Model> {
    let masked = || json!({ "masked": { "length_classes": 11 } });
    let autoregressive = || json!({ "autoregressive": {} });
    let soft_labels = json!({ "pretrained": "nowhere", "top": 2 });
    let distilled = json!({ "autoregressive": { "soft_labels": soft_labels } });
    let words = |words| transformer(words, "sinusoidal");
    let adapted = json!({ "bert": {
        "pretrained": "nowhere", "train": "scratch", "dropout": 0.1, "adapters": { "dim": 4 },
    } });
    let both = |fused: fn(usize, &str) -> Value| {
        (fused(SOURCE_WORDS, "learned"), fused(TARGET_WORDS, "learned"))
    };
    let (fused_source, fused_target) = both(fused);
    let mut models = vec![
        translation("AB-Net", adapted.clone(), bert(&[0, 1]), masked()),
        translation("AB-Net, top layer", adapted.clone(), bert(&[1]), masked()),
        translation("AB-Net-Enc", adapted, words(TARGET_WORDS), autoregressive()),
        translation("Mask-Predict", words(SOURCE_WORDS), words(TARGET_WORDS), masked()),
        translation("BERT-Fused", fused_source, fused_target, masked()),
        translation("CT-NMT", ct_nmt(), words(TARGET_WORDS), autoregressive()),
        translation("GPT-2", bert_encoder(), gpt2(), autoregressive()),
        translation("BERT-Distilled", words(SOURCE_WORDS), words(TARGET_WORDS), distilled),
    ];
    if let Some(Model { batch: MicroBatch::Pair(batch), .. }) = models.last_mut() {
        let (ids, logits) = (vec![7, 8, 3, 4, 9, 5], vec![2.0, 1.0, 0.5, 0.0, 3.0, -1.0]);
        batch.soft = Some(SoftRows { ids, logits });
    }
    models.push(corrected());
    models.push(with_blanks());
    models.push(berts_own());
    models
}

/// AB-Net with correction, which makes three passes over its decoder.
fn corrected() -> Model {
    let objective = json!({ "masked": { "length_classes": 11, "correction": {} } });
    let mut model = translation("CMLMC", bert_encoder(), bert(&[0, 1]), objective);
    if let MicroBatch::Pair(batch) = &mut model.batch {
        batch.replaced = Some(Replaced { positions: vec![1, 4], labels: vec![8, 3], mask: 4 });
    }
    model
}

/// AB-Net with CTC, which makes two passes over its decoder.
fn with_blanks() -> Model {
    let parts = parts(bert_encoder(), bert(&[0, 1]), json!({ "ctc": {} }), TARGET_WORDS, 1);
    let (_, composition, parameters) = parts;
    let ctc = Ctc::new(&composition, CLS, &parameters, Kind::Float).expect("blanks");
    let masks = [vec![4; 6], vec![4; 4]];
    let draws = masks.iter().map(|row| vec![0.0; row.len()]).collect();
    let batch = MicroBatch::Ctc(CtcBatch {
        source: Padded::new(&[vec![5, 6, 3], vec![7, 3]], 0),
        decoder_input: Padded::new(&masks, 0),
        words: Padded::new(&[vec![7, 8], vec![9]], 0),
        classes: Padded::new(&[vec![1, 2, 1], vec![1]], 0),
        fits: vec![true, true],
        glance: Some(Glance { ratio: 1.0, draws }),
        samples: vec![0, 1],
    });
    Model { name: "CTC", parameters, objective: Objective::Ctc(Box::new(ctc)), batch }
}

fn translation(name: &'static str, encoder: Value, decoder: Value, objective: Value) -> Model {
    let (run, bases, parameters) = parts(encoder, decoder, objective, TARGET_WORDS, 1);
    let translation = Translation::new(&run.model, &bases, CLS, &parameters, Kind::Float);
    let objective = Objective::Translation(Box::new(translation.expect("a translation")));
    Model { name, parameters, objective, batch: MicroBatch::Pair(pairs()) }
}

/// Masked language modelling.
fn berts_own() -> Model {
    let config: BertConfig = serde_json::from_value(json!({
        "vocab_size": SOURCE_WORDS, "hidden_size": 8, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 12, "max_position_embeddings": 12,
    }))
    .expect("a config");
    let list = parameters::mlm(&Bert::new(config.clone()), Train::Scratch);
    let parameters = Parameters::new(&list, &[], 1, Kind::Float, Device::Cpu).expect("parameters");
    let objective = Objective::Mlm(Box::new(Mlm::new(&parameters, &config, None, Kind::Float)));
    Model { name: "BERT", parameters, objective, batch: passages() }
}

/// The blocks in the order in which they were needed.
fn needs_before_it_uses(model: &Model) -> Vec<Block> {
    let Model { name, parameters, objective, batch } = model;
    let masks = || stream(1, Purpose::Dropout, &[1, 0]);
    let expected = objective.loss(batch, Device::Cpu, &Pass::train(masks())).sums();
    assert!(expected.loss.is_finite(), "{name}");
    let weights = parameters.weights.copy();
    let _ = no_grad(|| parameters.weights.shallow_clone().fill_(f64::NAN));
    let needed = RefCell::new(Vec::new());
    let restore = |block: Block| {
        let places = parameters.views(&weights).zip(&parameters.trained);
        for ((_, value), leaf) in places.filter(|((name, _), _)| Block::of(name) == block) {
            no_grad(|| leaf.shallow_clone().copy_(&value));
        }
        let mut needed = needed.borrow_mut();
        if !needed.contains(&block) {
            needed.push(block);
        }
    };
    let found = objective.loss(batch, Device::Cpu, &Pass::train(masks()).after(&restore)).sums();
    assert_eq!(found, expected, "{name}: a weight was used before its block was needed");
    needed.into_inner()
}

#[test]
fn models_need_a_block_before_they_use_it() {
    for model in models() {
        let needed = needs_before_it_uses(&model);
        let last = match model.objective {
            Objective::Translation(_) | Objective::Ctc(_) => Block::Decoder(1),
            Objective::Mlm(_) => Block::Encoder(1),
        };
        assert!(needed.is_sorted(), "{}: {needed:?}", model.name);
        let ends = (needed[0], needed.last());
        assert_eq!(ends, (Block::Outside, Some(&last)), "{}", model.name);
    }
}
