//! Length-bucketed batches whose order is a pure function of (seed, epoch).

use crate::random::{Purpose, stream};

/// Why batches cannot be formed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// There are no samples.
    #[error("there are no training samples; see the report on the data")]
    NoSamples,
    /// A sample does not fit into a batch.
    #[error(
        "training.max_tokens is {max_tokens}, but the sample of line {line} alone has {length} \
         tokens; raise max_tokens or lower data.max_length"
    )]
    TooLong {
        /// The sample's line in its file.
        line: u64,
        /// Its longer side's length.
        length: usize,
        /// Padded tokens that a batch may have.
        max_tokens: usize,
    },
}

/// What layers keep of each token takes as much memory as what attention keeps of so many that it sees:
/// `Shape::activations` with heads 64 wide, and a feed-forward block four times as wide as its input.
const OF_A_TOKEN: usize = 608;

/// A sample's source and target length in tokens. The target length of a passage is 0.
pub type Lengths = (u32, u32);

/// All batches of a training split.
///
/// A batch's padded tokens are its number of samples times its longest side. Samples are sorted by
/// their longer side, with ties (and similar other sides) in random order, and cut into batches, which are then
/// shuffled. The cuts depend only on the lengths, so every epoch has the same number of batches, and the n-th
/// batch of all is found without computing earlier ones.
#[derive(Debug, Clone)]
pub struct Batches {
    /// The bucket of each sample, by its number in ascending order.
    buckets: Vec<u32>,
    /// Where each bucket begins in sorted order.
    starts: Vec<u32>,
    /// The first sample of each batch in sorted order, and the end.
    cuts: Vec<usize>,
    seed: u64,
}

impl Batches {
    /// Cuts a split into batches of at most `max_tokens` padded tokens. `line` returns a sample's line for
    /// messages.
    ///
    /// # Errors
    /// No samples, or one that alone has more than `max_tokens` tokens.
    pub fn new(
        lengths: &[Lengths],
        max_tokens: usize,
        seed: u64,
        line: impl Fn(usize) -> u64,
    ) -> Result<Self, BatchError> {
        if lengths.is_empty() {
            return Err(BatchError::NoSamples);
        }
        if let Some(sample) = lengths.iter().position(|&sample| longer(sample) > max_tokens) {
            let length = longer(lengths[sample]);
            return Err(BatchError::TooLong { line: line(sample), length, max_tokens });
        }
        // Buckets are far fewer than samples, so that counting is faster than comparing.
        let mut counts: Vec<Vec<u32>> = vec![];
        for &sample in lengths {
            let (longer, column) = bucket(sample);
            if counts.len() <= longer {
                counts.resize(longer + 1, vec![]);
            }
            counts[longer].resize(buckets(longer), 0);
            counts[longer][column] += 1;
        }
        let sorted = counts.iter().enumerate().flat_map(|(longer, row)| {
            std::iter::repeat_n(longer, row.iter().sum::<u32>() as usize)
        });
        let cuts = cut(sorted, max_tokens);
        let (mut numbers, mut starts, mut start) = (counts, vec![], 0);
        for cell in numbers.iter_mut().flatten().filter(|count| **count > 0) {
            let count = std::mem::replace(cell, starts.len() as u32);
            starts.push(start);
            start += count;
        }
        let number = |&sample: &Lengths| {
            let (longer, column) = bucket(sample);
            numbers[longer][column]
        };
        Ok(Self { buckets: lengths.iter().map(number).collect(), starts, cuts, seed })
    }

    /// The number of batches in an epoch.
    pub fn per_epoch(&self) -> u64 {
        self.cuts.len() as u64 - 1
    }

    /// The epoch of the n-th batch of all (from 0), and its index in that epoch.
    pub fn locate(&self, n: u64) -> (u64, usize) {
        (n / self.per_epoch(), (n % self.per_epoch()) as usize)
    }

    /// The batches of an epoch, in their order.
    pub fn epoch(&self, epoch: u64) -> Epoch {
        let mut rng = stream(self.seed, Purpose::Order, &[epoch]);
        let mut shuffled: Vec<u32> = (0..self.buckets.len() as u32).collect();
        rng.shuffle(&mut shuffled);
        let mut samples = vec![0; shuffled.len()];
        let mut ends = self.starts.clone();
        for sample in shuffled {
            let end = &mut ends[self.buckets[sample as usize] as usize];
            samples[*end as usize] = sample;
            *end += 1;
        }
        let mut order: Vec<u32> = (0..self.per_epoch() as u32).collect();
        rng.shuffle(&mut order);
        Epoch { samples, cuts: self.cuts.clone(), order }
    }
}

