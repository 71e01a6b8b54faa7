//! Compositions of BERTs, Transformers and adapters against independent ones, with the gradients of all
//! their weights; tests/golden/compositions/make.py made the goldens.

use serde_json::{Value, json};

use crate::golden::{
    Golden, TARGET_WORDS, autoregressive, check_autoregressive, check_correction, check_ctc,
    check_masked, correcting, masked,
};
use crate::support::{
    SOURCE_WORDS, behind_a_wide_bert, bert, parts, parts_behind_a_wide_bert, tiny, transformer,
};

fn ctc() -> Value {
    json!({ "ctc": {} })
}

/// A BERT that writes, with the released code's adapters: a feed-forward block behind each attention.
fn released() -> Value {
    let mut config = bert(&[0, 1]);
    config["bert"]["cross_attention"]["feed_forward"] = json!(10);
    config
}

/// AB-Net-Enc: keys and values of the cross-attention are made of what is wider than the decoder.
#[test]
fn a_transformer_behind_a_wider_bert_with_adapters_is_pytorchs() {
    let golden = Golden::open("compositions/ab_net_enc");
    let target = || transformer(TARGET_WORDS, "learned");
    check_masked(&golden, &behind_a_wide_bert(target(), masked(), 0));
    check_autoregressive(&golden, &behind_a_wide_bert(target(), autoregressive(), 0));
    check_ctc(&golden, parts_behind_a_wide_bert(target(), ctc(), 0));
    check_correction(&golden, parts_behind_a_wide_bert(target(), correcting(), 0));
}

/// AB-Net FB: adapters and both BERTs are trained together.
#[test]
fn two_berts_with_adapters_trained_as_a_whole_are_pytorchs() {
    let golden = Golden::open("compositions/ab_net");
    check_masked(&golden, &behind_a_wide_bert(released(), masked(), TARGET_WORDS));
    check_ctc(&golden, parts_behind_a_wide_bert(released(), ctc(), TARGET_WORDS));
    check_correction(&golden, parts_behind_a_wide_bert(released(), correcting(), TARGET_WORDS));
}

/// The paper's negative result: a BERT that was trained to see both sides writes from left to right.
#[test]
fn a_causal_bert_with_adapters_is_pytorchs() {
    let golden = Golden::open("compositions/ab_net");
    check_autoregressive(&golden, &behind_a_wide_bert(released(), autoregressive(), TARGET_WORDS));
}

/// Row (3) of the ablations, with the paper's adapters: attention alone.
#[test]
fn a_bert_with_adapters_behind_a_transformer_is_pytorchs() {
    let golden = Golden::open("compositions/bert_decoder");
    let source = || transformer(SOURCE_WORDS, "sinusoidal");
    let model = |objective| tiny(source(), bert(&[0, 1]), objective, TARGET_WORDS, 1);
    check_masked(&golden, &model(masked()));
    check_autoregressive(&golden, &model(autoregressive()));
    check_ctc(&golden, parts(source(), bert(&[0, 1]), ctc(), TARGET_WORDS, 1));
    check_correction(&golden, parts(source(), bert(&[0, 1]), correcting(), TARGET_WORDS, 1));
}
