//! Mask-Predict's passes over hypotheses, and the choice between them; what predicts words is a closure.
//!
//! A hypothesis is one (sentence, length) pair. Hypotheses are batched by length. A finished one leaves
//! its batch, so that later passes run over the others alone; those that are left after pruning are
//! batched anew.

use std::ops::Range;

use tandem_config::schema::decoding::{MaskPredict, Score, Stop};

use super::Translation;

/// A hypothesis as a pass reads it.
#[derive(Debug)]
pub(super) struct Row<'a> {
    /// Its sentence's place in the batch of sources.
    pub sentence: usize,
    /// Its tokens so far.
    pub tokens: &'a [i64],
    /// The positions whose `tokens` are not to be seen, ascending.
    pub masked: &'a [usize],
    /// The positions that are to be predicted, ascending: the masked ones, or all with correction.
    pub predicted: &'a [usize],
}

/// One pass over rows: a token and its log-probability for each predicted position, row by row.
pub(super) type Predict<'a> = dyn FnMut(&[Row]) -> Vec<(i64, f32)> + 'a;

/// The best translation of each sentence, whose candidates have these lengths. `poll` is called before
/// each pass, and ends the work by answering false.
pub(super) fn refine(
    config: &MaskPredict,
    lengths: &[Vec<usize>],
    predict: &mut Predict,
    poll: &mut dyn FnMut() -> bool,
) -> Option<Vec<Translation>> {
    let mut hypotheses = Vec::new();
    for (sentence, lengths) in lengths.iter().enumerate() {
        hypotheses.extend(lengths.iter().map(|&length| Hypothesis::new(sentence, length)));
    }
    hypotheses.sort_by_key(|hypothesis| hypothesis.tokens.len());
    let mut rows: Vec<usize> = (0..hypotheses.len()).collect();
    let most = config.most_passes();
    for passes in [config.prune_after.unwrap_or(most).min(most), most] {
        if !run(config, &mut hypotheses, &rows, passes, predict, poll) {
            return None;
        }
        rows = best(&hypotheses, &rows, lengths.len(), config);
    }
    let mut translations = vec![Translation::empty(); lengths.len()];
    for hypothesis in &hypotheses {
        let translation = &mut translations[hypothesis.sentence];
        translation.passes = translation.passes.max(hypothesis.passes);
        translation.rows += hypothesis.passes;
    }
    for hypothesis in rows.into_iter().map(|row| &hypotheses[row]) {
        let translation = &mut translations[hypothesis.sentence];
        translation.score = hypothesis.score(config);
        translation.ids = hypothesis.tokens.iter().map(|&id| id as u32).collect();
    }
    Some(translations)
}

struct Hypothesis {
    sentence: usize,
    tokens: Vec<i64>,
    log_probs: Vec<f32>,
    passes: usize,
    /// The next pass's step of the schedule, which is ahead of `passes` where steps are left out.
    step: usize,
    is_finished: bool,
}

impl Hypothesis {
    fn new(sentence: usize, length: usize) -> Self {
        let (tokens, log_probs) = (vec![-1; length], vec![f32::NEG_INFINITY; length]);
        Self { sentence, tokens, log_probs, passes: 0, step: 0, is_finished: false }
    }

    fn score(&self, config: &MaskPredict) -> f64 {
        let sum: f64 = self.log_probs.iter().map(|&log_prob| f64::from(log_prob)).sum();
        let length = self.tokens.len() as f64;
        match config.score {
            Score::LengthPenalty => sum / ((5.0 + length) / 6.0).powf(config.length_penalty),
            Score::Average => sum / length,
        }
    }

    /// How many positions are below the threshold.
    fn uncertain(&self, config: &MaskPredict) -> usize {
        let Some(threshold) = config.threshold else { return self.tokens.len() };
        let threshold = threshold.ln() as f32;
        // What is not a number is not certain.
        let is_certain = |log_prob: &&f32| **log_prob >= threshold;
        self.tokens.len() - self.log_probs.iter().filter(is_certain).count()
    }

