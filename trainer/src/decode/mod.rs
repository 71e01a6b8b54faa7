//! Finding translations.

pub mod mask_predict;

use tandem_config::decoding::MaskPredict;
use tch::Device;

use crate::corpora::Languages;
use crate::data::batches::{Lengths, evaluation_batches};
use crate::data::example::Padded;
use crate::data::tokenizer::Tokenizer;
use crate::model::AbNet;
use crate::objective::rows;

pub use mask_predict::{Sources, TargetIds, Translation};

/// A model with all that is needed to translate ids.
pub struct Translator<'a> {
    model: &'a AbNet,
    config: &'a MaskPredict,
    ids: TargetIds,
    source_pad: u32,
    positions: usize,
    device: Device,
}

impl<'a> Translator<'a> {
    /// A translator into `target`'s language.
    pub fn new(
        model: &'a AbNet,
        languages: &Languages,
        target: &Tokenizer,
        config: &'a MaskPredict,
        device: Device,
    ) -> Self {
        let special = target.special();
        let decoder = languages.bases.decoder.as_ref();
        Self {
            model,
            config,
            ids: TargetIds { pad: special.pad.into(), mask: special.mask.into() },
            source_pad: languages.source.special().pad,
            positions: decoder.map_or(2, |base| base.config.max_position_embeddings),
            device,
        }
    }

    /// Sentences of these lengths in batches: the length candidates count.
    pub fn batches(&self, lengths: &[Lengths]) -> Vec<Vec<u32>> {
        let sources: Vec<Lengths> = lengths.iter().map(|&(source, _)| (source, 0)).collect();
        let max_tokens = self.config.max_tokens / self.config.length_candidates.max(1);
        evaluation_batches(&sources, max_tokens)
    }

    /// Translates a batch of sources that end with [SEP]. A source without words has an empty
    /// translation. `poll` is called before each pass, and ends the work by answering false.
    pub fn translate(
        &self,
        sources: &[&[u32]],
        poll: &mut dyn FnMut() -> bool,
    ) -> Option<Vec<Translation>> {
        let full: Vec<usize> = (0..sources.len()).filter(|&i| sources[i].len() > 1).collect();
        let mut translations = vec![Translation::empty(); sources.len()];
        if full.is_empty() {
            return Some(translations);
        }
        let padded: Vec<&[u32]> = full.iter().map(|&i| sources[i]).collect();
        let (ids, real) = rows(&Padded::new(&padded, self.source_pad), self.device);
        let batch = Sources { ids, real, lengths: None };
        let (model, config) = (self.model, self.config);
        let found = mask_predict::translate(model, config, self.ids, self.positions, &batch, poll)?;
        for (i, translation) in full.into_iter().zip(found) {
            translations[i] = translation;
        }
        Some(translations)
    }
}
