//! Mask-Predict (Ghazvininejad et al. 2019): all positions at once, the least certain again.
//!
//! A hypothesis is one (sentence, length) pair. Hypotheses are independent rows: they are batched
//! by length, and a finished one leaves its batch. Shapes: R hypotheses, T tokens.

use std::ops::Range;

use tandem_config::schema::decoding::{MaskPredict, Score, Stop};
use tch::{Device, Tensor, no_grad};

use super::{Sources, TargetIds, Translation};
use crate::model::memory::Memory;
use crate::model::{Pass, Positions, Seq2Seq};

/// Translates a batch; lengths are at most `positions`. `poll` is called before each pass, and
/// ends the work by answering false.
pub fn translate(
    model: &Seq2Seq,
    config: &MaskPredict,
    ids: TargetIds,
    positions: usize,
    sources: &Sources,
    poll: &mut dyn FnMut() -> bool,
) -> Option<Vec<Translation>> {
    no_grad(|| {
        let encoded = model.encoder.forward(&sources.ids, &sources.real, &Pass::eval());
        let lengths = match (&sources.lengths, &encoded.length_log_probs) {
            (Some(lengths), _) => lengths.clone(),
            (None, Some(log_probs)) => most_probable(log_probs, config.length_candidates),
            (None, None) => panic!("a model without length prediction needs given lengths"),
        };
        let mut hypotheses = Vec::new();
        for (sentence, lengths) in lengths.iter().enumerate() {
            // The released code asks for two tokens; a BERT has only so many positions.
            let mut lengths: Vec<_> =
                lengths.iter().map(|&length| length.clamp(2, positions)).collect();
            lengths.sort_unstable();
            lengths.dedup();
            let hypothesis = |length| Hypothesis::new(sentence, length, ids.mask);
            hypotheses.extend(lengths.into_iter().map(hypothesis));
        }
        hypotheses.sort_by_key(|hypothesis| hypothesis.tokens.len());
        let memory = model.decoder.memory(&encoded);
        for range in batches(&hypotheses, config.max_tokens) {
            if !refine(model, config, ids, &memory, &mut hypotheses[range], poll) {
                return None;
            }
        }
        Some(best(&hypotheses, lengths.len(), config))
    })
}

struct Hypothesis {
    sentence: usize,
    tokens: Vec<i64>,
    log_probs: Vec<f32>,
    passes: usize,
}

impl Hypothesis {
    fn new(sentence: usize, length: usize, mask: i64) -> Self {
        let (tokens, log_probs) = (vec![mask; length], vec![f32::NEG_INFINITY; length]);
        Self { sentence, tokens, log_probs, passes: 0 }
    }

    fn score(&self, config: &MaskPredict) -> f64 {
        let sum: f64 = self.log_probs.iter().map(|&log_prob| f64::from(log_prob)).sum();
        let length = self.tokens.len() as f64;
        match config.score {
            Score::LengthPenalty => sum / ((5.0 + length) / 6.0).powf(config.length_penalty),
            Score::Average => sum / length,
        }
    }

    /// The positions that iteration `i` of `iterations` predicts again: `floor(L · (T − i) / T)`
    /// least certain ones, at least one; all of them in iteration 0.
    fn weakest(&self, i: usize, iterations: usize) -> Vec<usize> {
        let length = self.tokens.len();
        let count = (length * (iterations - i) / iterations).max(1);
        let mut order: Vec<usize> = (0..length).collect();
        order.sort_by(|&a, &b| self.log_probs[a].total_cmp(&self.log_probs[b]));
        order.truncate(count);
        order.sort_unstable();
        order
    }
}

/// Runs the iterations over hypotheses of similar length, until all are finished.
fn refine(
    model: &Seq2Seq,
    config: &MaskPredict,
    ids: TargetIds,
    memory: &Memory,
    hypotheses: &mut [Hypothesis],
    poll: &mut dyn FnMut() -> bool,
) -> bool {
    let last = match config.stop {
        Stop::Unchanged => config.iterations - 1,
        Stop::Released => config.iterations,
    };
    let mut active: Vec<usize> = (0..hypotheses.len()).collect();
    let mut active_memory = None;
    for i in 0..=last {
        if !poll() {
            return false;
        }
        let memory = active_memory.get_or_insert_with(|| {
            let sentence = |&row: &usize| hypotheses[row].sentence as i64;
            let sentences: Vec<i64> = active.iter().map(sentence).collect();
            memory.select(&Tensor::from_slice(&sentences).to_device(memory.device()))
        });
        let masked: Vec<Vec<usize>> =
            active.iter().map(|&row| hypotheses[row].weakest(i, config.iterations)).collect();
        let predictions = predict(model, ids, memory, hypotheses, &active, &masked);
        let (mut predictions, mut masked) = (predictions.into_iter(), masked.iter());
        let count = active.len();
        active.retain(|&row| {
            let hypothesis = &mut hypotheses[row];
            hypothesis.passes += 1;
            let mut changed = false;
            for &position in masked.next().into_iter().flatten() {
                let Some((token, log_prob)) = predictions.next() else { break };
                changed |= hypothesis.tokens[position] != token;
                hypothesis.tokens[position] = token;
                hypothesis.log_probs[position] = log_prob;
            }
            changed || i == 0 || config.stop == Stop::Released
        });
        if active.is_empty() {
            break;
        }
        if active.len() < count {
            active_memory = None;
        }
    }
    true
}

