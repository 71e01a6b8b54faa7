//! Chooses the tokens to predict and their replacements in the input, as pure functions of a random stream.

use std::ops::Range;

use tandem_config::schema::model::Corruption;

use super::tokenizer::{SpecialIds, Tokenizer};
use crate::random::Rng;

/// The replacements of noised source tokens in the authors' released code.
pub const SOURCE_NOISE: Corruption = Corruption { mask: 0.8, random: 0.1 };

/// The ids that can replace a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replacements {
    /// Number of ids.
    pub size: usize,
    /// The special ids.
    pub special: SpecialIds,
}

impl Replacements {
    /// The ids of a tokenizer.
    pub fn of(tokenizer: &Tokenizer) -> Self {
        Self { size: tokenizer.size(), special: tokenizer.special() }
    }

    /// Draws the replacement of `id` in the model's input.
    ///
    /// A random token is uniform over the vocabulary without `[PAD]`, which would be taken for padding; the
    /// released code includes it and then miscounts the target's length.
    fn replace(&self, id: u32, corruption: &Corruption, rng: &mut Rng) -> u32 {
        let keep = 1.0 - corruption.mask - corruption.random;
        let u = rng.uniform();
        if u < keep {
            id
        } else if u < keep + corruption.random {
            let drawn = rng.below((self.size as u64).saturating_sub(1)) as u32;
            if drawn < self.special.pad { drawn } else { drawn + 1 }
        } else {
            self.special.mask
        }
    }
}

/// A corrupted sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corrupted {
    /// The model's input.
    pub ids: Vec<u32>,
    /// The positions to predict, ascending.
    pub positions: Vec<usize>,
}

/// Chooses `k ~ U{1..T}` of a target's `T` tokens (which include the final `[SEP]`) and corrupts them.
pub fn target(
    ids: &[u32],
    corruption: &Corruption,
    replacements: &Replacements,
    rng: &mut Rng,
) -> Corrupted {
    let chosen = 1 + rng.below(ids.len() as u64) as usize;
    let positions = rng.sample(ids.len(), chosen);
    corrupt(ids, positions, corruption, replacements, rng)
}

/// Chooses about `share` of those of a target's `length` tokens that are not `predicted`, ascending.
pub fn observed(length: usize, predicted: &[usize], share: f64, rng: &mut Rng) -> Vec<usize> {
    let is_seen = |place: &usize| predicted.binary_search(place).is_err();
    let seen: Vec<usize> = (0..length).filter(is_seen).collect();
    let chosen = rounded(share * seen.len() as f64, rng);
    rng.sample(seen.len(), chosen).into_iter().map(|place| seen[place]).collect()
}

/// A target shifted to the right behind `first`, of which all tokens are predicted.
pub fn shifted(ids: &[u32], first: u32) -> Corrupted {
    let before = std::iter::once(first).chain(ids.iter().copied()).take(ids.len());
    Corrupted { ids: before.collect(), positions: (0..ids.len()).collect() }
}

/// Noises one span of about `share` of a source, as the released code does.
///
/// With `m = max(1, round(share · S))` the span starts at 0 (probability 0.2), at `S - m` (0.2) or
/// uniformly before that (0.6), and covers `m + 1` tokens, clipped to the sentence.
pub fn source_span(
    ids: &[u32],
    share: f64,
    replacements: &Replacements,
    rng: &mut Rng,
) -> Vec<u32> {
    let length = ids.len();
    let span = ((share * length as f64).round_ties_even() as usize).clamp(1, length.max(1));
    let latest = length.saturating_sub(span);
    let u = rng.uniform();
    let start = if u < 0.2 {
        0
    } else if u < 0.4 {
        latest
    } else {
        rng.below(latest as u64) as usize
    };
    let positions = (start..length.min(start + span + 1)).collect();
    corrupt(ids, positions, &SOURCE_NOISE, replacements, rng).ids
}

