//! Lays pairs out for CTC: the decoder reads masks, several for each source token, and the target is
//! what its predictions are to be collapsed to.
//!
//! Shapes: B sentences, S source tokens, T decoder positions, L target tokens without `[SEP]`, U
//! different ones among them.

use std::sync::Arc;

use tandem_config::schema::model::{Ctc, Glancing};

use super::batches::Lengths;
use super::cache::CacheError;
use super::corpus::Corpus;
use super::example::{Draw, Padded};
use super::tokenizer::SpecialIds;
use crate::random::{Purpose, stream};

/// A micro-batch of pairs for CTC.
#[derive(Debug, Clone, PartialEq)]
pub struct CtcBatch {
    /// The encoder's input. `[B, S]`
    pub source: Padded,
    /// The decoder's input: `[MASK]`s. `[B, T]`
    pub decoder_input: Padded,
    /// The different tokens of each target, ascending: the classes of its sentence from 1 on; 0 is the
    /// blank. Filled up with `[PAD]`. `[B, U]`
    pub words: Padded,
    /// The targets as classes. `[B, L]`
    pub classes: Padded,
    /// Whether each target has few enough tokens to be aligned with its positions. `[B]`
    pub fits: Vec<bool>,
    /// What is shown of the targets, in training with glancing.
    pub glance: Option<Glance>,
    /// The samples of the rows.
    pub samples: Vec<u32>,
}

/// How much of the targets is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Glance {
    /// What the share of wrong predictions is multiplied by.
    pub ratio: f64,
    /// Uniform in [0, 1): a number for each position of each row. `[B, T]`
    pub draws: Vec<Vec<f64>>,
}

/// Builds micro-batches of pairs, as a pure function of seed, draw and samples.
#[derive(Clone)]
pub struct CtcExamples {
    /// The samples.
    pub corpus: Arc<Corpus>,
    /// How many positions there are, and what is shown.
    pub objective: Ctc,
    /// Ids of the source side.
    pub source: SpecialIds,
    /// Ids of the target side.
    pub target: SpecialIds,
    /// The steps of the run.
    pub steps: u64,
    /// The run's seed.
    pub seed: u64,
}

impl CtcExamples {
    /// The micro-batch of these samples.
    ///
    /// # Errors
    /// A damaged cache.
    pub fn batch(&self, samples: &[u32], draw: Draw) -> Result<CtcBatch, CacheError> {
        let mut sources = Vec::with_capacity(samples.len());
        let mut inputs = Vec::with_capacity(samples.len());
        let mut words = Vec::with_capacity(samples.len());
        let mut classes = Vec::with_capacity(samples.len());
        let mut fits = Vec::with_capacity(samples.len());
        for &sample in samples {
            let target = self.corpus.target(sample as usize)?;
            let target = target.strip_suffix(&[self.target.sep]).unwrap_or(target);
            let (own, of_target) = classes_of(target);
            inputs.push(vec![self.target.mask; self.positions(sample as usize)]);
            fits.push(self.fits(sample as usize)?);
            sources.push(self.corpus.source(sample as usize)?);
            words.push(own);
            classes.push(of_target);
        }
        Ok(CtcBatch {
            glance: self.glance(samples, draw),
            source: Padded::new(&sources, self.source.pad),
            decoder_input: Padded::new(&inputs, self.target.pad),
            words: Padded::new(&words, self.target.pad),
            classes: Padded::new(&classes, 0),
            fits,
            samples: samples.to_vec(),
        })
    }

    fn glance(&self, samples: &[u32], draw: Draw) -> Option<Glance> {
        let (Some(glancing), Draw::Train { epoch, step }) = (&self.objective.glancing, draw) else {
            return None;
        };
        let draws = |&sample: &u32| {
            let mut rng = stream(self.seed, Purpose::Glancing, &[epoch, sample.into()]);
            (0..self.positions(sample as usize)).map(|_| rng.uniform()).collect()
        };
        let ratio = Glancing::ratio(glancing, step, self.steps);
        Some(Glance { ratio, draws: samples.iter().map(draws).collect() })
    }

    /// The lengths of all samples as batches count them: the decoder's side is the longer one.
    pub fn lengths(&self) -> Vec<Lengths> {
        let upsampling = self.objective.upsampling as u32;
        let lengths = self.corpus.lengths().into_iter();
        lengths.map(|(source, _)| (source, source * upsampling)).collect()
    }

