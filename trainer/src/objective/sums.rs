//! What is summed over micro-batches and ranks in addition to the gradients.

use tch::{Device, Kind, Tensor, no_grad};

use crate::device::transfer::to_device;

/// The struct of sums of these names, which are in the same order in its array.
macro_rules! sums {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Sums over micro-batches; every rank adds its own to the step's reduction. Numbers, or the
        /// places of a tensor that hold them.
        #[derive(Debug, Clone, Copy, Default, PartialEq)]
        pub struct Sums<T = f64> {
            $($(#[$doc])* pub $name: T,)*
        }

        impl<T> Sums<T> {
            /// In a fixed order.
            pub fn to_array(self) -> [T; Sums::COUNT] {
                [$(self.$name),*]
            }

            /// Out of the order of [`Sums::to_array`].
            pub fn from_array([$($name),*]: [T; Sums::COUNT]) -> Self {
                Self { $($name),* }
            }
        }

        impl Sums {
            /// How many there are.
            pub const COUNT: usize = [$(stringify!($name)),*].len();
        }
    };
}

sums! {
    /// Ranks with a gradient that is not finite. The reducer counts them, so it must come first.
    not_finite,
    /// The loss that is minimised.
    loss,
    /// Negative log-likelihood of the predicted tokens, in nats.
    nll,
    /// Cross-entropy of a teacher's soft labels, in nats.
    soft_nll,
    /// Predicted tokens.
    predicted,
    /// Negative log-likelihood of the lengths, in nats.
    length_nll,
    /// Squared distances between the encoder's output and a BERT's.
    distillation,
    /// Source tokens.
    source_tokens,
    /// Sentences or passages.
    sentences,
    /// What the loss is divided by: target tokens, or predicted tokens for `mlm`.
    denominator,
    /// Real tokens, of both sides.
    tokens,
    /// Ranks that were asked to stop.
    stop,
    /// Ranks that were asked for a checkpoint.
    checkpoint,
    /// Ranks that were asked to stop while they waited for data, and left their share out.
    given_up,
}

impl Sums {
    /// In the order of [`Sums::to_array`]: `[COUNT]`.
    pub fn to_tensor(self, kind: Kind, device: Device) -> Tensor {
        if kind == Kind::Float {
            return to_device(&self.to_array().map(|sum| sum as f32), device);
        }
        to_device(&self.to_array(), device).to_kind(kind)
    }

    /// Out of the values of a tensor `[COUNT]`.
    pub fn from_slice(values: &[f64]) -> Self {
        Self::from_array(std::array::from_fn(|index| values[index]))
    }
}

impl Sums<Tensor> {
    /// The places of a tensor `[COUNT]`.
    pub fn of(tensor: &Tensor) -> Self {
        let mut places = tensor.unbind(0).into_iter();
        Self::from_array(std::array::from_fn(|_| places.next().expect("a place for each sum")))
    }
}

impl std::ops::AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        let (mine, other) = (self.to_array(), other.to_array());
        *self = Self::from_array(std::array::from_fn(|i| mine[i] + other[i]));
    }
}

/// Those sums of a micro-batch that its forward pass computes: scalars in f32 or f64, which stay on its
/// device.
#[derive(Debug)]
pub struct Losses {
    /// [`Sums::loss`].
    pub loss: Tensor,
    /// [`Sums::nll`].
    pub nll: Tensor,
    /// [`Sums::soft_nll`].
    pub soft_nll: Option<Tensor>,
    /// [`Sums::length_nll`].
    pub length_nll: Option<Tensor>,
    /// [`Sums::distillation`].
    pub distillation: Option<Tensor>,
}

impl Losses {
    /// Of predicted tokens alone.
    pub fn new(loss: Tensor, nll: Tensor) -> Self {
        Self { loss, nll, soft_nll: None, length_nll: None, distillation: None }
    }

    /// All sums of a micro-batch, the others being `counts`: `[COUNT]`, on the device.
    pub fn with(&self, counts: Sums, kind: Kind) -> Tensor {
        let all = counts.to_tensor(kind, self.loss.device());
        let places = Sums::of(&all);
        let known = [(places.loss, Some(&self.loss)), (places.nll, Some(&self.nll))];
        let others = [
            (places.soft_nll, self.soft_nll.as_ref()),
            (places.length_nll, self.length_nll.as_ref()),
            (places.distillation, self.distillation.as_ref()),
        ];
        for (mut place, value) in known.into_iter().chain(others) {
            if let Some(value) = value {
                no_grad(|| place.copy_(value));
            }
        }
        all
    }
}
