//! Self-attention: `MultiHead(x, x, x)`, with a residual connection.
//!
//! The block of BERT's layers (Devlin et al. 2019), of the Transformer's (Vaswani et al. 2017) and of
//! GPT-2's (Radford et al. 2019).

use tch::Tensor;

use super::attention::{KeyValue, attend, split_heads};
use super::bert_fused::BertFused;
use super::layers::{Linear, Packed};
use super::pass::Pass;
use super::positions::Positions;
use super::residual::Residual;

/// One self-attention.
#[derive(Debug)]
pub struct SelfAttention {
    /// What makes queries, keys and values, in this order.
    pub query_key_value: Packed,
    /// Behind the heads.
    pub output: Linear,
    /// The attention over a BERT beside it, in an encoder that is fused with one.
    pub fused: Option<BertFused>,
    /// Around all of it.
    pub residual: Residual,
    /// Attention heads.
    pub heads: i64,
    /// Dropout on attention probabilities.
    pub dropout: f64,
}

impl SelfAttention {
    /// As [`super::layer::Layer::forward`].
    pub fn forward(
        &self,
        x: &Tensor,
        mask: &Tensor,
        past: Option<&mut Past>,
        bert: Option<&BertMemory>,
        at: Option<&Positions>,
        pass: &Pass,
    ) -> Tensor {
        let parts = self.query_key_value.forward(&self.residual.input(x));
        let [query, key, value] = [0, 1, 2].map(|part| split_heads(&parts[part], self.heads));
        let (key, value) = Past::extend(past, key, value);
        let attended = attend(&query, &key, &value, mask, self.dropout, pass);
        let gather = |x: &Tensor| at.map_or_else(|| x.shallow_clone(), |at| at.gather(x));
        let attended = self.output.forward(&gather(&attended));
        let x = gather(x);
        match (&self.fused, bert) {
            (Some(fused), Some(BertMemory { hidden, mask })) => {
                let memory = fused.attention.key_value(hidden);
                let bert = fused.attention.forward(&x, &memory, mask, at, pass);
                fused.add(&x, &attended, &bert, &self.residual, pass)
            }
            (Some(_), None) => panic!("a fused layer is given what its BERT made of the sentence"),
            (None, _) => self.residual.forward(&x, &attended, pass),
        }
    }
}

/// What a BERT made of the sentence that a layer reads.
#[derive(Debug)]
pub struct BertMemory {
    /// Its last hidden states: `[B, 1 + S, E]`, the first of `[CLS]`, or `[B, S, E]` without.
    pub hidden: Tensor,
    /// The additive mask of its padding: `[B, 1, 1, 1 + S]` or `[B, 1, 1, S]`.
    pub mask: Tensor,
}

/// One self-attention's keys and values of the tokens written so far.
#[derive(Debug, Default)]
pub struct Past(Option<KeyValue>);

impl Past {
    /// The keys and values so far with those of new tokens behind them; a `past` keeps them.
    fn extend(past: Option<&mut Self>, key: Tensor, value: Tensor) -> (Tensor, Tensor) {
        let Some(past) = past else { return (key, value) };
        let extended = match &past.0 {
            Some(old) => KeyValue {
                key: Tensor::cat(&[&old.key, &key], 2),
                value: Tensor::cat(&[&old.value, &value], 2),
            },
            None => KeyValue { key, value },
        };
        let both = (extended.key.shallow_clone(), extended.value.shallow_clone());
        past.0 = Some(extended);
        both
    }

    /// The past of these rows, in this order.
    pub fn select(&self, rows: &Tensor) -> Self {
        Self(self.0.as_ref().map(|past| past.select(rows)))
    }
}