    /// How many samples have too many target tokens to be aligned with their positions.
    ///
    /// # Errors
    /// A damaged cache.
    pub fn misfits(&self) -> Result<usize, CacheError> {
        let mut misfits = 0;
        for sample in 0..self.corpus.len() {
            misfits += usize::from(!self.fits(sample)?);
        }
        Ok(misfits)
    }

    /// Whether there are enough positions: one for each token but `[SEP]`, and a blank between equal ones.
    fn fits(&self, sample: usize) -> Result<bool, CacheError> {
        let (_, target) = self.corpus.length(sample);
        let needed = target.saturating_sub(1) + self.corpus.repeats(sample)?;
        Ok(needed as usize <= self.positions(sample))
    }

    fn positions(&self, sample: usize) -> usize {
        self.corpus.length(sample).0 as usize * self.objective.upsampling
    }
}

/// The different tokens of a target, ascending, and the target as places among them, counted from 1.
fn classes_of(target: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let mut words = target.to_vec();
    words.sort_unstable();
    words.dedup();
    let class = |word| words.binary_search(word).expect("a word of the target") as u32 + 1;
    let classes = target.iter().map(class).collect();
    (words, classes)
}

#[cfg(test)]
mod tests {
    use tandem_config::schema::model::Masked;

    use super::*;
    use crate::data::example::tests::pairs;

    fn examples(objective: Ctc) -> CtcExamples {
        let of = pairs(Masked::default());
        let (source, target) = (of.source.special, of.target.special);
        CtcExamples { corpus: of.corpus, objective, source, target, steps: 3, seed: 1 }
    }

    #[test]
    fn the_decoder_reads_masks_for_each_source_token() {
        let one = examples(Ctc { upsampling: 1, glancing: None });
        let batch = one.batch(&[2, 1, 0], Draw::Evaluation).unwrap();
        assert_eq!(batch.decoder_input.lengths, batch.source.lengths);
        assert_eq!(batch.decoder_input.lengths, [4, 2, 6]);
        #[rustfmt::skip]
        assert_eq!(batch.decoder_input.ids, [
            2, 2, 2, 2, 4, 4,
            2, 2, 4, 4, 4, 4,
            2, 2, 2, 2, 2, 2,
        ]);
        // Targets without [SEP]: z z; y z x y; x.
        assert_eq!((batch.words.columns, &batch.words.lengths[..]), (3, &[1, 3, 1][..]));
        assert_eq!(batch.words.ids, [7, 4, 4, 0, 6, 7, 0, 4, 4]);
        assert_eq!(batch.classes.ids, [1, 1, 0, 0, 2, 3, 1, 2, 1, 0, 0, 0]);
        assert_eq!(batch.classes.lengths, [2, 4, 1]);
        // `z z` needs a blank in between, and `a` [SEP] has no place for `y z x y`.
        assert_eq!((batch.fits, one.misfits().unwrap()), (vec![true, false, true], 1));
        let two = examples(Ctc::default());
        assert_eq!(two.misfits().unwrap(), 0);
        assert_eq!(two.lengths(), [(6, 12), (2, 4), (4, 8)]);
    }

    #[test]
    fn what_is_shown_depends_on_the_sample_and_not_on_its_batch() {
        let glancing = Some(Glancing { start: 0.8, end: 0.2 });
        let examples = examples(Ctc { glancing, ..Ctc::default() });
        let draw = |epoch, step| Draw::Train { epoch, step };
        let together = examples.batch(&[0, 1, 2], draw(4, 1)).unwrap().glance.expect("glancing");
        let alone = examples.batch(&[1], draw(4, 1)).unwrap().glance.expect("glancing");
        assert_eq!(together.draws[1], alone.draws[0]);
        assert_eq!(together.draws.iter().map(Vec::len).collect::<Vec<_>>(), [12, 4, 8]);
        let later = examples.batch(&[1], draw(5, 1)).unwrap().glance.expect("glancing");
        assert_ne!(later.draws, alone.draws, "each epoch draws anew");
        let ratios = [1, 2, 3, 4].map(|step| {
            let ratio =
                examples.batch(&[1], draw(4, step)).unwrap().glance.expect("glancing").ratio;
            (ratio * 1000.0).round() / 1000.0
        });
        assert_eq!(ratios, [0.8, 0.5, 0.2, 0.2]);
        assert_eq!(examples.batch(&[1], Draw::Evaluation).unwrap().glance, None);
    }

    #[test]
    fn classes_are_the_different_tokens_in_order() {
        assert_eq!(classes_of(&[7, 3, 7, 9]), (vec![3, 7, 9], vec![2, 1, 2, 3]));
        assert_eq!(classes_of(&[]), (vec![], vec![]));
    }
}
