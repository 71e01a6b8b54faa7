//! Lays samples out as rows, the input of the model for one micro-batch.
//!
//! Shapes: B sentences, S source tokens, T target tokens. Rows are padded on the right with their
//! own side's `[PAD]`, because positions are absolute.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use tandem_config::schema::model::{Masked, Mlm, joined};

use super::batches::Lengths;
use super::cache::CacheError;
use super::corpus::Corpus;
use super::corrupt::{self, Corrupted, Replacements};
use super::soft_labels::SoftLabels;
use crate::random::{Purpose, stream};

/// Rows of ids, padded on the right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Padded {
    /// Ids, row by row: `rows x columns`.
    pub ids: Vec<i64>,
    /// The number of rows.
    pub rows: usize,
    /// The length of the longest row; at least 1.
    pub columns: usize,
    /// The number of ids in each row, without padding.
    pub lengths: Vec<i64>,
}

impl Padded {
    /// Pads rows with `pad`.
    pub fn new<R: AsRef<[u32]>>(rows: &[R], pad: u32) -> Self {
        let columns = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or(0).max(1);
        let mut ids = vec![i64::from(pad); rows.len() * columns];
        for (row, filled) in rows.iter().zip(ids.chunks_mut(columns)) {
            for (place, &id) in filled.iter_mut().zip(row.as_ref()) {
                *place = i64::from(id);
            }
        }
        let lengths = rows.iter().map(|row| row.as_ref().len() as i64).collect();
        Self { ids, rows: rows.len(), columns, lengths }
    }

    /// The number of ids in all rows, without padding.
    pub fn tokens(&self) -> i64 {
        self.lengths.iter().sum()
    }
}

/// A micro-batch of pairs.
#[derive(Debug, Clone, PartialEq)]
pub struct PairBatch {
    /// The encoder's input, with noise if the config says so. `[B, S]`
    pub source: Padded,
    /// The decoder's input: the target, corrupted or shifted by one. `[B, T]`
    pub decoder_input: Padded,
    /// The original target. `[B, T]`
    pub target: Padded,
    /// The positions to predict in the flattened `[B * T]` rows, ascending.
    pub loss_positions: Vec<i64>,
    /// The target's ids at these positions.
    pub labels: Vec<i64>,
    /// A teacher's soft labels at these positions, if there are any.
    pub soft: Option<SoftRows>,
    /// What the decoder is to correct, in training with correction; none if there is nothing.
    pub replaced: Option<Replaced>,
    /// The samples of the rows.
    pub samples: Vec<u32>,
}

/// A teacher's K most probable words at N positions.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SoftRows {
    /// The words. `[N, K]`
    pub ids: Vec<i64>,
    /// Their logits. `[N, K]`
    pub logits: Vec<f32>,
}

/// Other positions than the predicted ones, where the model's own predictions take the target's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// In the flattened `[B * T]` rows, ascending.
    pub positions: Vec<i64>,
    /// The target's ids there.
    pub labels: Vec<i64>,
    /// What the decoder sees everywhere when it makes those predictions.
    pub mask: i64,
}

/// A micro-batch of passages, or of pairs with one row for each pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MlmBatch {
    /// The corrupted passages. `[B, T]`
    pub input: Padded,
    /// The start of each row's second part, which has token type 1; `None` for passages. `[B]`
    pub second: Option<Vec<i64>>,
    /// The positions to predict in the flattened `[B * T]` rows, ascending.
    pub loss_positions: Vec<i64>,
    /// The original ids at these positions.
    pub labels: Vec<i64>,
    /// The samples of the rows.
    pub samples: Vec<u32>,
}

/// The purpose of a batch's random choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    /// Training: different in each epoch, with source noise if the config has it.
    Train {
        /// The epoch, counted from 0.
        epoch: u64,
        /// The step of the training, counted from 1.
        step: u64,
    },
    /// The loss on held-out text: always the same choices, and a clean source.
    Evaluation,
}

/// The tokens of a target that are predicted.
#[derive(Debug, Clone)]
pub enum Prediction {
    /// Randomly chosen tokens, given the others.
    Masked(Masked),
    /// All tokens, each given those before it.
    Autoregressive,
}

/// Builds micro-batches of pairs, as a pure function of seed, draw and samples.
#[derive(Clone)]
pub struct PairExamples {
    /// The samples.
    pub corpus: Arc<Corpus>,
    /// What is predicted.
    pub prediction: Prediction,
    /// A teacher's soft labels, for training on all tokens of the targets.
    pub soft_labels: Option<Arc<SoftLabels>>,
    /// Ids of the source side.
    pub source: Replacements,
    /// Ids of the target side.
    pub target: Replacements,
    /// The run's seed.
    pub seed: u64,
}

