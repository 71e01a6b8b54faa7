//! How translations are found.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::model::Objective;

/// How translations are found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Decoding {
    /// Mask-Predict (Ghazvininejad et al. 2019): all positions at once, the least certain again.
    MaskPredict(MaskPredict),
    /// Beam search: token by token, for the autoregressive objective.
    BeamSearch(BeamSearch),
    /// One pass, for the ctc objective.
    Ctc(CtcSearch),
}

impl Decoding {
    /// What an objective's model is decoded with where the config does not say.
    pub fn of(objective: &Objective) -> Self {
        match objective {
            Objective::Masked(_) | Objective::Mlm(_) => Self::default(),
            Objective::Autoregressive(_) => Self::BeamSearch(BeamSearch::default()),
            Objective::Ctc(_) => Self::Ctc(CtcSearch::default()),
        }
    }
}

impl Decoding {
    /// Its key in the config.
    pub fn key(&self) -> &'static str {
        match self {
            Self::MaskPredict(_) => "mask_predict",
            Self::BeamSearch(_) => "beam_search",
            Self::Ctc(_) => "ctc",
        }
    }

    /// The language model that it needs.
    pub fn language_model(&self) -> Option<&LanguageModel> {
        match self {
            Self::Ctc(config) => config.language_model.as_ref(),
            Self::MaskPredict(_) | Self::BeamSearch(_) => None,
        }
    }

    /// Whether the lengths of references decide translations, which only an evaluation has.
    pub fn needs_references(&self) -> bool {
        matches!(self, Self::MaskPredict(config) if config.lengths != Lengths::Predicted)
    }
}

impl Default for Decoding {
    fn default() -> Self {
        Self::MaskPredict(MaskPredict::default())
    }
}

/// Mask-Predict's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MaskPredict {
    /// The released code's T: in iteration i of T, `floor(L · (T − i) / T)` positions are masked.
    #[schemars(range(min = 1, max = 1000))]
    pub iterations: usize,
    /// How many lengths are tried, the most probable ones or those around the reference's.
    #[schemars(range(min = 1, max = 64))]
    pub length_candidates: usize,
    /// Which lengths are tried.
    pub lengths: Lengths,
    /// When a sentence is finished.
    pub stop: Stop,
    /// A token at least so probable is not masked again, and iterations that would mask more than are left
    /// are skipped, which saves passes. A hypothesis without other tokens is finished. None: no
    /// iteration is skipped.
    #[schemars(range(min = 0.01, max = 0.999))]
    pub threshold: Option<f64>,
    /// After so many passes, only the length that scores best is refined further. None: all are, until
    /// they are finished.
    #[schemars(range(min = 1, max = 1000))]
    pub prune_after: Option<usize>,
    /// Whether a pass also predicts anew the tokens that are not masked, for a model that was trained with
    /// `model.objective.masked.correction`.
    pub correct: bool,
    /// By what candidates are compared.
    pub score: Score,
    /// The exponent of `score: length_penalty`; above 0 longer candidates gain.
    #[schemars(range(min = 0.0))]
    pub length_penalty: f64,
    /// Padded tokens per batch, all candidates counted.
    #[schemars(range(min = 2))]
    pub max_tokens: usize,
}

impl MaskPredict {
    /// The most passes over a hypothesis.
    pub fn most_passes(&self) -> usize {
        match self.stop {
            Stop::Unchanged => self.iterations,
            Stop::Released => self.iterations + 1,
        }
    }
}

impl Default for MaskPredict {
    fn default() -> Self {
        Self {
            iterations: 10,
            length_candidates: 4,
            lengths: Lengths::Predicted,
            stop: Stop::Unchanged,
            threshold: None,
            prune_after: None,
            correct: false,
            score: Score::LengthPenalty,
            length_penalty: 1.1,
            max_tokens: 4000,
        }
    }
}

