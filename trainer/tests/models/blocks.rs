//! No weight is used before the pass has said that it needs the weight's block: until then all of them
//! are no numbers, and the loss is what it is with the true ones all the same.

use std::cell::RefCell;

use serde_json::{Value, json};
use tandem_config::parameters;
use tandem_config::pretrained::bert::{Bert, BertConfig};
use tandem_config::schema::model::Train;
use tandem_trainer::data::example::{MlmBatch, Padded, PairBatch};
use tandem_trainer::model::{Block, Parameters, Pass};
use tandem_trainer::objective::mlm::Mlm;
use tandem_trainer::objective::{MicroBatch, Objective, Translation};
use tandem_trainer::random::{Purpose, stream};
use tch::{Device, Kind, no_grad};

use crate::support::{
    CLS, SOURCE_WORDS, bert, bert_encoder, ct_nmt, fused, gpt2, parts, transformer,
};

/// Entries of the target's vocabulary; the golden GPT-2 has more.
const TARGET_WORDS: usize = 19;

fn pairs() -> MicroBatch {
    let target = Padded::new(&[vec![7, 8, 3], vec![9, 3]], 0);
    MicroBatch::Pair(PairBatch {
        source: Padded::new(&[vec![5, 6, 3], vec![11, 12, 9, 3]], 0),
        decoder_input: Padded::new(&[vec![4, 8, 4], vec![4, 3]], 0),
        loss_positions: vec![0, 2, 3],
        labels: vec![7, 3, 9],
        target,
        soft: None,
        samples: vec![0, 1],
    })
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

/// The blocks in the order in which they were needed.
fn needs_before_it_uses(name: &str, parameters: &Parameters, objective: &Objective) -> Vec<Block> {
    let batch = if let Objective::Mlm(_) = objective { passages() } else { pairs() };
    let masks = || stream(1, Purpose::Dropout, &[1, 0]);
    let expected = objective.loss(&batch, Device::Cpu, &Pass::train(masks())).sums();
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
    let found = objective.loss(&batch, Device::Cpu, &Pass::train(masks()).after(&restore)).sums();
    assert_eq!(found, expected, "{name}: a weight was used before its block was needed");
    needed.into_inner()
}

fn translation(name: &str, encoder: Value, decoder: Value, objective: Value) {
    let (run, bases, parameters) = parts(encoder, decoder, objective, TARGET_WORDS, 1);
    let translation = Translation::new(&run.model, &bases, CLS, &parameters, Kind::Float);
    let objective = Objective::Translation(Box::new(translation.expect("a translation")));
    let needed = needs_before_it_uses(name, &parameters, &objective);
    assert!(needed.is_sorted(), "{name}: {needed:?}");
    let last = Block::Decoder(1);
    assert_eq!((needed[0], needed.last()), (Block::Outside, Some(&last)), "{name}");
}

#[test]
fn translation_models_need_a_block_before_they_use_it() {
    let masked = || json!({ "masked": { "length_classes": 11 } });
    let autoregressive = || json!({ "autoregressive": {} });
    let words = |words| transformer(words, "sinusoidal");
    let adapted = json!({ "bert": {
        "pretrained": "nowhere", "train": "scratch", "dropout": 0.1, "adapters": { "dim": 4 },
    } });
    translation("AB-Net", adapted.clone(), bert(&[0, 1]), masked());
    translation("AB-Net, top layer", adapted.clone(), bert(&[1]), masked());
    translation("AB-Net-Enc", adapted, words(TARGET_WORDS), autoregressive());
    translation("Mask-Predict", words(SOURCE_WORDS), words(TARGET_WORDS), masked());
    let fused = |words| fused(words, "learned");
    translation("BERT-Fused", fused(SOURCE_WORDS), fused(TARGET_WORDS), masked());
    translation("CT-NMT", ct_nmt(), words(TARGET_WORDS), autoregressive());
    translation("GPT-2", bert_encoder(), gpt2(), autoregressive());
}

#[test]
fn a_berts_own_objective_needs_a_block_before_it_uses_it() {
    let config: BertConfig = serde_json::from_value(json!({
        "vocab_size": SOURCE_WORDS, "hidden_size": 8, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 12, "max_position_embeddings": 12,
    }))
    .expect("a config");
    let list = parameters::mlm(&Bert::new(config.clone()), Train::Scratch);
    let parameters = Parameters::new(&list, &[], 1, Kind::Float, Device::Cpu).expect("parameters");
    let mlm = Mlm::new(&parameters, &config, None, Kind::Float);
    let needed = needs_before_it_uses("BERT", &parameters, &Objective::Mlm(Box::new(mlm)));
    assert_eq!(needed, [Block::Outside, Block::Encoder(0), Block::Encoder(1)]);
}