impl PairExamples {
    /// The micro-batch of these samples.
    ///
    /// # Errors
    /// A damaged cache.
    pub fn batch(&self, samples: &[u32], draw: Draw) -> Result<PairBatch, CacheError> {
        let mut sources = Vec::with_capacity(samples.len());
        let mut inputs = Vec::with_capacity(samples.len());
        let mut targets = Vec::with_capacity(samples.len());
        let mut positions = Vec::with_capacity(samples.len());
        let mut replaced = Vec::new();
        for &sample in samples {
            let (source, target) =
                (self.corpus.source(sample as usize)?, self.corpus.target(sample as usize)?);
            sources.push(self.source_row(source, sample, draw));
            let seen = self.target_row(target, sample, draw);
            replaced.extend(self.replaced_row(target, &seen.positions, sample, draw));
            inputs.push(seen.ids);
            targets.push(target);
            positions.push(seen.positions);
        }
        let target = Padded::new(&targets, self.target.special.pad);
        let (loss_positions, labels) = predicted(&positions, &targets, target.columns);
        let replaced = predicted(&replaced, &targets, target.columns);
        Ok(PairBatch {
            source: Padded::new(&sources, self.source.special.pad),
            decoder_input: Padded::new(&inputs, self.target.special.pad),
            target,
            loss_positions,
            labels,
            soft: self.soft_rows(samples, draw),
            replaced: self.replaced(replaced),
            samples: samples.to_vec(),
        })
    }

    fn soft_rows(&self, samples: &[u32], draw: Draw) -> Option<SoftRows> {
        let Draw::Train { .. } = draw else { return None };
        let labels = self.soft_labels.as_ref()?;
        let mut rows = SoftRows::default();
        for &sample in samples {
            let (ids, logits) = labels.of(sample as usize);
            rows.ids.extend(ids.iter().map(|&id| i64::from(id)));
            rows.logits.extend(logits);
        }
        Some(rows)
    }

    fn source_row(&self, source: &[u32], sample: u32, draw: Draw) -> Vec<u32> {
        match (&self.prediction, draw) {
            (Prediction::Masked(objective), Draw::Train { epoch, .. })
                if objective.source_noise > 0.0 =>
            {
                let mut rng = stream(self.seed, Purpose::SourceNoise, &[epoch, sample.into()]);
                corrupt::source_span(source, objective.source_noise, &self.source, &mut rng)
            }
            _ => source.to_vec(),
        }
    }

    /// The decoder's input, and the positions that it predicts.
    fn target_row(&self, target: &[u32], sample: u32, draw: Draw) -> Corrupted {
        let objective = match &self.prediction {
            Prediction::Masked(objective) => objective,
            Prediction::Autoregressive => {
                return corrupt::shifted(target, self.target.special.cls);
            }
        };
        let mut rng = match draw {
            Draw::Train { epoch, .. } => {
                stream(self.seed, Purpose::TargetCorruption, &[epoch, sample.into()])
            }
            Draw::Evaluation => stream(self.seed, Purpose::EvaluationCorruption, &[sample.into()]),
        };
        corrupt::target(target, &objective.corruption, &self.target, &mut rng)
    }

    /// The positions of a target, other than the `predicted` ones, whose tokens are replaced by predictions.
    fn replaced_row(
        &self,
        target: &[u32],
        predicted: &[usize],
        sample: u32,
        draw: Draw,
    ) -> Option<Vec<usize>> {
        let (Prediction::Masked(objective), Draw::Train { epoch, .. }) = (&self.prediction, draw)
        else {
            return None;
        };
        let share = objective.correction.as_ref()?.share;
        let mut rng = stream(self.seed, Purpose::Correction, &[epoch, sample.into()]);
        Some(corrupt::observed(target.len(), predicted, share, &mut rng))
    }

    fn replaced(&self, (positions, labels): (Vec<i64>, Vec<i64>)) -> Option<Replaced> {
        let mask = self.target.special.mask.into();
        (!positions.is_empty()).then_some(Replaced { positions, labels, mask })
    }
}

/// A pair as one row, `[CLS] source [SEP] target [SEP]`, and the start of its target.
pub fn join(source: &[u32], target: &[u32], cls: u32) -> (Vec<u32>, usize) {
    ([&[cls], source, target].concat(), 1 + source.len())
}

