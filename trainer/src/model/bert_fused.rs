//! BERT-Fused (Zhu et al. 2020): a second attention, over what a frozen BERT made of the source,
//! beside a Transformer's own: `LN(x + r1 · dropout(own) + r2 · dropout(MultiHead(x, B, B)))`.
//!
//! Both shares are 1/2, but for drop-net (section 3.3): while training, with probability p/2 each,
//! one of the two is left out and the other one counts whole.

use tandem_config::schema::transformer::BertFused as Config;
use tch::Tensor;

use super::memory_attention::MemoryAttention;
use super::parameters::Scope;
use super::pass::Pass;
use super::residual::Residual;

/// The attention over a BERT's output, in one layer.
#[derive(Debug)]
pub struct BertFused {
    /// The attention.
    pub attention: MemoryAttention,
    drop_net: f64,
}

impl BertFused {
    /// The attention of the layer below `scope`, e.g. `encoder.layer.0`.
    pub fn new(scope: &Scope, config: &Config, heads: usize) -> Self {
        let attention = MemoryAttention::new(&scope.enter("bert_attention"), heads);
        Self { attention, drop_net: config.drop_net }
    }

    /// The block's input, its own attention's output and that of this one, all `[.., D]`, to
    /// `[.., D]`.
    pub fn add(
        &self,
        x: &Tensor,
        own: &Tensor,
        bert: &Tensor,
        residual: &Residual,
        pass: &Pass,
    ) -> Tensor {
        let (own_share, bert_share) = pass.drop_net(self.drop_net);
        let sum = pass.dropout_add(&(own * own_share), x, residual.dropout);
        residual.forward(&sum, &(bert * bert_share), pass)
    }
}
