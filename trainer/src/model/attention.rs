//! Scaled dot-product attention over several heads.

use tch::{Device, Kind, Tensor};

use super::pass::Pass;

/// What is added to the scores of padded keys: after softmax exactly 0 in f32, as in BERT.
const MASKED: f64 = -10000.0;

/// The fused kernel wants rows of so many elements, or of a multiple.
const ALIGNMENT: i64 = 8;

/// The additive mask `[B, 1, 1, S]` of keys that are not real, from booleans `[B, S]`.
pub fn key_mask(is_real: &Tensor, kind: Kind) -> Tensor {
    (is_real.logical_not().to_kind(kind) * MASKED).unsqueeze(1).unsqueeze(1)
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
}

/// `[B, T, D]` as `[B, H, T, D / H]`.
pub fn split_heads(x: &Tensor, heads: i64) -> Tensor {
    let (batch, length, width) = x.size3().expect("attention takes three dimensions");
    x.view([batch, length, heads, width / heads]).transpose(1, 2)
}

/// `softmax(q · kᵀ / √d + mask) · v`: `[B, H, T, d]` queries to `[B, T, D]`.
pub fn attend(
    query: &Tensor, // [B, H, T, d]
    key: &Tensor,   // [B, H, S, d]
    value: &Tensor, // [B, H, S, d]
    mask: &Tensor,  // [B, 1, 1, S] or [1, 1, T, S]
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
