//! The encoder: a BERT with adapters behind its layers, or a Transformer; and length prediction.
//!
//! The learned `[LENGTH]` vector is put before the embedded sentence, without position, norm or
//! dropout; its output predicts the target's length and is taken off the memory.

use tandem_config::pretrained::bert::BertConfig;
use tandem_config::schema::model::EncoderAdapters;
use tandem_config::schema::transformer::Transformer;
use tch::{Kind, Tensor};

use super::adapter::Adapter;
use super::attention::key_mask;
use super::bert::{self, BertDropout};
use super::beside::BesideBert;
use super::block::Block;
use super::layer::{Embeddings, Layer};
use super::parameters::Scope;
use super::pass::Pass;
use super::positions::Positions;
use super::self_attention::BertMemory;
use super::switch::Switch;
use super::transformer;

/// What the encoder makes of a batch.
#[derive(Debug)]
pub struct Encoded {
    /// The hidden states of the source tokens, `H_E`: `[B, S, D]`.
    pub memory: Tensor,
    /// The additive mask of padded source tokens: `[B, 1, 1, S]`.
    pub mask: Tensor,
    /// What the BERT that the model has beside it made of them.
    pub bert: Option<BertMemory>,
    /// Log-probabilities of the target's length in tokens: `[B, classes]`, f32.
    pub length_log_probs: Option<Tensor>,
}

/// A stack of layers that reads, perhaps with a length prediction.
#[derive(Debug)]
pub struct Encoder {
    embeddings: Embeddings,
    layers: Vec<(Layer, Option<Adapter>)>,
    length_embedding: Option<Tensor>, // [classes, D]
    beside: Option<Box<BesideBert>>,
    switch: Option<Switch>,
    kind: Kind,
}

impl Encoder {
    /// The BERT below `scope`, with adapters behind some layers; computes in `kind`.
    pub fn bert(
        scope: &Scope,
        config: &BertConfig,
        adapters: Option<&EncoderAdapters>,
        dropout: BertDropout,
        kind: Kind,
    ) -> Self {
        let bert = scope.enter("bert");
        let count = config.num_hidden_layers;
        let layer = |index: usize| {
            let chosen = adapters.is_some_and(|adapters| adapters.layers.contains(index, count));
            let adapter = chosen.then(|| {
                Adapter::new(&scope.enter(&format!("layer.{index}.adapter")), config.layer_norm_eps)
            });
            let scope = bert.enter(&format!("encoder.layer.{index}"));
            (bert::layer(&scope, config, dropout), adapter)
        };
        let embeddings = bert::Embeddings::new(&bert.enter("embeddings"), config, dropout);
        let layers = (0..count).map(layer).collect();
        Self::new(scope, Embeddings::Bert(embeddings), layers, kind)
    }

    /// The Transformer below `scope`; computes in `kind`.
    pub fn transformer(scope: &Scope, config: &Transformer, kind: Kind) -> Self {
        let layer = |index: usize| {
            let scope = scope.enter(&format!("layer.{index}"));
            (transformer::encoder_layer(&scope, config), None)
        };
        let embeddings = transformer::Embeddings::new(&scope.enter("embeddings"), config);
        let layers = (0..config.layers).map(layer).collect();
        Self::new(scope, Embeddings::Transformer(embeddings), layers, kind)
    }

    fn new(
        scope: &Scope,
        embeddings: Embeddings,
        layers: Vec<(Layer, Option<Adapter>)>,
        kind: Kind,
    ) -> Self {
        let length = "length_embedding.weight";
        let length_embedding = scope.has(length).then(|| scope.get(length));
        let switch = scope.has("switch.own.weight").then(|| Switch::new(&scope.enter("switch")));
        Self { embeddings, layers, length_embedding, beside: None, switch, kind }
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
        let embedded = match (&self.switch, &bert) {
            (Some(switch), Some(bert)) => switch.forward(&bert.hidden, &embedded),
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
        for (i, (layer, adapter)) in self.layers.iter().enumerate() {
            pass.needs(Block::Encoder(i));
            let at = at.filter(|_| i == last);
            hidden = layer.forward(&hidden, mask, None, bert, at, pass);
            if let Some(adapter) = adapter {
                hidden = adapter.forward(&hidden);
            }
        }
        hidden
    }
}
