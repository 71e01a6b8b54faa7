//! The predicted positions: the last layer and the LM head work on no others.

use tch::Tensor;

/// N positions of `[B, T]`, sorted.
#[derive(Debug)]
pub struct Positions {
    flat: Tensor, // [N]
    batch: i64,
    length: i64,
}

impl Positions {
    /// Positions as indices `[N]` into the flattened `ids` `[B, T]`.
    pub fn new(flat: &Tensor, ids: &Tensor) -> Self {
        let (batch, length) = ids.size2().expect("ids are [B, T]");
        Self { flat: flat.shallow_clone(), batch, length }
    }

    /// `[B, T, D]` to `[N, D]`.
    pub fn gather(&self, x: &Tensor) -> Tensor {
        x.reshape([self.batch * self.length, -1]).index_select(0, &self.flat)
    }

    /// The same of the positions `at`; `x` itself where there are none.
    pub fn gathered(at: Option<&Self>, x: &Tensor) -> Tensor {
        at.map_or_else(|| x.shallow_clone(), |at| at.gather(x))
    }

    /// `[N, D]` to `[B, T, D]`, zero elsewhere.
    pub fn scatter(&self, x: &Tensor) -> Tensor {
        let width = x.size()[1];
        let zeros = Tensor::zeros([self.batch * self.length, width], (x.kind(), x.device()));
        zeros.index_copy(0, &self.flat, x).view([self.batch, self.length, width])
    }
}
