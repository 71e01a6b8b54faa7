//! Wrong numbers are detected; on the CPU only.

use tch::{Tensor, no_grad};

use super::subject::{Numbers, replayed};
use super::*;

const F32_KINDS: Kinds = Kinds { frozen: Kind::Float, compute: Kind::Float };
const BF16_KINDS: Kinds = Kinds { frozen: Kind::BFloat16, compute: Kind::BFloat16 };

/// The numbers of the first steps.
fn numbers(kinds: Kinds, damage: impl FnOnce(&Subject)) -> Numbers {
    let subject = Subject::new(Device::Cpu, kinds).expect("a model without files");
    no_grad(|| damage(&subject));
    subject.numbers(2).expect("a single rank")
}

/// Changes a parameter, whose name has the side before the first dot.
fn change(subject: &Subject, name: &str, new: impl FnOnce(&Tensor) -> Tensor) {
    let (side, name) = name.split_once('.').expect("a side");
    let mut parameter = subject.parameters.scope(side).get(name);
    parameter.copy_(&new(&parameter));
}

fn failures(checks: &[Check]) -> Vec<&str> {
    checks.iter().filter(|check| !check.ok).map(|check| check.name.as_str()).collect()
}

/// Adds a tenth of the usual size of a weight to one of `[O, I]`.
fn nudged(weight: &Tensor) -> Tensor {
    let nudged = weight.copy();
    let _ = nudged.get(1).get(2).g_add_scalar_(0.01);
    nudged
}

#[test]
fn one_wrong_weight_is_told_apart_in_f32() {
    let expected = numbers(F32_KINDS, |_| ());
    assert_eq!(failures(&compare(&F32, &numbers(F32_KINDS, |_| ()), &expected)), [""; 0]);
    for (name, first) in [
        ("encoder.bert.encoder.layer.0.output.dense.weight", "encoder output, f32"),
        ("encoder.length_embedding.weight", "length log-probabilities, f32"),
        ("decoder.layer.1.cross_attention.value.weight", "gradients, f32"),
    ] {
        let found = numbers(F32_KINDS, |subject| change(subject, name, nudged));
        let checks = compare(&F32, &found, &expected);
        assert_eq!(failures(&checks).first(), Some(&first), "{name}: {checks:#?}");
    }
}

#[test]
fn what_is_no_number_fails_everywhere() {
    let name = "encoder.bert.embeddings.LayerNorm.bias";
    let expected = numbers(F32_KINDS, |_| ());
    let found = numbers(F32_KINDS, |it| change(it, name, |bias| bias * f64::NAN));
    let checks = compare(&F32, &found, &expected);
    assert_eq!(failures(&checks).len(), checks.len(), "{checks:#?}");
}

/// Its bounds are wide, but not so wide that a layer could be wrong.
#[test]
fn a_wrong_layer_is_told_apart_in_bf16() {
    let expected = numbers(F32_KINDS, |_| ());
    assert_eq!(failures(&compare(&BF16, &numbers(BF16_KINDS, |_| ()), &expected)), [""; 0]);
    let name = "decoder.layer.0.cross_attention.output.weight";
    let found = numbers(BF16_KINDS, |it| change(it, name, |weight| weight * 0.8));
    let checks = compare(&BF16, &found, &expected);
    assert!(failures(&checks).contains(&"gradients, bf16"), "{checks:#?}");
}

#[test]
fn weights_that_miss_a_step_are_told_apart() {
    let gradients = numbers(F32_KINDS, |_| ()).gradients;
    let after = |steps: usize| replayed(Device::Cpu, &gradients[..steps]).expect("weights");
    assert!(compare::weights(2, &after(2), &after(2)).ok);
    assert!(!compare::weights(2, &after(1), &after(2)).ok);
}
