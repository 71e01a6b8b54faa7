//! Connectionist temporal classification (Graves et al. 2006) of targets by a decoder that reads masks
//! (Libovický and Helcl 2018), perhaps with glancing (Qian et al. 2021; Gu and Kong 2021).
//!
//! A target needs few of a vocabulary's words. So what is aligned is, for each sentence, its own words and
//! the blank: they are its classes. The alignments are computed on the CPU, where libtorch's kernel is the
//! same bits in every run.
//!
//! Shapes: B sentences, T positions of a sentence, N real ones of all, U words, C = 1 + U classes, L tokens
//! of a target.

use std::ops::Range;

use tandem_config::composition::Composition;
use tch::{Device, Kind, Tensor, no_grad};

use super::alignment::best_alignment;
use super::loss::HeadGradients;
use super::{Loss, Losses, Sums, rows};
use crate::data::ctc::{CtcBatch, Glance};
use crate::data::example::Padded;
use crate::device::transfer::to_device;
use crate::model::ctc::{CtcHead, Predictions};
use crate::model::{Encoded, Parameters, Pass, Seq2Seq};

/// A translation model whose decoder predicts words and blanks.
#[derive(Debug)]
pub struct Ctc {
    /// The model.
    pub model: Seq2Seq,
}

/// The rows of a micro-batch on the model's device.
struct Rows {
    input: Tensor,     // [B, T]
    real: Tensor,      // [B, T]
    positions: Tensor, // [N]
    words: Tensor,     // [B, U]
}

/// What the model predicts at the n positions of a group.
struct Guess {
    states: Tensor, // [n, D]
    words: Tensor,  // [n, U]
    predictions: Predictions,
    log_probs: Tensor, // of the classes, on the CPU: [n, C]
}

/// Sentences whose logits are held at once.
struct Group {
    sentences: Range<usize>,
    /// Their positions among the N.
    positions: Range<usize>,
}

impl Ctc {
    /// None for a composition without blanks. `cls` is the source's `[CLS]`.
    pub fn new(
        composition: &Composition,
        cls: i64,
        parameters: &Parameters,
        kind: Kind,
    ) -> Option<Self> {
        let model = Seq2Seq::new(composition, cls, parameters, kind)?;
        model.ctc.is_some().then_some(Self { model })
    }

    /// `Σ −log p(target)` of the targets that fit into their positions.
    pub fn loss(&self, batch: &CtcBatch, device: Device, pass: &Pass) -> Loss {
        let (source, source_real) = rows(&batch.source, device);
        let encoded = self.model.encoder.forward(&source, &source_real, pass);
        let mut rows = Rows::new(batch, device);
        if let Some(glance) = &batch.glance {
            rows.input = self.glance(batch, glance, &rows, &encoded, pass);
        }
        let transformed = self.transformed(&rows, &encoded, pass);
        let (surrogate, nll) = self.align(batch, &rows, &transformed);
        let predicted = (0..batch.fits.len()).filter(|&sentence| batch.fits[sentence]);
        let predicted =
            predicted.map(|sentence| batch.classes.lengths[sentence]).sum::<i64>() as f64;
        let counts = Sums {
            predicted,
            denominator: predicted,
            sentences: batch.samples.len() as f64,
            source_tokens: batch.source.tokens() as f64,
            tokens: (batch.source.tokens() + batch.classes.tokens()) as f64,
            ..Sums::default()
        };
        let nll = to_device(&[nll], device).squeeze();
        Loss { surrogate, losses: Losses::new(nll.shallow_clone(), nll), counts }
    }

    fn ctc(&self) -> &CtcHead {
        self.model.ctc.as_ref().expect("blanks, as when the model was built")
    }

    /// States at all real positions, ready for the heads: `[N, D]`.
    fn transformed(&self, rows: &Rows, encoded: &Encoded, pass: &Pass) -> Tensor {
        self.model.decode(&rows.input, &rows.real, &rows.positions, encoded, pass)
    }

    fn groups(&self, batch: &CtcBatch) -> Vec<Group> {
        groups(self.model.head.rows_at_once(), &batch.decoder_input.lengths)
    }

    fn guess(&self, batch: &CtcBatch, rows: &Rows, group: &Group, transformed: &Tensor) -> Guess {
        let (start, count) = (group.positions.start as i64, group.positions.len() as i64);
        let states = transformed.narrow(0, start, count);
        let predictions = self.ctc().predict(&self.model.head, &states);
        let words = rows.words_at(batch, group);
        let log_probs = predictions.log_probs(&words);
        Guess { states, words, predictions, log_probs }
    }