/// Builds micro-batches of passages or of joined pairs, as a pure function of seed, draw and samples.
#[derive(Clone)]
pub struct MlmExamples {
    /// The samples.
    pub corpus: Arc<Corpus>,
    /// What is predicted.
    pub objective: Mlm,
    /// Ids of the vocabulary.
    pub replacements: Replacements,
    /// The run's seed.
    pub seed: u64,
}

impl MlmExamples {
    /// The micro-batch of these samples.
    ///
    /// # Errors
    /// A damaged cache.
    pub fn batch(&self, samples: &[u32], draw: Draw) -> Result<MlmBatch, CacheError> {
        let mut inputs = Vec::with_capacity(samples.len());
        let mut passages = Vec::with_capacity(samples.len());
        let mut positions = Vec::with_capacity(samples.len());
        let mut second = Vec::with_capacity(samples.len());
        for &sample in samples {
            let (passage, part) = self.passage(sample as usize)?;
            second.push(part.start as i64);
            let mut rng = match draw {
                Draw::Train { epoch, .. } => {
                    stream(self.seed, Purpose::MaskedLanguageModel, &[epoch, sample.into()])
                }
                Draw::Evaluation => {
                    stream(self.seed, Purpose::EvaluationCorruption, &[sample.into()])
                }
            };
            let Mlm { predicted, corruption, .. } = &self.objective;
            let replacements = &self.replacements;
            let corrupted =
                corrupt::passage(&passage, part, *predicted, corruption, replacements, &mut rng);
            inputs.push(corrupted.ids);
            passages.push(passage);
            positions.push(corrupted.positions);
        }
        let input = Padded::new(&inputs, self.replacements.special.pad);
        let (loss_positions, labels) = predicted(&positions, &passages, input.columns);
        let second = self.objective.conditional.then_some(second);
        Ok(MlmBatch { input, second, loss_positions, labels, samples: samples.to_vec() })
    }

    /// A sample's row, and the range of its tokens that may be predicted: all except `[CLS]` and `[SEP]` of a
    /// passage, or the target of a pair.
    fn passage(&self, sample: usize) -> Result<(Cow<'_, [u32]>, Range<usize>), CacheError> {
        let source = self.corpus.source(sample)?;
        if !self.objective.conditional {
            return Ok((source.into(), 1..source.len().saturating_sub(1).max(1)));
        }
        let cls = self.replacements.special.cls;
        let (row, start) = join(source, self.corpus.target(sample)?, cls);
        let end = row.len();
        Ok((row.into(), start..end))
    }

    /// The lengths of all samples' rows, for batching.
    pub fn lengths(&self) -> Vec<Lengths> {
        let lengths = self.corpus.lengths();
        if !self.objective.conditional {
            return lengths;
        }
        let row = |(source, target)| joined(source as usize, target as usize) as u32;
        lengths.into_iter().map(|sides| (row(sides), 0)).collect()
    }
}