    /// So many positions are masked in step `i` of `T`: `floor(L · (T − i) / T)`, at least one.
    fn scheduled(&self, step: usize, iterations: usize) -> usize {
        (self.tokens.len() * (iterations - step) / iterations).max(1)
    }

    /// The positions that the next pass does not see, the least certain ones; all of them at first.
    fn masked(&self, config: &MaskPredict) -> Vec<usize> {
        let mut positions: Vec<usize> = (0..self.tokens.len()).collect();
        positions.sort_by(|&a, &b| self.log_probs[a].total_cmp(&self.log_probs[b]));
        positions
            .truncate(self.scheduled(self.step, config.iterations).min(self.uncertain(config)));
        positions.sort_unstable();
        positions
    }

    /// The positions that a pass predicts where it does not see `masked`.
    fn predicted(&self, masked: &[usize], config: &MaskPredict) -> Vec<usize> {
        if config.correct { (0..self.tokens.len()).collect() } else { masked.to_vec() }
    }

    /// Takes a pass's predictions.
    fn advance(
        &mut self,
        positions: &[usize],
        predictions: impl Iterator<Item = (i64, f32)>,
        config: &MaskPredict,
    ) {
        let mut is_changed = false;
        for (&position, (token, log_prob)) in positions.iter().zip(predictions) {
            is_changed |= self.tokens[position] != token;
            self.tokens[position] = token;
            self.log_probs[position] = log_prob;
        }
        self.passes += 1;
        let is_stable = config.stop == Stop::Unchanged && self.passes > 1 && !is_changed;
        let uncertain = self.uncertain(config);
        let steps = self.step + 1..config.most_passes();
        self.is_finished = is_stable || uncertain == 0 || steps.is_empty();
        if !self.is_finished {
            // A step that would mask more than the uncertain tokens is left out, to save its pass. Without
            // `correct`, only the first of several such steps could change anything.
            let fits = |&step: &usize| self.scheduled(step, config.iterations) <= uncertain;
            let last = steps.end - 1;
            self.step = { steps }.find(fits).unwrap_or(last);
        }
    }
}

/// Runs passes over these hypotheses, until each is finished or has had so many.
fn run(
    config: &MaskPredict,
    hypotheses: &mut [Hypothesis],
    rows: &[usize],
    passes: usize,
    predict: &mut Predict,
    poll: &mut dyn FnMut() -> bool,
) -> bool {
    let goes_on = |hypothesis: &Hypothesis| !hypothesis.is_finished && hypothesis.passes < passes;
    let open: Vec<usize> = rows.iter().copied().filter(|&row| goes_on(&hypotheses[row])).collect();
    let lengths: Vec<usize> = open.iter().map(|&row| hypotheses[row].tokens.len()).collect();
    for range in batches(&lengths, config.max_tokens) {
        let mut active = open[range].to_vec();
        while !active.is_empty() {
            if !poll() {
                return false;
            }
            let positions: Vec<(Vec<usize>, Vec<usize>)> = active
                .iter()
                .map(|&row| {
                    let masked = hypotheses[row].masked(config);
                    let predicted = hypotheses[row].predicted(&masked, config);
                    (masked, predicted)
                })
                .collect();
            let rows: Vec<Row> = active
                .iter()
                .zip(&positions)
                .map(|(&row, (masked, predicted))| {
                    let Hypothesis { sentence, tokens, .. } = &hypotheses[row];
                    Row { sentence: *sentence, tokens, masked, predicted }
                })
                .collect();
            let mut predictions = predict(&rows).into_iter();
            for (&row, (_, predicted)) in active.iter().zip(&positions) {
                hypotheses[row].advance(predicted, &mut predictions, config);
            }
            active.retain(|&row| goes_on(&hypotheses[row]));
        }
    }
    true
}