    /// A scalar with the loss's gradient, and the loss.
    fn align(&self, batch: &CtcBatch, rows: &Rows, transformed: &Tensor) -> (Tensor, f64) {
        let mut nll = 0.0;
        let mut gradients = transformed
            .requires_grad()
            .then(|| (HeadGradients::new(&self.model.head, transformed), Vec::new()));
        no_grad(|| {
            for group in self.groups(batch) {
                let Guess { states, words, predictions, log_probs } =
                    self.guess(batch, rows, &group, transformed);
                let aligned = Aligned::new(&log_probs, batch, &group.sentences);
                nll += aligned.nll;
                let Some((words_gradients, blanks)) = &mut gradients else { continue };
                // Of other words it is their probability, of the classes what the alignments say.
                let by_class = aligned.gradient().to_device(words.device()); // [n, C]
                let mut logits = predictions.logits;
                let _ = logits.g_sub_(&predictions.log_sum.unsqueeze(1)).exp_();
                let by_word = by_class.narrow(1, 1, by_class.size()[1] - 1);
                let _ = logits.scatter_(1, &words, &by_word);
                if batch.fits[group.sentences.clone()].contains(&false) {
                    let fits = |sentence: usize| batch.fits[sentence].into();
                    let fits = rows.per_position(batch, &group, fits);
                    let _ = logits.g_mul_(&fits.to_kind(Kind::Float).unsqueeze(1));
                }
                words_gradients.add(&logits, &states);
                blanks.push(by_class.select(1, 0));
            }
        });
        let Some((words, blanks)) = gradients else {
            return (Tensor::zeros([], (Kind::Float, transformed.device())), nll);
        };
        let blanks = (self.ctc().blank(transformed) * Tensor::cat(&blanks, 0)).sum(Kind::Float);
        (words.surrogate(transformed) + blanks, nll)
    }

    /// The decoder's input with some of the targets in it: of each sentence's best alignment, a word is
    /// shown with the probability `ratio · wrong predictions / positions`.
    fn glance(
        &self,
        batch: &CtcBatch,
        glance: &Glance,
        rows: &Rows,
        encoded: &Encoded,
        pass: &Pass,
    ) -> Tensor {
        no_grad(|| {
            let transformed = self.transformed(rows, encoded, &pass.without_dropout());
            let mut shown = batch.decoder_input.clone();
            for group in self.groups(batch) {
                let Guess { predictions, log_probs, .. } =
                    self.guess(batch, rows, &group, &transformed);
                let classes = log_probs.size()[1] as usize;
                let log_probs = Vec::<f32>::try_from(log_probs.view([-1])).expect("[n * C]");
                let best = predictions.best();
                let mut place = 0;
                for sentence in group.sentences {
                    let length = batch.decoder_input.lengths[sentence] as usize;
                    let own = place..place + length;
                    place += length;
                    let log_probs = &log_probs[own.start * classes..own.end * classes];
                    let target = row(&batch.classes, sentence).map(|class| class as usize);
                    let target: Vec<usize> = target.collect();
                    let Some(path) = best_alignment(log_probs, classes, &target) else { continue };
                    let words: Vec<i64> = row(&batch.words, sentence).collect();
                    let aligned = path.iter().map(|&class| (class > 0).then(|| words[class - 1]));
                    let aligned: Vec<Option<i64>> = aligned.collect();
                    let wrong =
                        aligned.iter().zip(&best[own]).filter(|(word, (best, _))| *word != best);
                    let share = wrong.count() as f64 / length.max(1) as f64;
                    let input = &mut shown.ids[sentence * shown.columns..][..length];
                    for ((mask, word), draw) in
                        input.iter_mut().zip(aligned).zip(&glance.draws[sentence])
                    {
                        if let Some(word) = word.filter(|_| *draw < glance.ratio * share) {
                            *mask = word;
                        }
                    }
                }
            }
            super::rows(&shown, rows.input.device()).0
        })
    }
}

impl Rows {
    fn new(batch: &CtcBatch, device: Device) -> Self {
        let (input, real) = rows(&batch.decoder_input, device);
        let columns = batch.decoder_input.columns as i64;
        let lengths = batch.decoder_input.lengths.iter().enumerate();
        let positions = lengths.flat_map(|(row, &length)| {
            let start = row as i64 * columns;
            start..start + length
        });
        let positions = to_device(&positions.collect::<Vec<i64>>(), device);
        Self { input, real, positions, words: rows(&batch.words, device).0 }
    }

    /// The words of its sentence for each position of a group: `[n, U]`.
    fn words_at(&self, batch: &CtcBatch, group: &Group) -> Tensor {
        self.words.index_select(0, &self.per_position(batch, group, |sentence| sentence as i64))
    }

