//! Drop-net in whole models: which attentions a training pass leaves out, and what it makes of the
//! others.

use std::collections::BTreeSet;

use serde_json::json;
use tandem_trainer::model::{Batch, Pass};
use tandem_trainer::random::{Purpose, stream};
use tch::{Kind, Tensor, no_grad};

use crate::support::{SOURCE_WORDS, Tiny, fused, sources, tiny};

const TARGET_WORDS: usize = 19;
/// Each layer with its own attention, beside which there is one over the BERT.
const LAYERS: [(&str, &str); 4] = [
    ("encoder.layer.0", "self_attention"),
    ("encoder.layer.1", "self_attention"),
    ("decoder.layer.0", "cross_attention"),
    ("decoder.layer.1", "cross_attention"),
];
/// The shares of a layer's own attention and of that over the BERT.
type Shares = [f64; 2];
const OWN: Shares = [1.0, 0.0];
const BERT: Shares = [0.0, 1.0];
const BOTH: Shares = [0.5, 0.5];

/// A model whose own dropout is 0; the released default of drop-net where none is given.
fn model(drop_net: Option<f64>) -> Tiny {
    let side = |words, positions: &str| {
        let mut config = fused(words, positions);
        if let Some(drop_net) = drop_net {
            config["transformer"]["bert_fused"]["drop_net"] = json!(drop_net);
        }
        config
    };
    let (source, target) = (side(SOURCE_WORDS, "sinusoidal"), side(TARGET_WORDS, "learned"));
    tiny(source, target, json!({ "autoregressive": {} }), 0, 1)
}

fn batch() -> Batch {
    let source = sources(&[5, 3]);
    let decoder_input = Tensor::from_slice(&[2i64, 7, 8, 2, 9, 0]).view([2, 3]);
    let target_real = decoder_input.ne(0);
    Batch {
        source: source.ids,
        source_real: source.real,
        target_real,
        positions: Tensor::from_slice(&[0i64, 1, 2, 3, 4]),
        labels: Tensor::from_slice(&[7i64, 8, 3, 9, 3]),
        lengths: Tensor::from_slice(&[3i64, 2]),
        decoder_input,
    }
}

fn parameter<'a>(tiny: &'a Tiny, name: &str) -> &'a Tensor {
    let parameters = &tiny.parameters;
    let place = parameters.names.iter().position(|own| own == name);
    &parameters.trained[place.unwrap_or_else(|| panic!("no parameter {name}"))]
}

/// What a pass makes of the batch: the encoder's output, and the predicted positions' states.
fn forward(tiny: &Tiny, batch: &Batch, pass: &Pass) -> [Tensor; 2] {
    let (encoded, predicted) = tiny.model.forward(batch, pass);
    [encoded.memory, predicted]
}

/// A training pass, with its layers' shares by their gradients: an attention that is left out gets
/// exactly none.
fn trained(tiny: &Tiny, batch: &Batch, step: u64) -> ([Tensor; 2], [Shares; 4]) {
    for leaf in &tiny.parameters.trained {
        leaf.shallow_clone().zero_grad();
    }
    let pass = Pass::train(stream(1, Purpose::Dropout, &[step]));
    let outputs = forward(tiny, batch, &pass);
    // States are normed: their sum, and that of their squares, are the same for all weights.
    let [memory, predicted] =
        outputs.each_ref().map(|states| (states * states * states).sum(Kind::Float));
    (memory + predicted).backward();
    let shares = LAYERS.map(|(layer, own)| {
        let zeros = |attention: &str| {
            ["query.weight", "key.weight", "value.weight", "output.weight", "output.bias"].map(
                |name| {
                    let gradient = parameter(tiny, &format!("{layer}.{attention}.{name}")).grad();
                    gradient.abs().max().double_value(&[]) == 0.0
                },
            )
        };
        match (zeros(own), zeros("bert_attention")) {
            ([false, false, false, false, false], [true, true, true, true, true]) => OWN,
            ([true, true, true, true, true], [false, false, false, false, false]) => BERT,
            ([false, false, false, false, false], [false, false, false, false, false]) => BOTH,
            mixed => panic!("{layer}: {mixed:?}"),
        }
    });
    (outputs, shares)
}

/// The same with these shares but without training, where both are 1/2: what an attention puts out is
/// made so many times larger instead.
fn expected(tiny: &Tiny, batch: &Batch, shares: &[Shares; 4]) -> [Tensor; 2] {
    let changed = model(None);
    for ((layer, own), share) in LAYERS.iter().zip(shares) {
        for (attention, share) in [own, "bert_attention"].iter().zip(share) {
            for part in ["weight", "bias"] {
                let name = format!("{layer}.{attention}.output.{part}");
                let scaled = parameter(tiny, &name) * (2.0 * share);
                no_grad(|| parameter(&changed, &name).shallow_clone().copy_(&scaled));
            }
        }
    }
    no_grad(|| forward(&changed, batch, &Pass::eval()))
}

/// How often the layers had these shares, in so many passes, each of which is what it should be.
fn counts(tiny: &Tiny, passes: u64) -> [usize; 3] {
    let batch = batch();
    let mut counts = [0; 3];
    for step in 0..passes {
        let (found, shares) = trained(tiny, &batch, step);
        let expected = expected(tiny, &batch, &shares);
        for (found, expected) in found.iter().zip(&expected) {
            assert!(found.allclose(expected, 1e-5, 1e-6, false), "pass {step}: {shares:?}");
        }
        for (count, which) in counts.iter_mut().zip([OWN, BERT, BOTH]) {
            *count += shares.iter().filter(|share| **share == which).count();
        }
    }
    counts
}

#[test]
fn one_attention_of_each_layer_is_left_out() {
    let tiny = model(None);
    let [own, bert, both] = counts(&tiny, 100);
    assert_eq!(both, 0);
    // 200 of 400, within four standard deviations.
    assert!(own.abs_diff(200) < 40, "{own} and {bert}");

    // Each layer draws for itself: each of 16 combinations is about as frequent.
    let combinations: BTreeSet<String> =
        (0..100).map(|step| format!("{:?}", trained(&tiny, &batch(), step).1)).collect();
    assert_eq!(combinations.len(), 16);
}

/// The released code leaves out either of the two with the probability of its flag,
/// `--encoder-bert-dropout-ratio`: half of ours.
#[test]
fn either_attention_is_left_out_with_half_the_probability() {
    let found = counts(&model(Some(0.4)), 100);
    // 80, 80 and 240 of 400, within four standard deviations.
    for (count, (expected, deviation)) in found.into_iter().zip([(80, 8.0), (80, 8.0), (240, 9.8)])
    {
        assert!(
            (f64::from(count as u32) - f64::from(expected)).abs() < 4.0 * deviation,
            "{found:?}"
        );
    }
}

#[test]
fn nothing_is_left_out_without_training_or_without_drop_net() {
    let (batch, tiny) = (batch(), model(Some(0.0)));
    assert_eq!(counts(&tiny, 5), [0, 0, 20]);
    let evaluated = no_grad(|| forward(&model(None), &batch, &Pass::eval()));
    let (trained, _) = trained(&tiny, &batch, 1);
    for (trained, evaluated) in trained.iter().zip(&evaluated) {
        assert!(trained.allclose(evaluated, 1e-5, 1e-6, false));
    }
}
