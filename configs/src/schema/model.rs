//! The model as a composition: an encoder, a decoder, an objective.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::soft_labels::SoftLabels;
use crate::schema::transformer::{Beside, Transformer};

pub use crate::schema::vocabulary::Vocabulary;

/// The model as a composition: an encoder, a decoder, an objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Reads the source.
    pub encoder: Encoder,
    /// Writes the target. Absent for the `mlm` objective, which trains an encoder alone.
    pub decoder: Option<Decoder>,
    /// What the model is trained for.
    pub objective: Objective,
    /// A trained run's folder, an exported model's, or a run file, which is launched first as a run of its
    /// own: what it trained is where this model's weights of the same names start; the others start as
    /// ever. All of its trained weights must be there in the same shape.
    pub init: Option<PathBuf>,
}

/// Reads the source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Encoder {
    /// A BERT, with bottleneck adapters behind its layers (Guo et al. 2020, equation 5).
    Bert(BertEncoder),
    /// A Transformer, trained from random weights.
    Transformer(Transformer),
}

/// Writes the target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Decoder {
    /// A BERT, with cross-attention adapters behind its layers (Guo et al. 2020, equation 6). With
    /// the autoregressive objective it has a causal mask, which it was not pre-trained with.
    Bert(PretrainedDecoder),
    /// A Transformer, trained from random weights.
    Transformer(Transformer),
    /// A GPT-2, with cross-attention adapters inside its layers; for the autoregressive objective,
    /// which it was pre-trained with.
    Gpt2(PretrainedDecoder),
}

/// A BERT that reads the source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BertEncoder {
    /// A Hugging Face folder, or a model's name on the hub, of a BERT or of what is one by another name:
    /// RoBERTa, XLM-R, CamemBERT. Either this or `new`.
    pub pretrained: Option<String>,
    /// The shape of a BERT that does not exist yet. Either this or `pretrained`.
    pub new: Option<NewBert>,
    /// Which weights are trained.
    #[serde(default)]
    pub train: Train,
    /// The bottleneck adapters; none for the `mlm` objective.
    pub adapters: Option<EncoderAdapters>,
    /// Dropout inside the BERT while training; by default what its config.json says.
    #[schemars(range(min = 0.0, max = 0.99))]
    pub dropout: Option<f64>,
}

/// A pre-trained model that writes the target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PretrainedDecoder {
    /// A Hugging Face folder, or a model's name on the hub.
    pub pretrained: String,
    /// Which weights are trained.
    #[serde(default)]
    pub train: Train,
    /// The cross-attention adapters. Without them the decoder never sees the source.
    pub cross_attention: Option<CrossAttention>,
    /// Dropout inside the model while training; by default what its config.json says.
    #[schemars(range(min = 0.0, max = 0.99))]
    pub dropout: Option<f64>,
}

/// The shape of a BERT that does not exist yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBert {
    /// Number of layers.
    #[schemars(range(min = 1, max = 128))]
    pub layers: usize,
    /// Width of the hidden states.
    #[schemars(range(min = 1))]
    pub hidden: usize,
    /// Attention heads; must divide `hidden`.
    #[schemars(range(min = 1))]
    pub heads: usize,
    /// Width of the feed-forward layers.
    #[schemars(range(min = 1))]
    pub feed_forward: usize,
    /// Number of positions: the longest input in tokens.
    #[serde(default = "positions")]
    #[schemars(range(min = 2))]
    pub positions: usize,
    /// Dropout, written to its config.json.
    #[serde(default = "tenth")]
    #[schemars(range(min = 0.0, max = 0.99))]
    pub dropout: f64,
    /// Precision of the weights in the exported folder.
    #[serde(default)]
    pub export: Stored,
    /// Where its WordPiece vocabulary comes from.
    pub vocabulary: Vocabulary,
}

/// Precision of the weights in an exported folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stored {
    /// 32-bit floats.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
}

/// Which weights of one side are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Train {
    /// The adapters; the BERT stays frozen (AB-Net).
    #[default]
    Adapters,
    /// Everything, starting from the pre-trained BERT (AB-Net FB).
    All,
    /// Everything, starting from random weights (AB-Net SC).
    Scratch,
    /// Nothing: the BERT stays as it is, without adapters (ablations of AB-Net).
    Frozen,
}