/// Chooses about `predicted` of the tokens in a `part` of a passage, at least one, and corrupts them.
///
/// Their number is right on average for short passages, too.
pub fn passage(
    ids: &[u32],
    part: Range<usize>,
    predicted: f64,
    corruption: &Corruption,
    replacements: &Replacements,
    rng: &mut Rng,
) -> Corrupted {
    let words = part.len();
    let chosen = rounded(predicted * words as f64, rng).max(1);
    let positions = rng.sample(words, chosen).into_iter().map(|word| part.start + word).collect();
    corrupt(ids, positions, corruption, replacements, rng)
}

/// Rounded up or down at random, so that it is `expected` on average.
fn rounded(expected: f64, rng: &mut Rng) -> usize {
    (expected + rng.uniform()).floor() as usize
}

fn corrupt(
    ids: &[u32],
    positions: Vec<usize>,
    corruption: &Corruption,
    replacements: &Replacements,
    rng: &mut Rng,
) -> Corrupted {
    let mut ids = ids.to_vec();
    for &position in &positions {
        ids[position] = replacements.replace(ids[position], corruption, rng);
    }
    Corrupted { ids, positions }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, stream};

    /// `[PAD]` is neither first nor last, to test that it is skipped.
    const REPLACEMENTS: Replacements =
        Replacements { size: 20, special: SpecialIds { pad: 7, unk: 1, cls: 2, sep: 3, mask: 4 } };
    const PAPER: Corruption = Corruption { mask: 1.0, random: 0.0 };

    fn rng(seed: u64) -> Rng {
        stream(seed, Purpose::TargetCorruption, &[])
    }

    #[test]
    fn a_target_loses_one_to_all_tokens_equally_often() {
        let ids = [10, 11, 12, 13, 3];
        let mut counts = [0u32; 6];
        let mut at_end = 0;
        for seed in 0..5000 {
            let found = target(&ids, &PAPER, &REPLACEMENTS, &mut rng(seed));
            counts[found.positions.len()] += 1;
            at_end += u32::from(found.positions.contains(&4));
            for (place, (&seen, &id)) in found.ids.iter().zip(&ids).enumerate() {
                assert_eq!(seen, if found.positions.contains(&place) { 4 } else { id });
            }
        }
        assert_eq!(counts[0], 0);
        // 1000 each, with a standard deviation of 28; and [SEP] in 3/5 of all.
        assert!(counts[1..].iter().all(|count| count.abs_diff(1000) < 150), "{counts:?}");
        assert!(at_end.abs_diff(3000) < 180, "{at_end}");
    }

    #[test]
    fn a_lone_token_is_predicted() {
        for seed in 0..50 {
            let found = target(&[3], &PAPER, &REPLACEMENTS, &mut rng(seed));
            assert_eq!(found, Corrupted { ids: vec![4], positions: vec![0] });
        }
        let found = target(&[], &PAPER, &REPLACEMENTS, &mut rng(0));
        assert_eq!(found, Corrupted { ids: vec![], positions: vec![] });
    }

    #[test]
    fn the_shares_are_kept_and_padding_is_never_drawn() {
        let ids = vec![19; 1000];
        let corruption = Corruption { mask: 0.8, random: 0.1 };
        let (mut masked, mut random, mut kept) = (0, 0, 0);
        let mut seen = [false; 20];
        for seed in 0..100 {
            let found = target(&ids, &corruption, &REPLACEMENTS, &mut rng(seed));
            for &position in &found.positions {
                let id = found.ids[position];
                seen[id as usize] = true;
                match id {
                    4 => masked += 1,
                    19 => kept += 1,
                    _ => random += 1,
                }
            }
        }
        let total = f64::from(masked + random + kept);
        // A random draw hits [MASK] or the token itself once in 19 each.
        assert!((f64::from(masked) / total - (0.8 + 0.1 / 19.0)).abs() < 0.01);
        assert!((f64::from(random) / total - 0.1 * 17.0 / 19.0).abs() < 0.01);
        let missing: Vec<usize> = (0..20).filter(|&id| !seen[id]).collect();
        assert_eq!(missing, [7], "all but [PAD] are drawn");
    }

    #[test]
    fn the_source_span_is_one_longer_than_its_share_and_clipped() {
        // S = 20, m = 2: spans 0..=2, 18..=19 (clipped), or start..=start + 2 with start < 18.
        let ids: Vec<u32> = vec![15; 20];
        let mut starts = [0u32; 20];
        for seed in 0..20_000 {
            let found = source_span(&ids, 0.1, &REPLACEMENTS, &mut rng(seed));
            let changed: Vec<usize> = (0..20).filter(|&place| found[place] != 15).collect();
            if let (Some(&first), Some(&last)) = (changed.first(), changed.last()) {
                assert!(last - first <= 2);
                // The start of the span is only known if all of it has changed.
                if last - first == 2 || last == 19 && first == 18 {
                    starts[first] += 1;
                }
            }
        }
        // Each is seen with probability ~0.9^2 or more: 0.2 + 0.6/18, 0.6/18, 0.2.
        assert!(starts[0] > 3000 && starts[18] > 2500 && starts[19] == 0, "{starts:?}");
        assert!(starts[1..18].iter().all(|&count| count > 300 && count < 1000), "{starts:?}");
    }

    #[test]
    fn short_sources_are_noised_without_failing() {
        for seed in 0..200 {
            assert!(source_span(&[], 0.1, &REPLACEMENTS, &mut rng(seed)).is_empty());
            assert_eq!(source_span(&[9], 0.1, &REPLACEMENTS, &mut rng(seed)).len(), 1);
            assert_eq!(source_span(&[9, 3], 0.9, &REPLACEMENTS, &mut rng(seed)).len(), 2);
        }
    }

    #[test]
    fn a_share_of_what_is_seen_is_chosen() {
        let (mut chosen, mut counts) = (0, [0u32; 7]);
        for seed in 0..4000 {
            let found = observed(7, &[0, 2, 5], 0.3, &mut rng(seed));
            assert!(found.is_sorted() && found.iter().all(|place| [1, 3, 4, 6].contains(place)));
            chosen += found.len();
            found.iter().for_each(|&place| counts[place] += 1);
        }
        // 0.3 x 4 = 1.2 on average, each place as often.
        assert!((f64::from(chosen as u32) / 4000.0 - 1.2).abs() < 0.04, "{chosen}");
        assert!([1, 3, 4, 6].iter().all(|&place| counts[place].abs_diff(1200) < 120), "{counts:?}");
        assert_eq!(observed(3, &[0, 1, 2], 1.0, &mut rng(0)), [0; 0]);
        assert_eq!(observed(4, &[1], 1.0, &mut rng(0)), [0, 2, 3]);
    }

    #[test]
    fn a_passage_keeps_its_ends_and_predicts_its_share() {
        let mut passage_ids = vec![2];
        passage_ids.extend([12; 5]);
        passage_ids.push(3);
        let mut chosen = 0;
        for seed in 0..4000 {
            let found = passage(&passage_ids, 1..6, 0.3, &PAPER, &REPLACEMENTS, &mut rng(seed));
            assert!(found.positions.iter().all(|&place| (1..=5).contains(&place)));
            assert!(!found.positions.is_empty());
            chosen += found.positions.len();
        }
        // 0.3 x 5 = 1.5 on average.
        assert!((chosen as f64 / 4000.0 - 1.5).abs() < 0.05, "{chosen}");
        for seed in 0..50 {
            let found = passage(&[2, 12, 3], 1..2, 0.15, &PAPER, &REPLACEMENTS, &mut rng(seed));
            assert_eq!(found.positions, [1]);
            let found = passage(&[2, 3], 1..1, 0.15, &PAPER, &REPLACEMENTS, &mut rng(seed));
            assert_eq!(found, Corrupted { ids: vec![2, 3], positions: vec![] });
        }
    }
}
