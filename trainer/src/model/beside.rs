//! A BERT that reads the source beside a Transformer's encoder, and what uses it.
//!
//! - BERT-Fused (Zhu et al. 2020): a second attention in every layer, over what the frozen BERT made of
//!   the source, beside the layer's own.
//! - CT-NMT (Yang et al. 2020): a gate that mixes the BERT's output into the encoder's embeddings.
//!
//! The encoder's ids end with `[SEP]` but do not begin with `[CLS]`. A BERT has been pre-trained on texts
//! that do, and the released code of both gives it one, so it is put before the sentence here.

use tandem_config::schema::transformer::BertFused;
use tch::Tensor;

use super::Pass;
use super::encoder::Encoder;
use super::layers::attention::{CrossAttention, KeyValue, key_mask};
use super::layers::linear::{LayerNorm, Linear};
use super::layers::positions::Positions;
use super::memory::BertMemory;
use super::parameters::Scope;

/// A BERT that reads the encoder's ids behind a `[CLS]`.
#[derive(Debug)]
pub struct BesideBert {
    /// The BERT.
    pub bert: Encoder,
    /// The id of `[CLS]`.
    pub cls: i64,
    /// Whether the state of `[CLS]` is among what the BERT makes of a sentence. The encoder's own states
    /// can be mixed or compared with those of the sentence alone.
    pub keeps_cls: bool,
    /// What mixes its output into the encoder's embeddings, if anything does.
    pub switch: Option<Switch>,
}

impl BesideBert {
    /// Source ids `[B, S]` and which of them are real `[B, S]` to hidden states `[B, 1 + S, E]`, or
    /// `[B, S, E]` without that of `[CLS]`.
    pub fn forward(&self, ids: &Tensor, is_real: &Tensor, pass: &Pass) -> BertMemory {
        let behind = |first: Tensor, rest: &Tensor| Tensor::cat(&[&first, rest], 1);
        let with_cls = behind(ids.narrow(1, 0, 1).full_like(self.cls), ids);
        let all_real = behind(is_real.narrow(1, 0, 1).ones_like(), is_real);
        let hidden = self.bert.forward(&with_cls, &all_real, pass).memory;
        let kind = hidden.kind();
        if self.keeps_cls {
            return BertMemory { hidden, mask: key_mask(&all_real, kind) };
        }
        let hidden = hidden.narrow(1, 1, ids.size()[1]);
        BertMemory { hidden, mask: key_mask(is_real, kind) }
    }

    /// What goes into the encoder's layers: its own embeddings `[B, S, D]`, or a mixture with `bert`.
    pub fn mix(&self, own: Tensor, bert: &BertMemory) -> Tensor {
        match &self.switch {
            Some(switch) => switch.forward(&bert.hidden, &own),
            None => own,
        }
    }
}

/// CT-NMT's dynamic switch: `g · B + (1 − g) · E`, `g = σ(W · B + U · E + b)`, between a BERT's output B
/// and an encoder's own embeddings E.
#[derive(Debug)]
pub struct Switch {
    bert: Linear,
    own: Linear,
}

impl Switch {
    /// The gate below `scope`, e.g. `encoder.switch`.
    pub fn new(scope: &Scope) -> Self {
        Self { bert: Linear::without_bias(scope, "bert"), own: Linear::new(scope, "own") }
    }

    /// Both `[B, S, D]` to `[B, S, D]`.
    fn forward(&self, bert: &Tensor, own: &Tensor) -> Tensor {
        let gate = (self.bert.forward(bert) + self.own.forward(own)).sigmoid();
        own + gate * (bert - own)
    }
}

/// BERT-Fused's attention over a BERT's output B, in one layer:
/// `LN(x + r1 · dropout(own) + r2 · dropout(MultiHead(x, B, B)))`.
///
/// Both shares are 1/2, but for drop-net (section 3.3): while training, with probability p/2 each, one
/// of the two is left out and the other one counts whole.
#[derive(Debug)]
pub struct BertAttention {
    attention: CrossAttention,
    drop_net: f64,
}

impl BertAttention {
    /// The attention of the layer below `scope`, e.g. `encoder.layer.0`.
    pub fn new(scope: &Scope, config: &BertFused, heads: usize) -> Self {
        let attention = CrossAttention::new(&scope.enter("bert_attention"), heads);
        Self { attention, drop_net: config.drop_net }
    }

    /// The BERT's output `[B, S, E]` as keys and values.
    pub fn key_value(&self, hidden: &Tensor) -> KeyValue {
        self.attention.key_value(hidden)
    }

    /// The block's input and its own attention's output, both `[.., D]`, to the block's output `[.., D]`;
    /// `mask` is of the BERT's padding.
    pub fn add(
        &self,
        x: &Tensor,
        own: &Tensor,
        (bert, mask): (&KeyValue, &Tensor),
        (norm, dropout): (&LayerNorm, f64),
        at: Option<&Positions>,
        pass: &Pass,
    ) -> Tensor {
        let bert = self.attention.forward(x, bert, mask, at, pass);
        let (own_share, bert_share) = pass.drop_net(self.drop_net);
        let sum = pass.dropout_add(&(own * own_share), x, dropout);
        norm.forward(&pass.dropout_add(&(bert * bert_share), &sum, dropout))
    }
}