/// `A(h) = h + W2 · ReLU(W1 · LN(h))` behind each chosen layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EncoderAdapters {
    /// Width of the bottleneck; the paper has 2048 for WMT and 512 for IWSLT.
    #[schemars(range(min = 1))]
    pub dim: usize,
    /// Which layers have one.
    #[serde(default)]
    pub layers: Layers,
}

/// `LN(x + dropout(MultiHead(x, H_E, H_E)))` behind each chosen layer.
///
/// GPT-2's layers have their norms first. There it is `x + dropout(MultiHead(LN(x), H_E, H_E))`,
/// between a layer's self-attention and its feed-forward block, as in transformers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CrossAttention {
    /// Attention heads; must divide the decoder's width.
    #[schemars(range(min = 1))]
    pub heads: usize,
    /// Width of a feed-forward layer behind the attention; 0 for none, the paper's form. The
    /// released code has 512 for IWSLT and 2048 for WMT. Not in GPT-2, which has its own.
    #[serde(default)]
    pub feed_forward: usize,
    /// Which layers have one.
    #[serde(default)]
    pub layers: Layers,
    /// Dropout on the adapters' outputs while training.
    #[serde(default = "tenth")]
    #[schemars(range(min = 0.0, max = 0.99))]
    pub dropout: f64,
}

impl Model {
    /// The BERTs that read the source beside the encoder, each with the path of its section; valid
    /// configs have one BERT.
    pub fn besides(&self) -> Vec<(String, Beside)> {
        let encoder = self.encoder.transformer();
        let decoder = self.decoder.as_ref().and_then(Decoder::transformer);
        let mut besides = Vec::new();
        for (side, transformer) in [("encoder", encoder), ("decoder", decoder)] {
            for (key, beside) in transformer.into_iter().flat_map(Transformer::besides) {
                besides.push((format!("model.{side}.transformer.{key}"), beside));
            }
        }
        besides
    }

    /// Whether the two sides of a pair are one row for the model: `[CLS] source [SEP] target [SEP]`.
    pub fn joins_pairs(&self) -> bool {
        matches!(&self.objective, Objective::Mlm(mlm) if mlm.conditional)
    }

    /// The BERT whose soft labels the model learns from.
    pub fn soft_labels(&self) -> Option<&SoftLabels> {
        match &self.objective {
            Objective::Autoregressive(objective) => objective.soft_labels.as_ref(),
            Objective::Masked(_) | Objective::Ctc(_) | Objective::Mlm(_) => None,
        }
    }

    /// The BERT whose soft labels the model learns from, to be changed.
    pub fn soft_labels_mut(&mut self) -> Option<&mut SoftLabels> {
        match &mut self.objective {
            Objective::Autoregressive(objective) => objective.soft_labels.as_mut(),
            Objective::Masked(_) | Objective::Ctc(_) | Objective::Mlm(_) => None,
        }
    }

    /// The names or folders of all pre-trained models: of their weights, or of a vocabulary alone.
    pub fn pretrained_mut(&mut self) -> Vec<&mut String> {
        let mut names = Vec::new();
        if let Objective::Autoregressive(objective) = &mut self.objective
            && let Some(labels) = &mut objective.soft_labels
        {
            names.extend(&mut labels.pretrained);
        }
        match &mut self.encoder {
            Encoder::Bert(encoder) => names.extend(&mut encoder.pretrained),
            Encoder::Transformer(transformer) => names.extend(transformer.pretrained_mut()),
        }
        match &mut self.decoder {
            Some(Decoder::Transformer(transformer)) => names.extend(transformer.pretrained_mut()),
            Some(Decoder::Bert(decoder) | Decoder::Gpt2(decoder)) => {
                names.push(&mut decoder.pretrained);
            }
            None => {}
        }
        names
    }

    /// The vocabularies that belong to no pre-trained model.
    pub fn vocabularies_mut(&mut self) -> impl Iterator<Item = &mut Vocabulary> {
        let encoder = match &mut self.encoder {
            Encoder::Bert(encoder) => encoder.new.as_mut().map(|new| &mut new.vocabulary),
            Encoder::Transformer(transformer) => Some(&mut transformer.vocabulary),
        };
        let decoder = match &mut self.decoder {
            Some(Decoder::Transformer(transformer)) => Some(&mut transformer.vocabulary),
            _ => None,
        };
        [encoder, decoder].into_iter().flatten()
    }
}

impl Encoder {
    /// The Transformer, if it is one.
    pub fn transformer(&self) -> Option<&Transformer> {
        match self {
            Self::Transformer(transformer) => Some(transformer),
            Self::Bert(_) => None,
        }
    }

