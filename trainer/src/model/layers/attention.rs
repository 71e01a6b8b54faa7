//! Scaled dot-product attention over several heads: of a sentence over itself, or over a memory. Residual
//! connections and norms are the networks' own.
//!
//! Shapes: E is the memory's width.

use tch::{Device, Kind, Tensor};

use super::linear::{Linear, Packed};
use super::positions::Positions;
use crate::model::parameters::Scope;
use crate::model::pass::Pass;

/// What is added to the scores of padded keys: after softmax exactly 0 in f32, as in BERT.
const MASKED: f64 = -10000.0;

/// The fused kernel wants rows of so many elements, or of a multiple.
const ALIGNMENT: i64 = 8;

/// The additive mask `[B, 1, 1, S]` of keys that are not real, from booleans `[B, S]`.
pub fn key_mask(is_real: &Tensor, kind: Kind) -> Tensor {
    hiding(&is_real.unsqueeze(1), kind)
}

/// The additive mask `[B, 1, T, S]` of keys that a query does not see, from booleans `[B, T, S]`.
pub fn hiding(is_seen: &Tensor, kind: Kind) -> Tensor {
    (is_seen.logical_not().to_kind(kind) * MASKED).unsqueeze(1)
}

/// The additive mask `[1, 1, T, T]` that hides from each query the keys behind its own position.
pub fn causal_mask(length: i64, kind: Kind, device: Device) -> Tensor {
    let all = Tensor::full([1, 1, length, length], MASKED, (kind, device));
    all.triu(1)
}

/// Whether one kernel does all of an attention over `[B, H, T, d]` queries of this kind and device. In
/// f32 the fused one is less exact than products of matrices, which parity asks for.
fn has_fused_kernel(query: &Tensor, depth: i64) -> bool {
    query.device().is_cuda() && query.kind() == Kind::BFloat16 && depth % ALIGNMENT == 0
}

/// The same mask, each of its rows at a multiple of [`ALIGNMENT`].
fn aligned(mask: &Tensor) -> Tensor {
    let columns = mask.size()[3];
    match mask.stride()[..3].iter().all(|stride| stride % ALIGNMENT == 0) {
        true => mask.shallow_clone(),
        false => {
            let padding = [0, (-columns).rem_euclid(ALIGNMENT)];
            mask.constant_pad_nd(padding).narrow(3, 0, columns)
        }
    }
}

/// One attention's keys and values.
#[derive(Debug)]
pub struct KeyValue {
    /// `[B, H, S, d]`
    pub key: Tensor,
    /// `[B, H, S, d]`
    pub value: Tensor,
}

impl KeyValue {
    /// The keys and values of these rows, in this order.
    pub fn select(&self, rows: &Tensor) -> Self {
        let select = |x: &Tensor| x.index_select(0, rows);
        Self { key: select(&self.key), value: select(&self.value) }
    }

    /// The same tensors.
    pub fn shallow_clone(&self) -> Self {
        Self { key: self.key.shallow_clone(), value: self.value.shallow_clone() }
    }
}

/// `[B, T, D]` as `[B, H, T, D / H]`.
fn split_heads(x: &Tensor, heads: i64) -> Tensor {
    let (batch, length, width) = x.size3().expect("attention takes three dimensions");
    x.view([batch, length, heads, width / heads]).transpose(1, 2)
}

/// `softmax(q · kᵀ / √d + mask) · v`: `[B, H, T, d]` queries to `[B, T, D]`.
fn attend(
    query: &Tensor, // [B, H, T, d]
    key: &Tensor,   // [B, H, S, d]
    value: &Tensor, // [B, H, S, d]
    mask: &Tensor,  // [1 or B, 1, 1 or T, S]
    dropout: f64,
    pass: &Pass,
) -> Tensor {
    let (batch, heads, length, depth) = query.size4().expect("queries have four dimensions");
    if has_fused_kernel(query, depth) {
        let attended = pass.fused_attention(query, key, value, &aligned(mask), dropout);
        return attended.transpose(1, 2).reshape([batch, length, heads * depth]);
    }
    let scores = query.matmul(&key.transpose(-1, -2)); // [B, H, T, S]
    let weights = pass.attention_weights(&scores, mask, (depth as f64).powf(-0.5), dropout);
    weights.matmul(value).transpose(1, 2).reshape([batch, length, heads * depth])
}

/// Attention of a sentence over itself: `MultiHead(x, x, x)`.
#[derive(Debug)]
pub struct SelfAttention {
    /// What makes queries, keys and values, in this order.
    pub query_key_value: Packed,
    /// Behind the heads.
    pub output: Linear,
    /// Attention heads.
    pub heads: i64,
    /// Dropout on attention probabilities.
    pub dropout: f64,
}

