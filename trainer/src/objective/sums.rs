//! What is summed over micro-batches and ranks in addition to the gradients.

use tch::{Kind, Tensor};

/// The struct of sums of these names, which are in the same order in its array.
macro_rules! sums {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Sums over micro-batches; every rank adds its own to the step's reduction.
        #[derive(Debug, Clone, Copy, Default, PartialEq)]
        pub struct Sums {
            $($(#[$doc])* pub $name: f64,)*
        }

        impl Sums {
            /// How many there are.
            pub const COUNT: usize = [$(stringify!($name)),*].len();

            /// In a fixed order.
            pub fn to_array(self) -> [f64; Self::COUNT] {
                [$(self.$name),*]
            }

            /// As f32, in the order of [`Sums::to_array`].
            pub fn to_tensor(self) -> Tensor {
                Tensor::from_slice(&self.to_array()).to_kind(Kind::Float)
            }

            /// Out of the order of [`Sums::to_array`].
            pub fn from_array([$($name),*]: [f64; Self::COUNT]) -> Self {
                Self { $($name),* }
            }
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

impl std::ops::AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        let (mine, other) = (self.to_array(), other.to_array());
        *self = Self::from_array(std::array::from_fn(|i| mine[i] + other[i]));
    }
}
