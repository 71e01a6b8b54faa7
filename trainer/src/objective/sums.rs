//! What is added up over micro-batches and ranks beside the gradients.

/// Sums over micro-batches; every rank adds its own to the step's reduction.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sums {
    /// The loss that is minimised.
    pub loss: f64,
    /// Negative log-likelihood of the predicted tokens, in nats.
    pub nll: f64,
    /// Predicted tokens.
    pub predicted: f64,
    /// Negative log-likelihood of the lengths, in nats.
    pub length_nll: f64,
    /// Sentences or passages.
    pub sentences: f64,
    /// What the loss is divided by: target tokens, or predicted tokens for `mlm`.
    pub denominator: f64,
    /// Real tokens, of both sides.
    pub tokens: f64,
    /// Ranks that were asked to stop.
    pub stop: f64,
    /// Ranks that were asked for a checkpoint.
    pub checkpoint: f64,
    /// Ranks that were asked to stop while they waited for data, and left their share out.
    pub given_up: f64,
}

impl Sums {
    /// How many there are.
    pub const COUNT: usize = 10;

    /// In a fixed order.
    pub fn to_array(self) -> [f64; Self::COUNT] {
        let Self { loss, nll, predicted, length_nll, sentences, .. } = self;
        let Self { denominator, tokens, stop, checkpoint, given_up, .. } = self;
        [
            loss,
            nll,
            predicted,
            length_nll,
            sentences,
            denominator,
            tokens,
            stop,
            checkpoint,
            given_up,
        ]
    }

    /// Out of the order of [`Sums::to_array`].
    pub fn from_array(values: [f64; Self::COUNT]) -> Self {
        let [loss, nll, predicted, length_nll, sentences, denominator, tokens, ..] = values;
        let [.., stop, checkpoint, given_up] = values;
        Self {
            loss,
            nll,
            predicted,
            length_nll,
            sentences,
            denominator,
            tokens,
            stop,
            checkpoint,
            given_up,
        }
    }
}

impl std::ops::AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        let (mine, other) = (self.to_array(), other.to_array());
        *self = Self::from_array(std::array::from_fn(|i| mine[i] + other[i]));
    }
}