impl SelfAttention {
    /// `[B, T, D]` to `[B, T, D]`, or to `[N, D]` of the positions `at` alone.
    ///
    /// `mask` is added to the scores: `[B, 1, 1, S]` for keys that are not real, or `[1 or B, 1, T, S]` for
    /// keys that a query may not see. With a `cache`, which grows by these tokens, queries see its tokens
    /// too: S is their number and T.
    pub fn forward(
        &self,
        x: &Tensor,
        mask: &Tensor,
        cache: Option<&mut LayerCache>,
        at: Option<&Positions>,
        pass: &Pass,
    ) -> Tensor {
        let parts = self.query_key_value.forward(x);
        let [query, key, value] = [0, 1, 2].map(|part| split_heads(&parts[part], self.heads));
        let KeyValue { key, value } = LayerCache::extend(cache, key, value);
        let attended = attend(&query, &key, &value, mask, self.dropout, pass);
        self.output.forward(&Positions::gathered(at, &attended))
    }
}

/// One self-attention's keys and values of the tokens so far, in buffers with room for more.
#[derive(Debug, Default)]
pub struct LayerCache {
    buffers: Option<KeyValue>, // [B, H, capacity, d]
    tokens: i64,
}

impl LayerCache {
    /// The keys and values so far with those of new tokens behind them; a `cache` keeps them.
    fn extend(cache: Option<&mut Self>, key: Tensor, value: Tensor) -> KeyValue {
        let Some(cache) = cache else { return KeyValue { key, value } };
        let (old, new) = (cache.tokens, key.size()[2]);
        cache.tokens += new;
        let has_room = |buffers: &KeyValue| buffers.key.size()[2] >= old + new;
        if !cache.buffers.as_ref().is_some_and(has_room) {
            let roomy = |now: &Tensor, before: Option<&Tensor>| {
                let (batch, heads, _, depth) = now.size4().expect("keys have four dimensions");
                let size = [batch, heads, 2 * (old + new), depth];
                let buffer = Tensor::empty(size, (now.kind(), now.device()));
                if let Some(before) = before {
                    buffer.narrow(2, 0, old).copy_(&before.narrow(2, 0, old));
                }
                buffer
            };
            let before = cache.buffers.as_ref();
            cache.buffers = Some(KeyValue {
                key: roomy(&key, before.map(|before| &before.key)),
                value: roomy(&value, before.map(|before| &before.value)),
            });
        }
        let buffers = cache.buffers.as_ref().expect("there is room now");
        buffers.key.narrow(2, old, new).copy_(&key);
        buffers.value.narrow(2, old, new).copy_(&value);
        let so_far = |buffer: &Tensor| buffer.narrow(2, 0, old + new);
        KeyValue { key: so_far(&buffers.key), value: so_far(&buffers.value) }
    }

    /// The keys and values of these sentences, in this order.
    pub fn select(&self, sentences: &Tensor) -> Self {
        let buffers = self.buffers.as_ref().map(|buffers| buffers.select(sentences));
        Self { buffers, tokens: self.tokens }
    }
}

/// Attention over a memory: `MultiHead(x, M, M)`.
#[derive(Debug)]
pub struct CrossAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: i64,
}

impl CrossAttention {
    /// The attention below `scope`, e.g. `decoder.layer.0.cross_attention`.
    pub fn new(scope: &Scope, heads: usize) -> Self {
        Self {
            query: Linear::new(scope, "query"),
            key: Linear::new(scope, "key"),
            value: Linear::new(scope, "value"),
            output: Linear::new(scope, "output"),
            heads: heads as i64,
        }
    }

    /// The memory `[B, S, E]` as keys and values.
    pub fn key_value(&self, memory: &Tensor) -> KeyValue {
        KeyValue {
            key: split_heads(&self.key.forward(memory), self.heads),
            value: split_heads(&self.value.forward(memory), self.heads),
        }
    }

    /// `[B, T, D]` to `[B, T, D]`, or `[N, D]` of the positions `at` to the same; `mask` is of the
    /// memory's keys, `[B, 1, 1, S]`.
    pub fn forward(
        &self,
        x: &Tensor,
        memory: &KeyValue,
        mask: &Tensor,
        at: Option<&Positions>,
        pass: &Pass,
    ) -> Tensor {
        let query = self.query.forward(x);
        let query = at.map_or_else(|| query.shallow_clone(), |at| at.scatter(&query));
        let query = split_heads(&query, self.heads);
        let attended = attend(&query, &memory.key, &memory.value, mask, 0.0, pass);
        self.output.forward(&Positions::gathered(at, &attended))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_masks_have_the_same_values() {
        for columns in [1, 7, 8, 13] {
            let real = Tensor::arange(3 * columns, (Kind::Int64, Device::Cpu)).remainder(3).gt(0);
            let mask = key_mask(&real.view([3, columns]), Kind::BFloat16);
            for mask in [&mask, &causal_mask(columns, Kind::BFloat16, Device::Cpu)] {
                let aligned = aligned(mask);
                assert_eq!(aligned, *mask);
                assert!(aligned.stride()[..3].iter().all(|stride| stride % ALIGNMENT == 0));
            }
        }
    }
}
