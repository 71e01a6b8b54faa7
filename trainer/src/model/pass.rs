//! One forward pass: training or not, where its dropout masks come from, and what it waits for.

use std::cell::RefCell;

use tch::{Kind, Tensor};

use super::block::Block;
use crate::device::native;
use crate::random::Rng;

/// One forward pass.
///
/// Dropout masks are counted, not drawn: the n-th mask of a pass is a function of the n-th number
/// of the pass's own random stream, so that nothing depends on what was computed before.
pub struct Pass<'a> {
    masks: Option<RefCell<Rng>>,
    weights: Option<&'a dyn Fn(Block)>,
}

impl<'a> Pass<'a> {
    /// A pass without dropout.
    pub fn eval() -> Self {
        Self { masks: None, weights: None }
    }

    /// A pass with dropout, its masks determined by `random`.
    pub fn train(mut random: Rng) -> Self {
        tch::manual_seed(random.bits() as i64); // for devices without kernels of ours
        Self { masks: Some(RefCell::new(random)), weights: None }
    }

    /// This pass, which calls `weights` before it uses a block's: they may change until then.
    pub fn after(self, weights: &'a dyn Fn(Block)) -> Self {
        Self { weights: Some(weights), ..self }
    }

    /// A pass over the same weights without dropout.
    pub fn without_dropout(&self) -> Self {
        Self { masks: None, weights: self.weights }
    }

    /// From here on the pass uses this block's weights.
    pub fn needs(&self, block: Block) {
        if let Some(weights) = self.weights {
            weights(block);
        }
    }

    /// The seed of the next mask; none if nothing is to be zeroed.
    fn mask(&self, probability: f64) -> Option<u64> {
        let masks = self.masks.as_ref().filter(|_| probability > 0.0)?;
        Some(masks.borrow_mut().bits())
    }

    /// The shares of a layer's own attention and of that over a BERT: one of them is 0 with
    /// `probability` while training, each as often, and else both are 1/2.
    pub fn drop_net(&self, probability: f64) -> (f64, f64) {
        let Some(masks) = &self.masks else { return (0.5, 0.5) };
        let drawn = masks.borrow_mut().uniform();
        if drawn < probability / 2.0 {
            (1.0, 0.0)
        } else if drawn > 1.0 - probability / 2.0 {
            (0.0, 1.0)
        } else {
            (0.5, 0.5)
        }
    }

    /// `x` with elements zeroed with `probability` and the others scaled up; in training only.
    pub fn dropout(&self, x: Tensor, probability: f64) -> Tensor {
        match self.mask(probability) {
            None => x,
            Some(seed) if native::has_kernels(&x) => native::dropout(&x, None, probability, seed),
            Some(_) => x.dropout(probability, true),
        }
    }

    /// `residual + dropout(x)`.
    pub fn dropout_add(&self, x: &Tensor, residual: &Tensor, probability: f64) -> Tensor {
        match self.mask(probability) {
            None => x + residual,
            Some(seed) if native::has_kernels(x) => {
                native::dropout(x, Some(residual), probability, seed)
            }
            Some(_) => x.dropout(probability, true) + residual,
        }
    }

    /// `dropout(softmax(q · kᵀ / √d + mask)) · v` in one kernel, which keeps no scores: `[B, H, T, d]`
    /// queries, `[B, H, S, d]` keys and values, to `[B, H, T, d]`. The mask broadcasts to
    /// `[B, H, T, S]`.
    pub fn fused_attention(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        mask: &Tensor,
        probability: f64,
    ) -> Tensor {
        // The mask is determined by the pass's seed, as that of other kernels of libtorch's.
        let probability = self.mask(probability).map_or(0.0, |_| probability);
        let (batch, heads, queries, _) = query.size4().expect("queries have four dimensions");
        let mask = mask.expand([batch, heads, queries, key.size()[2]], false);
        let (attended, ..) = Tensor::internal_scaled_dot_product_efficient_attention(
            query,
            key,
            value,
            Some(&mask),
            query.requires_grad() || key.requires_grad() || value.requires_grad(),
            probability,
            false,
            None,
        );
        attended
    }

    /// `dropout(softmax(scale · scores + mask))`: scores `[B, H, T, S]`, an additive mask that
    /// broadcasts over the heads.
    pub fn attention_weights(
        &self,
        scores: &Tensor,
        mask: &Tensor,
        scale: f64,
        probability: f64,
    ) -> Tensor {
        let seed = self.mask(probability);
        if native::has_kernels(scores) {
            let probability = if seed.is_some() { probability } else { 0.0 };
            let seed = seed.unwrap_or_default();
            return native::attention_weights(scores, mask, scale, probability, seed);
        }
        let weights = (scores * scale + mask).softmax(-1, None::<Kind>);
        if seed.is_some() { weights.dropout(probability, true) } else { weights }
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::random::{Purpose, stream};

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

    fn pass(step: u64) -> Pass<'static> {
        Pass::train(stream(1, Purpose::Dropout, &[step]))
    }