/// Cuts ascending lengths into ranges of at most `max_tokens` padded tokens.
fn batches(lengths: &[usize], max_tokens: usize) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut start = 0;
    for end in 1..=lengths.len() {
        let is_full = lengths.get(end).is_none_or(|next| next * (end + 1 - start) > max_tokens);
        if is_full {
            ranges.push(start..end);
            start = end;
        }
    }
    ranges
}

/// Of these hypotheses each sentence's of the highest score, in their order; of equal ones the shorter.
fn best(
    hypotheses: &[Hypothesis],
    rows: &[usize],
    sentences: usize,
    config: &MaskPredict,
) -> Vec<usize> {
    let mut best: Vec<Option<(usize, f64)>> = vec![None; sentences];
    for &row in rows {
        let score = hypotheses[row].score(config);
        let best = &mut best[hypotheses[row].sentence];
        if best.is_none_or(|(_, highest)| score > highest) {
            *best = Some((row, score));
        }
    }
    let mut rows: Vec<usize> = best.into_iter().flatten().map(|(row, _)| row).collect();
    rows.sort_unstable();
    rows
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hash, Hasher};

    use super::*;

    const LENGTHS: [&[usize]; 4] = [&[3, 4, 6, 9], &[5], &[4, 5], &[2, 12, 20]];

    /// What stands at a position, if it is not masked.
    type Seen = Option<i64>;

    /// A model that is written down: a token and its probability for a position of what is seen.
    type Script<'a> = &'a dyn Fn(usize, &[Seen], usize) -> (i64, f64);

    /// A word and a probability that depend on the sentence, on what is seen there and on the words around,
    /// and nothing else.
    fn by_neighbours(seed: u64) -> impl Fn(usize, &[Seen], usize) -> (i64, f64) {
        move |sentence, seen, position| {
            let left = position.checked_sub(1).map(|left| seen[left]);
            let mut hasher = DefaultHasher::new();
            (seed, sentence, left, &seen[position..seen.len().min(position + 2)]).hash(&mut hasher);
            let hash = hasher.finish();
            ((hash % 5) as i64, ((hash >> 8) % 997 + 1) as f64 / 999.0)
        }
    }

    /// What is found with a script, and how many positions each pass masks in each of its rows.
    fn search(
        config: &MaskPredict,
        lengths: &[&[usize]],
        script: Script,
    ) -> (Vec<Translation>, Vec<Vec<usize>>) {
        let lengths: Vec<Vec<usize>> = lengths.iter().map(|lengths| lengths.to_vec()).collect();
        let mut counts = Vec::new();
        let mut predict = |rows: &[Row]| {
            counts.push(rows.iter().map(|row| row.masked.len()).collect());
            let mut found = Vec::new();
            for row in rows {
                let seen: Vec<Seen> = (0..row.tokens.len())
                    .map(|place| (!row.masked.contains(&place)).then_some(row.tokens[place]))
                    .collect();
                for &position in row.predicted {
                    let (token, probability) = script(row.sentence, &seen, position);
                    found.push((token, probability.ln() as f32));
                }
            }
            found
        };
        let found = refine(config, &lengths, &mut predict, &mut || true);
        (found.expect("no stop was asked for"), counts)
    }

    /// One sentence by the rules, pass after pass.
    fn by_definition(
        config: &MaskPredict,
        lengths: &[usize],
        sentence: usize,
        script: Script,
    ) -> Translation {
        struct Candidate {
            words: Vec<(i64, f32)>,
            passes: usize,
            step: usize,
            ended: bool,
            pruned: bool,
        }
        let score = |words: &[(i64, f32)]| {
            let (sum, length) =
                (words.iter().map(|word| f64::from(word.1)).sum::<f64>(), words.len() as f64);
            match config.score {
                Score::Average => sum / length,
                Score::LengthPenalty => sum / ((5.0 + length) / 6.0).powf(config.length_penalty),
            }
        };
        let best = |candidates: &[Candidate]| {
            let mut best = 0;
            for place in 1..candidates.len() {
                if score(&candidates[place].words) > score(&candidates[best].words) {
                    best = place;
                }
            }
            best
        };
        let nothing = |&length: &usize| Candidate {
            words: vec![(-1, 0.0); length],
            passes: 0,
            step: 0,
            ended: false,
            pruned: false,
        };
        let mut candidates: Vec<Candidate> = lengths.iter().map(nothing).collect();
        let iterations = config.iterations;
        let most = iterations + usize::from(config.stop == Stop::Released);
        let mut winner = None;
        for pass in 0..most {
            if config.prune_after == Some(pass) {
                let best = best(&candidates);
                winner = Some(best);
                for (place, candidate) in candidates.iter_mut().enumerate() {
                    candidate.pruned = place != best;
                }
            }
            for candidate in &mut candidates {
                if candidate.ended || candidate.pruned {
                    continue;
                }
                let words = &mut candidate.words;
                let below = |log_prob: f32| match config.threshold {
                    Some(threshold) => pass == 0 || log_prob < threshold.ln() as f32,
                    None => true,
                };
                let mut again: Vec<usize> =
                    (0..words.len()).filter(|&place| below(words[place].1)).collect();
                again.sort_by(|&a, &b| words[a].1.total_cmp(&words[b].1).then(a.cmp(&b)));
                // The schedule goes on by a step, and by more as long as there are more to mask than
                // uncertain tokens.
                let count = |step: usize| (words.len() * (iterations - step) / iterations).max(1);
                while count(candidate.step) > again.len() && candidate.step + 1 < most {
                    candidate.step += 1;
                }
                again.truncate(count(candidate.step));
                let seen: Vec<Seen> = (0..words.len())
                    .map(|place| (!again.contains(&place)).then_some(words[place].0))
                    .collect();
                let before = words.clone();
                let predicted = if config.correct { (0..words.len()).collect() } else { again };
                for &place in &predicted {
                    let (token, probability) = script(sentence, &seen, place);
                    words[place] = (token, probability.ln() as f32);
                }
                candidate.passes += 1;
                candidate.step += 1;
                let same = words.iter().zip(&before).all(|(now, before)| now.0 == before.0);
                let certain = config.threshold.is_some_and(|threshold| {
                    words.iter().all(|word| word.1 >= threshold.ln() as f32)
                });
                candidate.ended = certain
                    || candidate.step == most
                    || (config.stop == Stop::Unchanged && pass > 0 && same);
            }
        }
        let winner = winner.unwrap_or_else(|| best(&candidates));
        Translation {
            ids: candidates[winner].words.iter().map(|word| word.0 as u32).collect(),
            score: score(&candidates[winner].words),
            passes: candidates.iter().map(|candidate| candidate.passes).max().unwrap_or(0),
            rows: candidates.iter().map(|candidate| candidate.passes).sum(),
        }
    }

    #[test]
    fn what_is_found_is_what_the_rules_say_in_any_batches() {
        let (mut shorter, mut pruned, mut corrected, mut seen) = (0, 0, 0, 0);
        for seed in 0..20 {
            let script = by_neighbours(seed);
            for stop in [Stop::Unchanged, Stop::Released] {
                for threshold in [None, Some(0.1), Some(0.5), Some(0.9), Some(0.999)] {
                    for prune_after in [None, Some(1), Some(2), Some(6)] {
                        let score = [Score::LengthPenalty, Score::Average][seed as usize % 2];
                        let (iterations, correct) = (6, seed % 4 > 1);
                        let config = MaskPredict {
                            iterations,
                            stop,
                            threshold,
                            prune_after,
                            correct,
                            score,
                            ..MaskPredict::default()
                        };
                        let expected: Vec<Translation> = LENGTHS
                            .iter()
                            .enumerate()
                            .map(|(sentence, lengths)| {
                                by_definition(&config, lengths, sentence, &script)
                            })
                            .collect();
                        // A row in each batch, a few, or all.
                        for max_tokens in [1, 30, 4000] {
                            let config = MaskPredict { max_tokens, ..config.clone() };
                            let (found, _) = search(&config, &LENGTHS, &script);
                            assert_eq!(found, expected, "{seed}, {config:?}");
                        }
                        let plain = MaskPredict { threshold: None, ..config.clone() };
                        let other = MaskPredict { correct: !correct, ..config.clone() };
                        let unpruned = MaskPredict { prune_after: None, ..config };
                        let (plain, _) = search(&plain, &LENGTHS, &script);
                        let (unpruned, _) = search(&unpruned, &LENGTHS, &script);
                        let (other, _) = search(&other, &LENGTHS, &script);
                        let differ = expected.iter().zip(other).filter(|(a, b)| a.ids != b.ids);
                        corrected += differ.count();
                        for ((found, plain), unpruned) in expected.iter().zip(plain).zip(unpruned) {
                            seen += 1;
                            shorter += usize::from(found.passes < plain.passes);
                            pruned += usize::from(found.rows < unpruned.rows);
                            assert!(found.passes <= config_passes(stop, iterations));
                            assert!(found.rows <= unpruned.rows);
                        }
                    }
                }
            }
        }
        assert!(shorter > seen / 10 && pruned > seen / 10, "{shorter} and {pruned} of {seen}");
        assert!(corrected > seen / 10, "{corrected} of {seen}");
    }

    fn config_passes(stop: Stop, iterations: usize) -> usize {
        MaskPredict { stop, iterations, ..MaskPredict::default() }.most_passes()
    }

    #[test]
    fn a_threshold_that_no_token_reaches_changes_nothing() {
        for seed in 0..50 {
            let script = by_neighbours(seed); // at most 997/999
            for stop in [Stop::Unchanged, Stop::Released] {
                let plain = MaskPredict { stop, ..MaskPredict::default() };
                let config = MaskPredict { threshold: Some(0.999), ..plain.clone() };
                assert_eq!(search(&config, &LENGTHS, &script), search(&plain, &LENGTHS, &script));
            }
        }
    }

    #[test]
    fn what_is_seen_is_corrected_if_that_is_asked_for() {
        // From the second pass on, 7 is what should stand everywhere, and the last position is never sure.
        let script = |_: usize, seen: &[Seen], position: usize| {
            let first = seen.iter().all(Option::is_none);
            (if first { 1 } else { 7 }, if position + 1 == seen.len() { 0.1 } else { 0.9 })
        };
        let found = |correct, iterations| {
            let config = MaskPredict { correct, iterations, ..MaskPredict::default() };
            let (found, counts) = search(&config, &[&[4]], &script);
            (found[0].ids.clone(), counts.concat())
        };
        assert_eq!(found(false, 2), (vec![7, 1, 1, 7], vec![4, 2]));
        assert_eq!(found(true, 2), (vec![7, 7, 7, 7], vec![4, 2]));
        assert_eq!(found(true, 9), (vec![7, 7, 7, 7], vec![4, 3, 3]), "the third changes nothing");
    }

    #[test]
    fn tokens_that_are_certain_at_once_take_one_pass() {
        for stop in [Stop::Unchanged, Stop::Released] {
            let config = MaskPredict { stop, threshold: Some(0.5), ..MaskPredict::default() };
            let (found, _) =
                search(&config, &[&[3, 4], &[7]], &|_, _, position| (position as i64, 0.5));
            let passes: Vec<_> = found.iter().map(|found| (found.passes, found.rows)).collect();
            assert_eq!(passes, [(1, 2), (1, 1)], "{stop:?}");
        }
    }

    #[test]
    fn certain_tokens_leave_out_steps_of_the_schedule() {
        let config = MaskPredict { threshold: Some(0.5), ..MaskPredict::default() };
        // Of 20 tokens so many are uncertain, and these change in each pass.
        let counts = |uncertain| {
            let pass = std::cell::Cell::new(0);
            let (_, counts) = search(&config, &[&[20]], &|_, _, position| {
                pass.set(pass.get() + 1);
                (pass.get(), if position < uncertain { 0.3 } else { 0.7 })
            });
            counts.concat()
        };
        // All steps mask 20, 18, 16, ... 2.
        assert_eq!(counts(20), [20, 18, 16, 14, 12, 10, 8, 6, 4, 2]);
        assert_eq!(counts(9), [20, 8, 6, 4, 2]);
        assert_eq!(counts(8), [20, 8, 6, 4, 2]);
        assert_eq!(counts(1), [20, 1]);
        assert_eq!(counts(0), [20]);
    }

    #[test]
    fn the_best_length_alone_is_refined_after_pruning() {
        let changing = std::cell::Cell::new(0);
        // Length 4 begins as the best and gets worse; nothing becomes stable.
        let script = |_: usize, seen: &[Seen], _: usize| {
            changing.set(changing.get() + 1);
            let first = seen.iter().all(Option::is_none);
            (changing.get(), if first == (seen.len() == 4) { 0.9 } else { 0.2 })
        };
        let found = |prune_after| {
            let config =
                MaskPredict { prune_after, score: Score::Average, ..MaskPredict::default() };
            let (found, counts) = search(&config, &[&[3, 4, 5, 6]], &script);
            let rows: Vec<usize> = counts.iter().map(Vec::len).collect();
            (found[0].ids.len(), found[0].passes, found[0].rows, rows)
        };
        assert_eq!(found(Some(1)), (4, 10, 13, [vec![4], vec![1; 9]].concat()));
        // The second pass leaves one position: 1 of 6 tokens of probability 0.2, and 1 of 3.
        assert_eq!(found(Some(2)), (6, 10, 16, [vec![4; 2], vec![1; 8]].concat()));
        assert_eq!(found(Some(10)), found(None));
        assert_eq!(found(None).2, 40);
    }

    #[test]
    fn poll_ends_the_work() {
        let mut passes = 0;
        let predict =
            |rows: &[Row]| rows.iter().flat_map(|row| row.predicted).map(|_| (1, -1.0)).collect();
        let found = refine(&MaskPredict::default(), &[vec![4]], &mut { predict }, &mut || {
            passes += 1;
            passes < 2
        });
        assert_eq!((found, passes), (None, 2));
    }

    fn hypothesis(log_probs: &[f32]) -> Hypothesis {
        Hypothesis { log_probs: log_probs.to_vec(), ..Hypothesis::new(0, log_probs.len()) }
    }

    #[test]
    fn counts_of_masked_positions_are_the_released_codes() {
        let config = MaskPredict::default();
        let count = |step| Hypothesis { step, ..hypothesis(&[-1.0; 7]) }.masked(&config).len();
        let counts: Vec<_> = (0..=10).map(count).collect();
        assert_eq!(counts, [7, 6, 5, 4, 4, 3, 2, 2, 1, 1, 1]); // floor(7 · (10 − i) / 10)
    }

    #[test]
    fn the_least_certain_come_first_and_ties_by_position() {
        let config = MaskPredict { iterations: 4, ..MaskPredict::default() };
        let masked =
            |step| Hypothesis { step, ..hypothesis(&[-0.5, -2.0, -0.5, -0.1]) }.masked(&config);
        assert_eq!(masked(1), [0, 1, 2]);
        assert_eq!(masked(2), [0, 1]);
    }

    #[test]
    fn the_score_decides_which_length_is_best() {
        let hypotheses = [hypothesis(&[-1.0, -1.0]), hypothesis(&[-0.9; 7])];
        let best_length = |score, length_penalty| {
            let config = MaskPredict { score, length_penalty, ..MaskPredict::default() };
            let best = &hypotheses[best(&hypotheses, &[0, 1], 1, &config)[0]];
            (best.tokens.len(), best.score(&config))
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
        assert_eq!(batches(&[2, 3, 3, 9, 20], 9), [0..3, 3..4, 4..5]);
        assert!(batches(&[], 9).is_empty());
    }
}
