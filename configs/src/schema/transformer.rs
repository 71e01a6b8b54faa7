//! One side as a Transformer that starts from random weights.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::vocabulary::Vocabulary;

/// An encoder or decoder as in "Attention Is All You Need" (Vaswani et al. 2017).
///
/// A norm stands behind each block (post-norm), as in the paper and in fairseq's `transformer`;
/// the decoder's output layer is its own word embeddings, without bias.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Transformer {
    /// Number of layers; 6 in the paper's base and big.
    #[schemars(range(min = 1, max = 128))]
    pub layers: usize,
    /// Width of the hidden states; 512 in base, 1024 in big.
    #[schemars(range(min = 2))]
    pub hidden: usize,
    /// Attention heads; must divide `hidden`. 8 in base, 16 in big.
    #[schemars(range(min = 1))]
    pub heads: usize,
    /// Width of the feed-forward layers; 2048 in base, 4096 in big.
    #[schemars(range(min = 1))]
    pub feed_forward: usize,
    /// Dropout on embeddings and on the output of each block.
    #[serde(default = "tenth")]
    #[schemars(range(min = 0.0, max = 0.99))]
    pub dropout: f64,
    /// How a token's position is told.
    #[serde(default)]
    pub positions: Positions,
    /// Number of positions: the longest sentence in tokens.
    #[serde(default = "max_length")]
    #[schemars(range(min = 2))]
    pub max_length: usize,
    /// Where its WordPiece vocabulary comes from.
    pub vocabulary: Vocabulary,
    /// A frozen BERT that every layer looks at, beside its own attention (BERT-Fused).
    pub bert_fused: Option<BertFused>,
    /// A BERT that the encoder is trained together with (CT-NMT); only for the encoder.
    pub ct_nmt: Option<CtNmt>,
}

/// A frozen BERT that reads the source, and an attention over its output in every layer (Zhu et al.
/// 2020).
///
/// It reads the same ids as the encoder, which has its vocabulary, behind a `[CLS]`, as in the released
/// code; where both sides are fused, it is one BERT. Its dropout while training is what its config.json
/// says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BertFused {
    /// A Hugging Face folder, or a model's name on the hub.
    pub pretrained: String,
    /// How often one of a layer's two attentions is left out while training; 1 is the paper's
    /// setting, and 0.5 of the released code's flag.
    #[serde(default = "one")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub drop_net: f64,
}

/// How a token's position is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// By sines and cosines of the position, which are not trained.
    #[default]
    Sinusoidal,
    /// By a trained vector for each position.
    Learned,
}

/// CT-NMT's concerted training (Yang et al. 2020): a BERT that reads the source, and an encoder of its
/// width that uses it and learns to do without.
///
/// It reads the same ids as the encoder, which has its vocabulary, behind a `[CLS]`, as in the released
/// code; there the encoder has that token too, and here it goes without. Its dropout while training is
/// what its config.json says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CtNmt {
    /// A Hugging Face folder, or a model's name on the hub.
    pub pretrained: String,
    /// Whether what goes into the encoder's layers is `g · B + (1 − g) · E` with
    /// `g = σ(W · B + U · E + b)`: B is the BERT's output, E are the encoder's own embeddings.
    #[serde(default = "yes")]
    pub dynamic_switch: bool,
    /// Asymptotic distillation: the loss is `(1 − this) · words + this · |encoder's output − B|²`.
    /// Words are an average over target tokens, and squared distances, sums over the width, one over
    /// source tokens, as in the released code. 0.1 in the paper, 0.01 in that code.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub distillation: f64,
    /// When the BERT itself is tuned; by default it stays frozen.
    pub rate: Option<RateSchedule>,
}

/// The share of the learning rate that a BERT is tuned with: it rises from 0 to 1, falls to 0 again,
/// and stays there.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateSchedule {
    /// The step at which it is 1; 10,000 in the paper.
    #[schemars(range(min = 1))]
    pub peak: u64,
    /// The step from which on it is 0; 20,000 in the released code.
    #[schemars(range(min = 1))]
    pub end: u64,
}

/// A BERT that reads the source beside the encoder, whichever system uses it.
#[derive(Debug, Clone, PartialEq)]
pub struct Beside {
    /// A Hugging Face folder, or a model's name on the hub.
    pub pretrained: String,
    /// How it stands to the Transformer, for people.
    pub relation: &'static str,
    /// Whether its state of `[CLS]` is used too. It cannot be where its states are mixed or compared with
    /// those of the encoder, which has no such token.
    pub keeps_cls: bool,
    /// The weight in the loss of the distance between its output and the encoder's.
    pub distillation: f64,
    /// When it is tuned itself; none for a frozen one.
    pub rate: Option<RateSchedule>,
}

impl From<&BertFused> for Beside {
    fn from(fused: &BertFused) -> Self {
        Self {
            pretrained: fused.pretrained.clone(),
            relation: "fused with",
            keeps_cls: true,
            distillation: 0.0,
            rate: None,
        }
    }
}

impl From<&CtNmt> for Beside {
    fn from(ct_nmt: &CtNmt) -> Self {
        Self {
            pretrained: ct_nmt.pretrained.clone(),
            relation: "trained together with",
            keeps_cls: false,
            distillation: ct_nmt.distillation,
            rate: ct_nmt.rate,
        }
    }
}

impl Transformer {
    /// The BERTs that it has beside it, each with its key.
    pub fn besides(&self) -> impl Iterator<Item = (&'static str, Beside)> + use<> {
        let fused = self.bert_fused.as_ref().map(|fused| ("bert_fused", fused.into()));
        let ct_nmt = self.ct_nmt.as_ref().map(|ct_nmt| ("ct_nmt", ct_nmt.into()));
        fused.into_iter().chain(ct_nmt)
    }

    /// Whether its layers have an attention over a BERT.
    pub fn attends_to_bert(&self) -> bool {
        self.bert_fused.is_some()
    }

    /// Whether a gate mixes a BERT's output into its embeddings.
    pub fn has_switch(&self) -> bool {
        self.ct_nmt.as_ref().is_some_and(|ct_nmt| ct_nmt.dynamic_switch)
    }

    /// The names or folders of the pre-trained models that it names.
    pub(crate) fn pretrained_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let fused = self.bert_fused.as_mut().map(|fused| &mut fused.pretrained);
        let ct_nmt = self.ct_nmt.as_mut().map(|ct_nmt| &mut ct_nmt.pretrained);
        let vocabulary = match &mut self.vocabulary {
            Vocabulary::Bert(name) => Some(name),
            Vocabulary::File { .. } | Vocabulary::Learn { .. } => None,
        };
        [fused, ct_nmt, vocabulary].into_iter().flatten()
    }
}

fn yes() -> bool {
    true
}

fn one() -> f64 {
    1.0
}

fn tenth() -> f64 {
    0.1
}

fn max_length() -> usize {
    512
}
