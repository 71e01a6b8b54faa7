//! A BERT beside a Transformer's encoder, which reads the same sentence: fused with it (Zhu et al. 2020),
//! or trained together with it (Yang et al. 2020).
//!
//! The encoder's ids end with `[SEP]` but do not begin with `[CLS]`. A BERT has been pre-trained on texts
//! that do, and the released code of both gives it one, so it is put before the sentence here.

use tch::Tensor;

use super::attention::key_mask;
use super::encoder::Encoder;
use super::pass::Pass;
use super::self_attention::BertMemory;

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
}