    /// A vocabulary that belongs to no pre-trained model.
    pub fn vocabulary(&self) -> Option<&Vocabulary> {
        match self {
            Self::Bert(bert) => bert.new.as_ref().map(|new| &new.vocabulary),
            Self::Transformer(transformer) => Some(&transformer.vocabulary),
        }
    }
}

impl Decoder {
    /// The Transformer, if it is one.
    pub fn transformer(&self) -> Option<&Transformer> {
        match self {
            Self::Transformer(transformer) => Some(transformer),
            _ => None,
        }
    }

    /// A vocabulary that belongs to no pre-trained model.
    pub fn vocabulary(&self) -> Option<&Vocabulary> {
        self.transformer().map(|transformer| &transformer.vocabulary)
    }
}

/// The length of a joined pair, whose sides end with `[SEP]` and have `[CLS]` before them.
pub fn joined(source: usize, target: usize) -> usize {
    1 + source + target
}

/// The longest sentence of which two, joined, fit into so many positions.
pub fn longest_of_joined(positions: usize) -> usize {
    positions.saturating_sub(1) / 2
}

/// Which of a BERT's layers have an adapter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Layers {
    /// All layers.
    #[default]
    All,
    /// The last so many layers.
    Top(#[schemars(range(min = 1))] usize),
    /// These layers, counted from 0 at the embeddings.
    List(Vec<usize>),
}

impl Layers {
    /// Whether layer `index` of `count` is chosen.
    pub fn contains(&self, index: usize, count: usize) -> bool {
        match self {
            Self::All => index < count,
            Self::Top(top) => index < count && index + top >= count,
            Self::List(list) => index < count && list.contains(&index),
        }
    }

    /// The chosen layers of `count`.
    pub fn of(&self, count: usize) -> impl Iterator<Item = usize> {
        (0..count).filter(move |&index| self.contains(index, count))
    }
}

/// What the model is trained for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Objective {
    /// Conditional masked language modelling with length prediction (Ghazvininejad et al. 2019).
    Masked(Masked),
    /// The next target token from those before it; the decoder is causal.
    Autoregressive(Autoregressive),
    /// Connectionist temporal classification: all tokens at once, in one pass, without length prediction
    /// (Graves et al. 2006; Libovický and Helcl 2018).
    Ctc(Ctc),
    /// Masked language modelling: BERT's own pre-training on one language, or, on pairs, what makes
    /// a BERT a teacher.
    Mlm(Mlm),
}

impl Objective {
    /// Its key in the config.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Masked(_) => "masked",
            Self::Autoregressive(_) => "autoregressive",
            Self::Ctc(_) => "ctc",
            Self::Mlm(_) => "mlm",
        }
    }
}

/// Conditional masked language modelling with length prediction.
///
/// `k ~ U{1..T}` target positions are chosen and predicted. The loss of a step is
/// `(Σ smoothed nll over chosen positions + length_loss · Σ length nll) / target tokens`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Masked {
    /// Weight of the length prediction's negative log-likelihood.
    #[schemars(range(min = 0.0))]
    pub length_loss: f64,
    /// Label smoothing of the word predictions; the length has none.
    #[schemars(range(min = 0.0, max = 0.99))]
    pub label_smoothing: f64,
    /// Number of length classes: target lengths up to one below it can be predicted.
    #[schemars(range(min = 2))]
    pub length_classes: usize,
    /// What the decoder sees at the chosen positions.
    pub corruption: Corruption,
    /// Share of the source that is noised as one span; 0 in the paper, 0.1 in the released code.
    #[schemars(range(min = 0.0, max = 0.9))]
    pub source_noise: f64,
    /// Trains the model to correct its own predictions, too; none: it only fills in masks.
    pub correction: Option<Correction>,
}

impl Default for Masked {
    fn default() -> Self {
        Self {
            length_loss: 0.1,
            label_smoothing: 0.1,
            length_classes: 1024,
            corruption: Corruption::default(),
            source_noise: 0.0,
            correction: None,
        }
    }
}

/// Correction (CMLMC, Huang et al. 2022): the model learns to predict tokens that it sees, since some of them are
/// wrong when it decodes.
///
/// A first pass over masks alone predicts tokens. Those predictions, right or wrong, replace a share of the
/// tokens that are not chosen, and one more pass predicts what they should be. The loss of a step has
/// `weight / share · Σ smoothed nll over replaced positions` more before it is divided. Only with
/// `decoding.mask_predict.correct` are tokens corrected in decoding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Correction {
    /// Share of the tokens that are not chosen.
    #[schemars(range(min = 0.01, max = 1.0))]
    pub share: f64,
    /// Weight of the correction. With 1 it counts about as much as the chosen tokens do, as in the released
    /// code, which averages each of both.
    #[schemars(range(min = 0.0))]
    pub weight: f64,
}