/// Positions in the flattened rows, and the original ids there.
fn predicted<R: AsRef<[u32]>>(
    positions: &[Vec<usize>],
    rows: &[R],
    columns: usize,
) -> (Vec<i64>, Vec<i64>) {
    let mut places = Vec::new();
    let mut labels = Vec::new();
    for (row, (positions, ids)) in positions.iter().zip(rows).enumerate() {
        for &position in positions {
            places.push((row * columns + position) as i64);
            labels.push(i64::from(ids.as_ref()[position]));
        }
    }
    (places, labels)
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use tandem_config::schema::data::{BadLines, Data, Text, TooLong};
    use tandem_config::schema::model::{Correction, Corruption};

    use super::*;
    use crate::data::split::{Side, Sides, Split};
    use crate::data::tokenizer::Tokenizer;

    const SOURCE: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\nd\ne\n";
    /// A vocabulary with other ids than the source's, and `[PAD]` among the last.
    const TARGET: &str = "x\n[UNK]\n[MASK]\n[CLS]\n[PAD]\n[SEP]\ny\nz\n";

    fn tokenizer(folder: &Path, name: &str, entries: &str) -> Tokenizer {
        let path = folder.join(name);
        std::fs::write(&path, entries).unwrap();
        Tokenizer::open(&path).unwrap()
    }

    fn corpus(folder: &Path, text: Text, sides: Sides<'_>) -> Arc<Corpus> {
        let data = Data {
            train: text,
            valid: None,
            test: None,
            distillation: None,
            back_translation: None,
            max_length: None,
            too_long: TooLong::Drop,
            max_ratio: 9.0,
            bad_lines: BadLines::Drop,
            max_bad: 0.05,
            allow_changed: false,
            cache: None,
        };
        let cache = folder.join("cache");
        Arc::new(
            Corpus::open(&data, std::slice::from_ref(&data.train), Split::Train, sides, &cache, 1)
                .unwrap(),
        )
    }

    /// Of `a b c d e` and `x`, `a` and `y z x y`, `b c d` and `z z`.
    pub(in crate::data) fn pairs(objective: Masked) -> PairExamples {
        predicting(Prediction::Masked(objective))
    }

    fn predicting(prediction: Prediction) -> PairExamples {
        let folder = tempfile::tempdir().unwrap();
        let source = tokenizer(folder.path(), "s.txt", SOURCE);
        let target = tokenizer(folder.path(), "t.txt", TARGET);
        let path = folder.path().join("pairs.tsv");
        std::fs::write(&path, "a b c d e\tx\na\ty z x y\nb c d\tz z\n").unwrap();
        let text = Text::Tsv { path, source: 1, target: 2 };
        let sides = Sides::Pair {
            source: Side { tokenizer: &source, max_length: 16 },
            target: Side { tokenizer: &target, max_length: 16 },
        };
        PairExamples {
            corpus: corpus(folder.path(), text, sides),
            prediction,
            soft_labels: None,
            source: Replacements::of(&source),
            target: Replacements::of(&target),
            seed: 1,
        }
    }

    #[test]
    fn rows_are_padded_on_the_right_with_their_own_sides_pad() {
        let batch =
            pairs(Masked::default()).batch(&[0, 1, 2], Draw::Train { epoch: 0, step: 1 }).unwrap();
        #[rustfmt::skip]
        assert_eq!(batch.source.ids, [
            5, 6, 7, 8, 9, 3,
            5, 3, 0, 0, 0, 0,
            6, 7, 8, 3, 0, 0,
        ]);
        #[rustfmt::skip]
        assert_eq!(batch.target.ids, [
            0, 5, 4, 4, 4,
            6, 7, 0, 6, 5,
            7, 7, 5, 4, 4,
        ]);
        assert_eq!(batch.source.lengths, [6, 2, 4]);
        assert_eq!((batch.target.rows, batch.target.columns, batch.target.tokens()), (3, 5, 10));
        assert_eq!(batch.samples, [0, 1, 2]);
    }

    #[test]
    fn loss_positions_are_where_the_decoder_sees_masks() {
        let examples = pairs(Masked::default());
        for epoch in 0..100 {
            let batch = examples.batch(&[2, 0, 1], Draw::Train { epoch, step: 1 }).unwrap();
            let masked: Vec<i64> = (0..batch.decoder_input.ids.len() as i64)
                .filter(|&place| batch.decoder_input.ids[place as usize] == 2)
                .collect();
            assert_eq!(batch.loss_positions, masked);
            let labels: Vec<i64> =
                masked.iter().map(|&place| batch.target.ids[place as usize]).collect();
            assert_eq!(batch.labels, labels);
            assert_eq!(batch.decoder_input.lengths, batch.target.lengths);
        }
    }

    #[test]
    fn choices_depend_on_the_sample_and_not_on_its_batch() {
        let corruption = Corruption { mask: 0.5, random: 0.3 };
        let examples = pairs(Masked { corruption, source_noise: 0.4, ..Masked::default() });
        let row = |batch: &PairBatch, row: usize| {
            let ids = |rows: &Padded| {
                rows.ids[row * rows.columns..][..rows.lengths[row] as usize].to_vec()
            };
            (ids(&batch.source), ids(&batch.decoder_input))
        };
        for epoch in 0..50 {
            let draw = Draw::Train { epoch, step: 1 };
            let together = examples.batch(&[0, 1, 2], draw).unwrap();
            assert_eq!(row(&together, 1), row(&examples.batch(&[1], draw).unwrap(), 0));
            assert_eq!(together, examples.batch(&[0, 1, 2], draw).unwrap());
        }
        let epochs: std::collections::HashSet<_> = (0..50)
            .map(|epoch| row(&examples.batch(&[0], Draw::Train { epoch, step: 1 }).unwrap(), 0))
            .collect();
        assert!(epochs.len() > 10, "each epoch draws anew");
    }

    #[test]
    fn what_is_replaced_is_seen_and_depends_on_the_sample_alone() {
        let correction = Some(Correction { share: 0.6, ..Correction::default() });
        let examples = pairs(Masked { correction, ..Masked::default() });
        let plain = pairs(Masked::default());
        let (mut seen, mut found) = (0, 0);
        for epoch in 0..200 {
            let draw = Draw::Train { epoch, step: 1 };
            let mut batch = examples.batch(&[2, 0, 1], draw).unwrap();
            let alone = examples.batch(&[1], draw).unwrap().replaced;
            seen += batch.target.tokens() - batch.labels.len() as i64;
            if let Some(Replaced { positions, labels, mask }) = batch.replaced.take() {
                found += positions.len() as i64;
                assert!(positions.is_sorted());
                for (&place, &label) in positions.iter().zip(&labels) {
                    assert!(!batch.loss_positions.contains(&place));
                    assert_eq!(batch.target.ids[place as usize], label);
                    assert_eq!(batch.decoder_input.ids[place as usize], label);
                }
                assert_eq!(mask, 2);
                let last_row = 2 * batch.target.columns as i64;
                let of_last = positions.iter().filter(|&&place| place >= last_row);
                let of_last: Vec<i64> = of_last.map(|place| place - last_row).collect();
                assert_eq!(of_last, alone.map_or(Vec::new(), |alone| alone.positions));
            }
            assert_eq!(
                batch,
                plain.batch(&[2, 0, 1], draw).unwrap(),
                "the rest is as without correction"
            );
        }
        let share = found as f64 / seen as f64;
        assert!((share - 0.6).abs() < 0.05, "{share}");
        assert_eq!(examples.batch(&[0, 1, 2], Draw::Evaluation).unwrap().replaced, None);
    }

    #[test]
    fn each_token_is_predicted_from_those_before_it() {
        let examples = predicting(Prediction::Autoregressive);
        let batch = examples.batch(&[0, 1], Draw::Train { epoch: 0, step: 1 }).unwrap();
        #[rustfmt::skip]
        assert_eq!(batch.decoder_input.ids, [
            3, 0, 4, 4, 4, // [CLS] x
            3, 6, 7, 0, 6, // [CLS] y z x y
        ]);
        assert_eq!(batch.decoder_input.lengths, batch.target.lengths);
        assert_eq!(batch.loss_positions, [0, 1, 5, 6, 7, 8, 9]); // nothing of the padding
        assert_eq!(batch.labels, [0, 5, 6, 7, 0, 6, 5]);
        assert_eq!(batch, examples.batch(&[0, 1], Draw::Evaluation).unwrap());
    }

    #[test]
    fn evaluation_never_noises_the_source() {
        let examples = pairs(Masked { source_noise: 0.9, ..Masked::default() });
        let batch = examples.batch(&[0], Draw::Evaluation).unwrap();
        assert_eq!(batch.source.ids, [5, 6, 7, 8, 9, 3]);
        assert_ne!(
            examples.batch(&[0], Draw::Train { epoch: 0, step: 1 }).unwrap().source.ids,
            batch.source.ids
        );
    }

    #[test]
    fn passages_predict_words_only() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = tokenizer(folder.path(), "s.txt", SOURCE);
        let path = folder.path().join("text");
        std::fs::write(&path, "a b c d e\nb\n").unwrap();
        let sides = Sides::Passages(Side { tokenizer: &tokenizer, max_length: 16 });
        let examples = MlmExamples {
            corpus: corpus(folder.path(), Text::Lines { path }, sides),
            objective: Mlm::default(),
            replacements: Replacements::of(&tokenizer),
            seed: 1,
        };
        for epoch in 0..100 {
            let batch = examples.batch(&[1, 0], Draw::Train { epoch, step: 1 }).unwrap();
            assert_eq!((batch.input.rows, batch.input.columns), (2, 7));
            assert_eq!(batch.loss_positions[0], 1); // [CLS] b [SEP]
            assert_eq!(batch.labels[0], 6);
            assert!(batch.loss_positions[1..].iter().all(|place| (8..=12).contains(place)));
            assert!(batch.loss_positions.len() >= 2);
            assert_eq!(batch.input.ids[3..7], [0; 4]);
        }
    }

    #[test]
    fn no_rows_and_empty_rows_have_a_shape() {
        let none = Padded::new::<Vec<u32>>(&[], 9);
        assert_eq!((none.rows, none.columns, none.ids.len()), (0, 1, 0));
        let empty = Padded::new(&[vec![], vec![]], 9);
        assert_eq!((empty.rows, empty.columns, empty.ids), (2, 1, vec![9, 9]));
    }
}
