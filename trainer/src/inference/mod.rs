//! Finding translations.

pub mod beam_search;
mod ctc;
pub mod evaluate;
pub mod language_model;
pub mod mask_predict;
mod refine;
pub mod serve;
pub mod translate;

use anyhow::bail;
use tandem_config::schema::decoding::{Decoding, Lengths as ReferenceLengths, MaskPredict};
use tch::{Device, Tensor};

use crate::data::batches::{Lengths, evaluation_batches};
use crate::data::example::Padded;
use crate::data::tokenizer::{SpecialIds, Tokenizer};
use crate::inference::language_model::Ngrams;
use crate::model::Seq2Seq;
use crate::objective::rows;
use crate::session::trained::Trained;

/// The ids that decoding must know.
#[derive(Debug, Clone, Copy)]
pub struct TargetIds {
    /// Fills a row up.
    pub pad: i64,
    /// Stands for a token that is to be predicted.
    pub mask: i64,
    /// Stands before the first token.
    pub first: i64,
    /// Ends a sentence.
    pub end: i64,
}

impl From<SpecialIds> for TargetIds {
    fn from(special: SpecialIds) -> Self {
        let SpecialIds { pad, cls, sep, mask, .. } = special;
        Self { pad: pad.into(), mask: mask.into(), first: cls.into(), end: sep.into() }
    }
}

/// A translation.
#[derive(Debug, Clone, PartialEq)]
pub struct Translation {
    /// Target ids, with `[SEP]`.
    pub ids: Vec<u32>,
    /// What it was chosen by: its log-probability, with what the search adds or divides by.
    pub score: f64,
    /// The most passes over one of Mask-Predict's hypotheses, or those of a beam.
    pub passes: usize,
    /// Rows that the decoder read for it: one for each hypothesis and pass.
    pub rows: usize,
}

impl Translation {
    /// The translation of nothing.
    pub fn empty() -> Self {
        Self { ids: Vec::new(), score: 0.0, passes: 0, rows: 0 }
    }
}

/// Sentences to translate.
#[derive(Debug)]
pub struct Sources {
    /// Source ids: `[B, S]`, i64.
    pub ids: Tensor,
    /// Which of them are real: `[B, S]`, bool.
    pub real: Tensor,
    /// Mask-Predict's candidate lengths of each sentence in tokens, with `[SEP]`; predicted where
    /// there are none.
    pub lengths: Option<Vec<Vec<usize>>>,
}

/// A model with all that is needed to translate ids.
pub struct Translator<'a> {
    model: &'a Seq2Seq,
    config: &'a Decoding,
    /// The one that `config` asks for.
    language_model: Option<&'a Ngrams>,
    ids: TargetIds,
    source_pad: u32,
    positions: usize,
    device: Device,
}

impl<'a> Translator<'a> {
    /// A translator out of the ids of `source` into those of `target`, with the language model that the
    /// decoding asks for ([`language_model::open`]).
    pub fn new(
        model: &'a Seq2Seq,
        source: &Tokenizer,
        target: &Tokenizer,
        config: &'a Decoding,
        language_model: Option<&'a Ngrams>,
        device: Device,
    ) -> Self {
        let (ids, source_pad) = (target.special().into(), source.special().pad);
        Self {
            model,
            config,
            language_model,
            ids,
            source_pad,
            positions: model.decoder.positions(),
            device,
        }
    }

    /// What translates new text with a trained model, and the tokenizer of its translations.
    ///
    /// # Errors
    /// A model that does not translate, or a decoding that takes lengths from references.
    pub fn of(
        trained: &'a Trained,
        config: &'a Decoding,
        language_model: Option<&'a Ngrams>,
        device: Device,
    ) -> anyhow::Result<(Self, &'a Tokenizer)> {
        let Trained { languages, objective, .. } = trained;
        let (Some(model), Some(target)) = (objective.model(), &languages.target) else {
            bail!("a run with the mlm objective cannot translate");
        };
        if config.needs_references() {
            bail!(
                "decoding.mask_predict.lengths is not predicted, which is for evaluation only: a new \
                 text has no references"
            );
        }
        Ok((Self::new(model, &languages.source, target, config, language_model, device), target))
    }

    /// Sentences of these lengths in batches: length candidates or the beam's width count.
    pub fn batches(&self, lengths: &[Lengths]) -> Vec<Vec<u32>> {
        let sources: Vec<Lengths> = lengths.iter().map(|&(source, _)| (source, 0)).collect();
        evaluation_batches(&sources, self.batch_tokens())
    }

    /// Padded source tokens of a batch, at most.
    pub fn batch_tokens(&self) -> usize {
        let (max_tokens, hypotheses) = match self.config {
            Decoding::MaskPredict(config) => (config.max_tokens, config.length_candidates),
            Decoding::BeamSearch(config) => (config.max_tokens, config.width),
            Decoding::Ctc(config) => {
                (config.max_tokens, self.model.ctc.as_ref().map_or(1, |ctc| ctc.upsampling))
            }
        };
        max_tokens / hypotheses.max(1)
    }

    /// Translates a batch of sources that end with `[SEP]`. A source without words has an empty
    /// translation. `references` are the lengths of the reference translations, which all
    /// `lengths` but predicted ones need. `poll` is called before each pass, and ends the work by answering
    /// false.
    pub fn translate(
        &self,
        sources: &[&[u32]],
        references: &[usize],
        poll: &mut dyn FnMut() -> bool,
    ) -> Option<Vec<Translation>> {
        let full: Vec<usize> = (0..sources.len()).filter(|&i| sources[i].len() > 1).collect();
        let mut translations = vec![Translation::empty(); sources.len()];
        if full.is_empty() {
            return Some(translations);
        }
        let padded: Vec<&[u32]> = full.iter().map(|&i| sources[i]).collect();
        let (ids, real) = rows(&Padded::new(&padded, self.source_pad), self.device);
        let given = |config: &MaskPredict| {
            let references = full.iter().map(|&i| references[i]);
            match config.lengths {
                ReferenceLengths::Predicted => None,
                ReferenceLengths::Oracle => Some(references.map(|length| vec![length]).collect()),
                ReferenceLengths::Around => Some(
                    references.map(|length| around(length, config.length_candidates)).collect(),
                ),
            }
        };
        let mut batch = Sources { ids, real, lengths: None };
        let (model, ids, positions) = (self.model, self.ids, self.positions);
        let found = match self.config {
            Decoding::MaskPredict(config) => {
                batch.lengths = given(config);
                mask_predict::translate(model, config, ids, positions, &batch, poll)?
            }
            Decoding::BeamSearch(config) => {
                beam_search::translate(model, config, ids, positions, &batch, poll)?
            }
            Decoding::Ctc(config) => {
                let language_model = self.language_model;
                ctc::translate(model, config, language_model, ids, &batch, poll)?
            }
        };
        for (i, translation) in full.into_iter().zip(found) {
            translations[i] = translation;
        }
        Some(translations)
    }
}

/// So many lengths, of which the middle one is this; the first is at least 2.
fn around(length: usize, count: usize) -> Vec<usize> {
    let first = length.saturating_sub(count.saturating_sub(1) / 2).max(2);
    (first..first + count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_lie_around_a_length() {
        assert_eq!(around(9, 4), [8, 9, 10, 11]);
        assert_eq!(around(9, 5), [7, 8, 9, 10, 11]);
        assert_eq!(around(9, 1), [9]);
        assert_eq!(around(2, 4), [2, 3, 4, 5]);
    }
}
