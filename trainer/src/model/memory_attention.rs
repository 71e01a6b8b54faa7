//! Attention over a memory: `MultiHead(x, M, M)`, without a residual connection.
//!
//! Shapes: E is the memory's width.

use tch::Tensor;

use super::attention::{KeyValue, attend, split_heads};
use super::layers::Linear;
use super::parameters::Scope;
use super::pass::Pass;
use super::positions::Positions;

/// One attention.
#[derive(Debug)]
pub struct MemoryAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: i64,
}

impl MemoryAttention {
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
    /// memory's keys.
    pub fn forward(
        &self,
        x: &Tensor,
        memory: &KeyValue,
        mask: &Tensor,
        at: Option<&Positions>,
        pass: &Pass,
    ) -> Tensor {
        let query = self.query.forward(x);
        let query =
            split_heads(&at.map_or(query.shallow_clone(), |at| at.scatter(&query)), self.heads);
        let attended = attend(&query, &memory.key, &memory.value, mask, 0.0, pass);
        let attended = at.map_or(attended.shallow_clone(), |at| at.gather(&attended));
        self.output.forward(&attended)
    }
}