/// The batches of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    samples: Vec<u32>,
    cuts: Vec<usize>,
    order: Vec<u32>,
}

impl Epoch {
    /// The samples of a batch by its index, which must be below [`Batches::per_epoch`].
    pub fn batch(&self, place: usize) -> &[u32] {
        let batch = self.order[place] as usize;
        &self.samples[self.cuts[batch]..self.cuts[batch + 1]]
    }

    /// The samples of the batch that takes most memory. `lengths` are those of all samples.
    pub fn largest(&self, lengths: &[Lengths]) -> &[u32] {
        let size = |samples: &&[u32]| {
            let longest = samples.last().map_or(0, |&last| longer(lengths[last as usize]));
            samples.len() * longest * (OF_A_TOKEN + longest)
        };
        let batches = self.cuts.windows(2).map(|ends| &self.samples[ends[0]..ends[1]]);
        batches.max_by_key(size).unwrap_or_default()
    }
}

/// Batches for evaluation and translation: the longest samples first, in a fixed order, every
/// sample exactly once. A sample that alone exceeds `max_tokens` is a batch of its own.
pub fn evaluation_batches(lengths: &[Lengths], max_tokens: usize) -> Vec<Vec<u32>> {
    let mut samples: Vec<u32> = (0..lengths.len() as u32).collect();
    samples.sort_by_key(|&sample| bucket(lengths[sample as usize]));
    let sorted = samples.iter().map(|&sample| longer(lengths[sample as usize]));
    let cuts = cut(sorted, max_tokens);
    let mut batches: Vec<Vec<u32>> =
        cuts.windows(2).map(|ends| samples[ends[0]..ends[1]].to_vec()).collect();
    batches.reverse();
    batches
}

/// The bounds of batches over ascending lengths, including 0 and the end.
fn cut(sorted: impl Iterator<Item = usize>, max_tokens: usize) -> Vec<usize> {
    let mut cuts = vec![0];
    let (mut first, mut end) = (0, 0);
    for length in sorted {
        if end > first && length * (end + 1 - first) > max_tokens {
            cuts.push(end);
            first = end;
        }
        end += 1;
    }
    if end > 0 {
        cuts.push(end);
    }
    cuts
}

fn longer((source, target): Lengths) -> usize {
    source.max(target) as usize
}

/// The sort key of a sample: first the longer side, which decides where batches are cut; then, as one number
/// below [`buckets`], which side that is and the other one in steps of 4 tokens, to reduce padding.
fn bucket((source, target): Lengths) -> (usize, usize) {
    let longer = source.max(target) as usize;
    let first = if source > target { buckets(longer) / 2 } else { 0 };
    (longer, first + source.min(target) as usize / 4)
}