    fn gradient(of: &Tensor, leaf: &Tensor) -> Tensor {
        Tensor::run_backward(&[of.sum(Kind::Float)], &[leaf], true, false).remove(0)
    }

    #[test]
    fn dropout_zeroes_that_share_and_keeps_the_mean() {
        let ones = Tensor::ones([1000, 300], CPU).set_requires_grad(true);
        let pass = pass(1);
        let found = pass.dropout(ones.shallow_clone(), 0.1);
        assert!((found.mean(Kind::Float).double_value(&[]) - 1.0).abs() < 3e-3);
        let kept = found.gt(0.0).to_kind(Kind::Float) / 0.9;
        assert!(found.allclose(&kept, 1e-6, 0.0, false));
        assert!(gradient(&found, &ones).equal(&found), "backward takes the same mask");
        let next = pass.dropout(ones.shallow_clone(), 0.1);
        let both = found.eq(0.0).logical_and(&next.eq(0.0)).to_kind(Kind::Float);
        let share = both.mean(Kind::Float).double_value(&[]);
        assert!((share - 0.01).abs() < 1e-3, "masks of one pass are independent: {share}");
        let again = self::pass(1).dropout(ones.shallow_clone(), 0.1);
        assert!(again.equal(&found), "the same stream gives the same masks");
    }

    #[test]
    fn drop_net_leaves_either_attention_out_with_its_probability() {
        let pass = pass(1);
        let mut counts = [0; 3];
        for _ in 0..4000 {
            match pass.drop_net(0.4) {
                (1.0, 0.0) => counts[0] += 1,
                (0.0, 1.0) => counts[1] += 1,
                both => {
                    assert_eq!(both, (0.5, 0.5));
                    counts[2] += 1;
                }
            }
        }
        // 0.2, 0.2 and 0.6 of 4000, within four standard deviations.
        for (count, expected) in counts.into_iter().zip([800, 800, 2400]) {
            assert!(i32::abs(count - expected) < 125, "{counts:?}");
        }
        assert!((0..100).all(|_| pass.drop_net(1.0) != (0.5, 0.5)));
        assert_eq!(Pass::eval().drop_net(1.0), (0.5, 0.5));
    }

    #[test]
    fn the_residual_is_added_and_gets_the_whole_gradient() {
        let x = Tensor::ones([50, 40], CPU).set_requires_grad(true);
        let residual = Tensor::full([50, 40], 7.0, CPU).set_requires_grad(true);
        let sum = pass(1).dropout_add(&x, &residual, 0.5);
        let alone = pass(1).dropout(x.shallow_clone(), 0.5);
        assert!(sum.allclose(&(&alone + &residual), 1e-6, 0.0, false));
        assert!(gradient(&sum, &x).equal(&alone));
        assert!(gradient(&sum, &residual).equal(&Tensor::ones([50, 40], CPU)));
    }

    #[test]
    fn attention_weights_and_their_gradient_are_libtorchs() {
        tch::manual_seed(1);
        let scores = Tensor::randn([2, 3, 5, 7], CPU).set_requires_grad(true);
        let padding = Tensor::from_slice(&[0f32, 0., 0., 0., 0., -10000., -10000.]);
        let causal = Tensor::full([5, 7], -10000.0, CPU).triu(1);
        let values = Tensor::randn([2, 3, 5, 7], CPU);
        for mask in [padding.view([1, 1, 1, 7]), causal.view([1, 1, 5, 7])] {
            let found = Pass::eval().attention_weights(&scores, &mask, 0.3, 0.5);
            let expected = (&scores * 0.3 + &mask).softmax(-1, None::<Kind>);
            assert!(found.allclose(&expected, 1e-6, 1e-7, false));
            let (ours, theirs) = (found * &values, expected * &values);
            assert!(gradient(&ours, &scores).allclose(
                &gradient(&theirs, &scores),
                1e-5,
                1e-6,
                false
            ));
        }
    }

    #[test]
    fn dropped_attention_weights_have_the_gradient_of_what_was_kept() {
        let scores = Tensor::randn([2, 2, 40, 30], CPU).set_requires_grad(true);
        let mask = Tensor::zeros([1, 1, 1, 30], CPU);
        let found = pass(3).attention_weights(&scores, &mask, 1.0, 0.25);
        let kept = found.ne(0.0).to_kind(Kind::Float) / 0.75;
        let expected = scores.softmax(-1, None::<Kind>) * &kept;
        assert!(found.allclose(&expected, 1e-5, 1e-7, false));
        let weight = Tensor::randn([2, 2, 40, 30], CPU);
        let (ours, theirs) = (found * &weight, expected * weight);
        assert!(gradient(&ours, &scores).allclose(&gradient(&theirs, &scores), 1e-4, 1e-6, false));
    }
}