/// Which lengths Mask-Predict tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lengths {
    /// The `length_candidates` most probable ones.
    #[default]
    Predicted,
    /// The reference's alone: an analysis of what better lengths would bring, for evaluation only.
    Oracle,
    /// `length_candidates` around the reference's: what trying several costs a model that has not learnt
    /// to predict them, for evaluation only.
    Around,
}

/// By what Mask-Predict compares candidates of L tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// `Σ log p / ((5 + L) / 6)^length_penalty` (the released code).
    #[default]
    LengthPenalty,
    /// `Σ log p / L`, the average log-probability (Ghazvininejad et al. 2019).
    Average,
}

/// When Mask-Predict finishes a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// When an iteration changes nothing, or after `iterations` passes (the paper).
    #[default]
    Unchanged,
    /// After one pass on masks alone and `iterations` more, always (the released code).
    Released,
}

/// Beam search's settings; fairseq's search, which stops a sentence at `width` finished hypotheses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BeamSearch {
    /// Hypotheses of each sentence that are followed at once.
    #[schemars(range(min = 1, max = 64))]
    pub width: usize,
    /// By what hypotheses are compared.
    pub score: BeamScore,
    /// The exponent in `score`; above 0 longer hypotheses gain.
    #[schemars(range(min = 0.0))]
    pub length_penalty: f64,
    /// A translation has at most `max_len_a · source tokens + max_len_b` tokens.
    #[schemars(range(min = 0.0))]
    pub max_len_a: f64,
    /// See `max_len_a`.
    #[schemars(range(min = 2))]
    pub max_len_b: usize,
    /// Padded source tokens per batch, times `width`.
    #[schemars(range(min = 2))]
    pub max_tokens: usize,
}

impl Default for BeamSearch {
    fn default() -> Self {
        Self {
            width: 5,
            score: BeamScore::Fairseq,
            length_penalty: 1.0,
            max_len_a: 1.2,
            max_len_b: 10,
            max_tokens: 4000,
        }
    }
}

/// By what beam search compares hypotheses of L tokens, where L counts the final `[SEP]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BeamScore {
    /// `Σ log p / L^length_penalty`.
    #[default]
    Fairseq,
    /// `Σ log p / ((5 + L) / 6)^length_penalty` (Wu et al. 2016; Vaswani et al. 2017).
    Gnmt,
}

/// What CTC's one pass is read with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CtcSearch {
    /// 1: the most probable token or blank at each position. More: prefix beam search, which follows so
    /// many beginnings of a translation and adds up all predictions that stand for them.
    #[schemars(range(min = 1, max = 64))]
    pub width: usize,
    /// So many of the most probable tokens of a position continue the beginnings of a beam.
    #[schemars(range(min = 1, max = 256))]
    pub candidates: usize,
    /// What a search adds to the log-probability of a translation for each of its tokens. CTC's most probable
    /// translations are too short.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub token_bonus: f64,
    /// A language model of the target side that a search adds to the translation model. None: no such model.
    pub language_model: Option<LanguageModel>,
    /// Padded decoder positions per batch.
    #[schemars(range(min = 2))]
    pub max_tokens: usize,
}

impl Default for CtcSearch {
    fn default() -> Self {
        Self { width: 1, candidates: 16, token_bonus: 0.0, language_model: None, max_tokens: 4000 }
    }
}

/// An n-gram model of the decoder's tokens, by interpolated modified Kneser-Ney smoothing (Chen and Goodman
/// 1998). It is estimated from the targets of the training data and kept in the run's folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LanguageModel {
    /// Tokens of the longest n-grams. With 3, a token is predicted from the two before it.
    #[schemars(range(min = 1, max = 6))]
    pub order: usize,
    /// What its log-probability of a translation, with the end, is multiplied by in the search's score.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub weight: f64,
}

impl LanguageModel {
    /// The highest order.
    pub const MAX_ORDER: usize = 6;
}

impl Default for LanguageModel {
    fn default() -> Self {
        Self { order: 3, weight: 0.3 }
    }
}