    /// A number of its sentence for each position of a group: `[n]`, i64.
    fn per_position(&self, batch: &CtcBatch, group: &Group, of: impl Fn(usize) -> i64) -> Tensor {
        let sentences = group.sentences.clone();
        let numbers = sentences.flat_map(|sentence| {
            let length = batch.decoder_input.lengths[sentence] as usize;
            std::iter::repeat_n(of(sentence), length)
        });
        to_device(&numbers.collect::<Vec<i64>>(), self.input.device())
    }
}

/// The ids of a row without its padding.
fn row(rows: &Padded, index: usize) -> impl Iterator<Item = i64> {
    rows.ids[index * rows.columns..][..rows.lengths[index] as usize].iter().copied()
}

/// Sentences of these lengths in groups of at most `most` positions, or of one sentence.
fn groups(most: usize, lengths: &[i64]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut end = 0;
    for (sentence, &length) in lengths.iter().enumerate() {
        let start = end;
        end += length as usize;
        match groups.last_mut().filter(|group| end - group.positions.start <= most) {
            Some(group) => {
                group.sentences.end = sentence + 1;
                group.positions.end = end;
            }
            None => groups.push(Group { sentences: sentence..sentence + 1, positions: start..end }),
        }
    }
    groups
}

/// All alignments of the targets of g sentences, on the CPU.
struct Aligned {
    log_probs: Tensor,   // [T, g, C]
    places: Tensor,      // [n], in [T * g]
    targets: Tensor,     // [g, L]
    positions: Vec<i64>, // [g]
    lengths: Vec<i64>,   // [g]
    nlls: Tensor,        // [g], infinite for a target that does not fit
    log_alpha: Tensor,
    /// `Σ −log p` of the targets that fit.
    nll: f64,
}

impl Aligned {
    /// Aligns the classes of sentences by log-probabilities `[n, C]` at their positions.
    fn new(log_probs: &Tensor, batch: &CtcBatch, sentences: &Range<usize>) -> Self {
        let count = sentences.len() as i64;
        let positions = batch.decoder_input.lengths[sentences.clone()].to_vec();
        let lengths = batch.classes.lengths[sentences.clone()].to_vec();
        let longest = positions.iter().copied().max().unwrap_or(0);
        let places = positions.iter().enumerate().flat_map(|(sentence, &length)| {
            (0..length).map(move |position| position * count + sentence as i64)
        });
        let places = Tensor::from_slice(&places.collect::<Vec<i64>>());
        let classes = log_probs.size()[1];
        let padded = Tensor::zeros([longest * count, classes], (Kind::Float, Device::Cpu));
        let log_probs = padded.index_copy(0, &places, log_probs).view([longest, count, classes]);
        let columns = batch.classes.columns;
        let targets = &batch.classes.ids[sentences.start * columns..sentences.end * columns];
        let targets = Tensor::from_slice(targets).view([count, columns as i64]);
        let (nlls, log_alpha) =
            Tensor::internal_ctc_loss(&log_probs, &targets, &positions, &lengths, 0, true);
        let fits: Vec<bool> = batch.fits[sentences.clone()].to_vec();
        let misfits = Tensor::from_slice(&fits).logical_not();
        let nll = nlls.masked_fill(&misfits, 0.0).sum(Kind::Double).double_value(&[]);
        Self { log_probs, places, targets, positions, lengths, nlls, log_alpha, nll }
    }

    /// Of the loss by the logits of the classes at each position, `[n, C]`; zero for targets that do not
    /// fit.
    fn gradient(&self) -> Tensor {
        // libtorch takes log-probabilities for the outputs of a log-softmax, and answers the gradient by
        // its inputs.
        let gradient = Tensor::internal_ctc_loss_backward(
            &Tensor::ones_like(&self.nlls),
            &self.log_probs,
            &self.targets,
            &self.positions,
            &self.lengths,
            &self.nlls,
            &self.log_alpha,
            0,
            true,
        );
        gradient.view([-1, self.log_probs.size()[2]]).index_select(0, &self.places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_whole_sentences() {
        let found = |most, lengths: &[i64]| -> Vec<(Range<usize>, Range<usize>)> {
            groups(most, lengths)
                .into_iter()
                .map(|group| (group.sentences, group.positions))
                .collect()
        };
        assert_eq!(found(10, &[4, 6, 3]), [(0..2, 0..10), (2..3, 10..13)]);
        assert_eq!(found(5, &[9, 2, 2]), [(0..1, 0..9), (1..3, 9..13)]);
        assert_eq!(found(5, &[]), []);
    }
}