/// The most probable token and its log-probability at each masked position of the active rows.
fn predict(
    model: &Seq2Seq,
    ids: TargetIds,
    memory: &Memory,
    hypotheses: &[Hypothesis],
    active: &[usize],
    masked: &[Vec<usize>],
) -> Vec<(i64, f32)> {
    let width = active.iter().map(|&row| hypotheses[row].tokens.len()).max().unwrap_or(0);
    let mut input = vec![ids.pad; active.len() * width];
    let mut real = vec![false; active.len() * width];
    let mut positions = Vec::new();
    for (line, (&row, masked)) in active.iter().zip(masked).enumerate() {
        let start = line * width;
        let tokens = &hypotheses[row].tokens;
        input[start..start + tokens.len()].copy_from_slice(tokens);
        real[start..start + tokens.len()].fill(true);
        for &position in masked {
            input[start + position] = ids.mask;
            positions.push((start + position) as i64);
        }
    }
    let device = memory.device();
    let shape = [active.len() as i64, width as i64];
    let input = Tensor::from_slice(&input).view(shape).to_device(device);
    let real = Tensor::from_slice(&real).view(shape).to_device(device);
    let positions = Tensor::from_slice(&positions).to_device(device);
    let at = Positions::new(&positions, &input);
    let hidden = model.decoder.forward(&input, &real, memory, &at, &Pass::eval()); // [N, D]
    model.head.most_probable(&model.head.transform(&hidden))
}

/// The `count` most probable lengths of each row of `[B, classes]`.
fn most_probable(log_probs: &Tensor, count: usize) -> Vec<Vec<usize>> {
    let count = (count as i64).min(log_probs.size()[1] - 1);
    let (_, lengths) = log_probs.topk(count, -1, true, true);
    let lengths = Vec::<Vec<i64>>::try_from(lengths.to_device(Device::Cpu)).expect("[B, K]");
    lengths.into_iter().map(|row| row.into_iter().map(|length| length as usize).collect()).collect()
}

/// Cuts hypotheses, sorted by length, into ranges of at most `max_tokens` padded tokens.
fn batches(hypotheses: &[Hypothesis], max_tokens: usize) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut start = 0;
    for end in 1..=hypotheses.len() {
        let full = hypotheses
            .get(end)
            .is_none_or(|next| next.tokens.len() * (end + 1 - start) > max_tokens);
        if full {
            ranges.push(start..end);
            start = end;
        }
    }
    ranges
}

/// Each sentence's hypothesis of the highest score; of equal ones the shorter.
fn best(hypotheses: &[Hypothesis], sentences: usize, config: &MaskPredict) -> Vec<Translation> {
    let mut chosen =
        vec![Translation { score: f64::NEG_INFINITY, ..Translation::empty() }; sentences];
    for hypothesis in hypotheses {
        let score = hypothesis.score(config);
        let best = &mut chosen[hypothesis.sentence];
        best.passes += hypothesis.passes;
        if score > best.score || best.ids.is_empty() {
            best.score = score;
            best.ids = hypothesis.tokens.iter().map(|&id| id as u32).collect();
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hypothesis(length: usize) -> Hypothesis {
        Hypothesis::new(0, length, 4)
    }

    #[test]
    fn counts_of_masked_positions_are_the_released_codes() {
        let hypothesis = hypothesis(7);
        let counts: Vec<_> = (0..=10).map(|i| hypothesis.weakest(i, 10).len()).collect();
        assert_eq!(counts, [7, 6, 5, 4, 4, 3, 2, 2, 1, 1, 1]); // floor(7 · (10 − i) / 10)
    }

    #[test]
    fn the_least_certain_come_first_and_ties_by_position() {
        let mut hypothesis = hypothesis(4);
        hypothesis.log_probs = vec![-0.5, -2.0, -0.5, -0.1];
        assert_eq!(hypothesis.weakest(1, 4), [0, 1, 2]);
        assert_eq!(hypothesis.weakest(2, 4), [0, 1]);
    }

    #[test]
    fn the_score_decides_which_length_is_best() {
        let finished = |log_probs: &[f32]| Hypothesis {
            log_probs: log_probs.to_vec(),
            ..hypothesis(log_probs.len())
        };
        let hypotheses = [finished(&[-1.0, -1.0]), finished(&[-0.9; 7])];
        let best_length = |score, length_penalty| {
            let config = MaskPredict { score, length_penalty, ..MaskPredict::default() };
            let best = best(&hypotheses, 1, &config);
            (best[0].ids.len(), best[0].score)
        };
        // -2 against -6.3; -2 / (7 / 6) against -6.3 / 2; -2 / 2 against -6.3 / 7
        assert_eq!(best_length(Score::LengthPenalty, 0.0), (2, -2.0));
        assert_eq!(best_length(Score::LengthPenalty, 1.0).0, 2);
        assert_eq!(best_length(Score::LengthPenalty, 3.0).0, 7); // -1.259 against -0.7875
        let (length, score) = best_length(Score::Average, 1.1);
        assert_eq!(length, 7);
        assert!((score + 0.9).abs() < 1e-6, "{score}");
    }

    #[test]
    fn batches_hold_at_most_max_tokens() {
        let hypotheses: Vec<_> = [2, 3, 3, 9, 20].map(hypothesis).into();
        assert_eq!(batches(&hypotheses, 9), [0..3, 3..4, 4..5]);
        assert!(batches(&[], 9).is_empty());
    }
}