impl Default for Correction {
    fn default() -> Self {
        Self { share: 0.3, weight: 1.0 }
    }
}

/// The next target token from those before it, with teacher forcing.
///
/// The decoder sees `[CLS]` and the target without its last token, each position only what stands
/// before it, and predicts the target. The loss of a step is `Σ smoothed nll / target tokens`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Autoregressive {
    /// Label smoothing of the word predictions.
    #[schemars(range(min = 0.0, max = 0.99))]
    pub label_smoothing: f64,
    /// Labels beside the data's, of a BERT that has read the whole pair (BERT-Distilled).
    pub soft_labels: Option<SoftLabels>,
}

impl Default for Autoregressive {
    fn default() -> Self {
        Self { label_smoothing: 0.1, soft_labels: None }
    }
}

/// Connectionist temporal classification.
///
/// The decoder reads `upsampling` `[MASK]`s for each source token and predicts a token or a blank at each.
/// A prediction stands for the text that is left when repeated tokens are merged and blanks removed; the
/// loss of a step is `Σ −log p(target) / target tokens`, where p adds up all predictions that stand for the
/// target, which has no `[SEP]` here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ctc {
    /// Decoder positions for each source token. A target of more tokens (and one more for each that is
    /// repeated at once) than positions adds nothing to the loss; data.max_bad limits the share of such
    /// pairs in training.
    #[schemars(range(min = 1, max = 8))]
    pub upsampling: usize,
    /// Shows parts of the target in training; none: the decoder reads masks alone, as it does in
    /// decoding.
    pub glancing: Option<Glancing>,
}

impl Default for Ctc {
    fn default() -> Self {
        Self { upsampling: 2, glancing: None }
    }
}

/// Glancing (GLAT, Qian et al. 2021; with CTC, Gu and Kong 2021): what the model cannot predict yet is shown
/// to it in training, the less the better it gets.
///
/// A first pass over masks finds the most probable of the predictions that stand for the target, and the
/// share of positions at which the model prefers something else. Each position that has a token there shows
/// it in place of `[MASK]` with the probability `ratio · share`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Glancing {
    /// The ratio at the first step.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub start: f64,
    /// The ratio at the last step; in between it changes linearly.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub end: f64,
}

impl Default for Glancing {
    fn default() -> Self {
        Self { start: 0.5, end: 0.3 }
    }
}

impl Glancing {
    /// The ratio at a step, counted from 1.
    pub fn ratio(&self, step: u64, steps: u64) -> f64 {
        let progress = step.saturating_sub(1) as f64 / steps.saturating_sub(1).max(1) as f64;
        self.start + (self.end - self.start) * progress.min(1.0)
    }
}

/// What takes the place of a chosen token. The remaining share keeps the token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Corruption {
    /// Share replaced by `[MASK]`: 1 in the paper, 0.8 in the released code and in BERT.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub mask: f64,
    /// Share replaced by a random token: 0 in the paper, 0.1 in the released code and in BERT.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub random: f64,
}

impl Default for Corruption {
    fn default() -> Self {
        Self { mask: 1.0, random: 0.0 }
    }
}

/// Masked language modelling (Devlin et al. 2019): on one language, without sentence pairs; or on
/// translations, to predict targets (C-MLM, Chen et al. 2020).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Mlm {
    /// Share of the tokens that are predicted.
    #[schemars(range(min = 0.01, max = 0.99))]
    pub predicted: f64,
    /// What the model sees at the predicted positions. With `conditional`, Chen et al. have `[MASK]`
    /// alone.
    pub corruption: Corruption,
    /// Whether pairs are read, `[CLS] source [SEP] target [SEP]` with token types 0 and 1, and only
    /// tokens of the target are predicted, the final `[SEP]` among them. Both sides together fit into
    /// the BERT's positions.
    pub conditional: bool,
}

impl Default for Mlm {
    fn default() -> Self {
        let corruption = Corruption { mask: 0.8, random: 0.1 };
        Self { predicted: 0.15, corruption, conditional: false }
    }
}

fn positions() -> usize {
    512
}

fn tenth() -> f64 {
    0.1
}