/// The number of buckets whose longer side is this one.
fn buckets(longer: usize) -> usize {
    2 * (longer / 4 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Rng;

    fn lengths(rng: &mut Rng, count: usize) -> Vec<Lengths> {
        let mut side = || 1 + rng.below(30) as u32;
        (0..count).map(|_| (side(), side())).collect()
    }

    fn rng(seed: u64) -> Rng {
        stream(seed, Purpose::Weights, &[])
    }

    #[test]
    fn every_epoch_has_every_sample_once_in_batches_that_fit() {
        for seed in 0..100 {
            let mut rng = rng(seed);
            let count = 1 + rng.below(300) as usize;
            let lengths = lengths(&mut rng, count);
            let max_tokens = 30 + rng.below(200) as usize;
            let batches = Batches::new(&lengths, max_tokens, seed, |_| 0).unwrap();
            for epoch in 0..3 {
                let order = batches.epoch(epoch);
                let mut seen = Vec::new();
                for place in 0..batches.per_epoch() as usize {
                    let batch = order.batch(place);
                    let longest = batch.iter().map(|&s| longer(lengths[s as usize])).max();
                    assert!(longest.unwrap() * batch.len() <= max_tokens);
                    seen.extend_from_slice(batch);
                }
                seen.sort_unstable();
                assert_eq!(seen, (0..count as u32).collect::<Vec<_>>());
            }
        }
    }

    /// The plain definition of the order. A change here breaks resuming every existing run.
    #[test]
    fn an_epoch_is_shuffled_sorted_by_bucket_and_cut() {
        for seed in 0..200 {
            let mut rng = rng(seed);
            let (count, longest) = (1 + rng.below(2000), 1 + rng.below(70));
            let mut side = || rng.below(longest) as u32;
            let lengths: Vec<Lengths> = (0..count).map(|_| (side(), side())).collect();
            let max_tokens = (longest + rng.below(500)) as usize;
            let batches = Batches::new(&lengths, max_tokens, seed, |_| 0).unwrap();

            let mut sorted: Vec<usize> = lengths.iter().copied().map(longer).collect();
            sorted.sort_unstable();
            let key = |(source, target): Lengths| {
                (source.max(target), source > target, source.min(target) / 4)
            };
            let cuts = cut(sorted.into_iter(), max_tokens);
            for epoch in 0..3 {
                let mut rng = stream(seed, Purpose::Order, &[epoch]);
                let mut samples: Vec<u32> = (0..lengths.len() as u32).collect();
                rng.shuffle(&mut samples);
                samples.sort_by_key(|&sample| key(lengths[sample as usize]));
                let mut order: Vec<u32> = (0..cuts.len() as u32 - 1).collect();
                rng.shuffle(&mut order);
                let cuts = cuts.clone();
                assert_eq!(batches.epoch(epoch), Epoch { samples, cuts, order });
            }
        }
    }

    #[test]
    fn the_largest_batch_is_full_of_long_samples() {
        // 8 of 3 tokens, 3 of 8, and 1 of 20: longer, but not full.
        let lengths: Vec<Lengths> =
            [(3, 3); 10].into_iter().chain([(5, 8); 7]).chain([(20, 2)]).collect();
        let batches = Batches::new(&lengths, 24, 1, |_| 0).unwrap();
        for epoch in 0..3 {
            let epoch = batches.epoch(epoch);
            let largest = epoch.largest(&lengths);
            assert_eq!(largest.len(), 3);
            assert!(largest.iter().all(|&sample| (10..17).contains(&sample)));
        }
    }

    #[test]
    fn an_epoch_is_a_function_of_seed_and_number() {
        let lengths = lengths(&mut rng(1), 500);
        let batches = |seed| Batches::new(&lengths, 100, seed, |_| 0).unwrap();
        assert_eq!(batches(1).epoch(3), batches(1).epoch(3));
        assert_ne!(batches(1).epoch(3), batches(1).epoch(4));
        assert_ne!(batches(1).epoch(3), batches(2).epoch(3));
        // Not only the order of the batches changes, but also their samples.
        let partners = |epoch: Epoch| {
            let batch = (0..batches(1).per_epoch() as usize)
                .find(|&place| epoch.batch(place).contains(&7))
                .unwrap();
            let mut partners = epoch.batch(batch).to_vec();
            partners.sort_unstable();
            partners
        };
        assert_ne!(partners(batches(1).epoch(0)), partners(batches(1).epoch(1)));
    }

    #[test]
    fn the_nth_batch_of_all_is_found_directly() {
        let batches = Batches::new(&[(4, 4); 10], 8, 1, |_| 0).unwrap();
        assert_eq!(batches.per_epoch(), 5);
        assert_eq!(batches.locate(0), (0, 0));
        assert_eq!(batches.locate(4), (0, 4));
        assert_eq!(batches.locate(13), (2, 3));
    }

    #[test]
    fn a_sample_that_cannot_fit_is_named_by_its_line() {
        let error = Batches::new(&[(3, 3), (2, 9)], 8, 1, |sample| sample as u64 + 10);
        let expected = BatchError::TooLong { line: 11, length: 9, max_tokens: 8 };
        assert_eq!(error.unwrap_err(), expected);
        assert_eq!(Batches::new(&[], 8, 1, |_| 0).unwrap_err(), BatchError::NoSamples);
    }

    #[test]
    fn evaluation_batches_are_fixed_start_long_and_take_everything() {
        for seed in 0..50 {
            let lengths = lengths(&mut rng(seed), seed as usize);
            let batches = evaluation_batches(&lengths, 20);
            let mut seen = batches.concat();
            let longest = batches
                .first()
                .map(|batch| batch.iter().map(|&s| longer(lengths[s as usize])).max().unwrap());
            assert_eq!(longest, lengths.iter().copied().map(longer).max());
            seen.sort_unstable();
            assert_eq!(seen, (0..lengths.len() as u32).collect::<Vec<_>>());
            for batch in &batches {
                let longest = batch.iter().map(|&s| longer(lengths[s as usize])).max().unwrap();
                assert!(batch.len() == 1 || longest * batch.len() <= 20);
            }
            assert_eq!(batches, evaluation_batches(&lengths, 20));
        }
    }
}
