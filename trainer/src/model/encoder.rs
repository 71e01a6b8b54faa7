//! The encoder: a stack of layers that reads, and length prediction.
//!
//! The learned `[LENGTH]` vector is put before the embedded sentence, without position, norm or
//! dropout; its output predicts the target's length and is taken off the memory.

use tch::{Kind, Tensor};

use super::beside::BesideBert;
use super::layer::{Embeddings, EncoderLayer, Reading};
use super::layers::attention::key_mask;
use super::memory::{BertMemory, Encoded};
use super::parameters::Scope;
use super::{Block, Pass, Positions};

/// A stack of layers that reads, perhaps with a length prediction.
#[derive(Debug)]
pub struct Encoder {
    embeddings: Box<dyn Embeddings>,
    layers: Vec<Box<dyn EncoderLayer>>,
    length_embedding: Option<Tensor>, // [classes, D]
    beside: Option<Box<BesideBert>>,
    kind: Kind,
}

impl Encoder {
    /// The stack of these layers, with a length prediction if `scope` has one; computes in `kind`.
    pub fn new(
        scope: &Scope,
        embeddings: impl Embeddings + 'static,
        layers: Vec<Box<dyn EncoderLayer>>,
        kind: Kind,
    ) -> Self {
        let length = "length_embedding.weight";
        let length_embedding = scope.has(length).then(|| scope.get(length));
        Self { embeddings: Box::new(embeddings), layers, length_embedding, beside: None, kind }
    }

    /// This encoder with a BERT beside it.
    pub fn beside(self, bert: BesideBert) -> Self {
        Self { beside: Some(Box::new(bert)), ..self }
    }

    /// Source ids `[B, S]` and which of them are real, booleans `[B, S]`.
    pub fn forward(&self, ids: &Tensor, is_real: &Tensor, pass: &Pass) -> Encoded {
        let embedded = self.embeddings.forward(ids, 0, self.kind, pass); // [B, S, D]
        let mask = key_mask(is_real, self.kind);
        let bert = self.beside.as_ref().map(|bert| bert.forward(ids, is_real, pass));
        let embedded = match (&self.beside, &bert) {
            (Some(beside), Some(bert)) => beside.mix(embedded, bert),
            _ => embedded,
        };
        let Some(table) = &self.length_embedding else {
            let memory = self.layers(embedded, &mask, bert.as_ref(), None, pass);
            return Encoded { memory, mask, bert, length_log_probs: None };
        };
        let (batch, length, width) = embedded.size3().expect("embedded is [B, S, D]");
        let token = table.get(0).to_kind(self.kind).expand([batch, 1, width], false);
        let extended = Tensor::cat(&[token, embedded], 1); // [B, 1 + S, D]
        let seen = mask.narrow(3, 0, 1).zeros_like();
        let extended_mask = Tensor::cat(&[seen, mask.shallow_clone()], 3);
        let hidden = self.layers(extended, &extended_mask, bert.as_ref(), None, pass);
        let logits = hidden.select(1, 0).to_kind(Kind::Float).matmul(&table.transpose(0, 1));
        // A target is never empty: row 0 of the table is the token itself.
        let possible = logits.narrow(1, 1, logits.size()[1] - 1).log_softmax(-1, Kind::Float);
        let never = Tensor::full([batch, 1], f64::NEG_INFINITY, (Kind::Float, possible.device()));
        Encoded {
            memory: hidden.narrow(1, 1, length),
            mask,
            bert,
            length_log_probs: Some(Tensor::cat(&[never, possible], 1)),
        }
    }

    /// Ids `[B, T]`, which of them are real, and their types if not all are 0, to hidden states
    /// `[N, D]` of the positions `at`.
    pub fn predict(
        &self,
        ids: &Tensor,
        is_real: &Tensor,
        types: Option<&Tensor>,
        at: &Positions,
        pass: &Pass,
    ) -> Tensor {
        let embedded = match types {
            Some(types) => self.embeddings.typed(ids, types, self.kind, pass),
            None => self.embeddings.forward(ids, 0, self.kind, pass),
        };
        self.layers(embedded, &key_mask(is_real, self.kind), None, Some(at), pass)
    }

    fn layers(
        &self,
        mut hidden: Tensor,
        mask: &Tensor,
        bert: Option<&BertMemory>,
        at: Option<&Positions>,
        pass: &Pass,
    ) -> Tensor {
        let last = self.layers.len() - 1;
        for (i, layer) in self.layers.iter().enumerate() {
            pass.needs(Block::Encoder(i));
            let at = at.filter(|_| i == last);
            hidden = layer.forward(&hidden, Reading { mask, bert, at, pass });
        }
        hidden
    }
}
