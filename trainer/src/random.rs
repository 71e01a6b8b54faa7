//! Counted randomness: every random choice is a pure function of where it is made.
//!
//! A stream is named by the run's seed, its purpose and its coordinates (epoch, sample, step, ...).
//! The name is hashed with SHA-256 into the key of a ChaCha8 generator, so that streams are
//! independent, and their bits are the same on every machine, for every number of ranks, and after
//! a resume.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};

/// The purpose of a stream of random numbers. Streams of different purposes are independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Initial values of new weights.
    Weights,
    /// The order of the training samples.
    Order,
    /// The target tokens to predict, and their replacements.
    TargetCorruption,
    /// The noised part of the source, and its replacements.
    SourceNoise,
    /// The tokens that a masked language model predicts, and their replacements.
    MaskedLanguageModel,
    /// Target corruption in evaluation: the same at every step of a run.
    EvaluationCorruption,
    /// Dropout masks.
    Dropout,
    /// The target tokens that are shown to a decoder in training.
    Glancing,
    /// The target tokens that predictions take the place of, to be corrected.
    Correction,
}

impl Purpose {
    /// The purpose's name in the key. It must never change, since newer versions resume older runs.
    fn name(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::Order => "order",
            Self::TargetCorruption => "target corruption",
            Self::SourceNoise => "source noise",
            Self::MaskedLanguageModel => "masked language model",
            Self::EvaluationCorruption => "evaluation corruption",
            Self::Dropout => "dropout",
            Self::Glancing => "glancing",
            Self::Correction => "correction",
        }
    }
}

/// The stream of random numbers with this name.
pub fn stream(seed: u64, purpose: Purpose, coordinates: &[u64]) -> Rng {
    let mut key = Sha256::new();
    key.update(seed.to_le_bytes());
    key.update((coordinates.len() as u64).to_le_bytes());
    for coordinate in coordinates {
        key.update(coordinate.to_le_bytes());
    }
    key.update(purpose.name());
    Rng(ChaCha8Rng::from_seed(key.finalize().into()))
}

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in [0, 1), in steps of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform among 0, 1, ..., `n` - 1, without bias; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        // Lemire 2019: the high half of a 128-bit product, rejecting the uneven rest. The rest is less than n,
        // so that the slow division is rarely needed.
        if n == 0 {
            return 0;
        }
        loop {
            let product = u128::from(self.bits()) * u128::from(n);
            let low = product as u64;
            if low >= n || low >= n.wrapping_neg() % n {
                return (product >> 64) as u64;
            }
        }
    }

    /// Normal with mean 0 and standard deviation 1 (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Shuffles the items (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }

    /// `k` distinct numbers from 0, ..., `n` - 1, ascending; all of them if `k` exceeds `n`.
    pub fn sample(&mut self, n: usize, k: usize) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..n).collect();
        let k = k.min(n);
        for first in 0..k {
            numbers.swap(first, first + self.below((n - first) as u64) as usize);
        }
        numbers.truncate(k);
        numbers.sort_unstable();
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_a_function_of_its_name() {
        let bits = |seed, purpose, at: &[u64]| stream(seed, purpose, at).bits();
        let first = bits(1, Purpose::Order, &[2, 3]);
        assert_eq!(first, bits(1, Purpose::Order, &[2, 3]));
        assert_ne!(first, bits(2, Purpose::Order, &[2, 3]));
        assert_ne!(first, bits(1, Purpose::Dropout, &[2, 3]));
        assert_ne!(first, bits(1, Purpose::Order, &[3, 2]));
        assert_ne!(first, bits(1, Purpose::Order, &[2, 3, 0]));
    }

    /// A change here breaks resuming every existing run.
    #[test]
    fn bits_never_change() {
        let mut rng = stream(1, Purpose::Order, &[0, 7]);
        assert_eq!([rng.bits(), rng.bits()], [2669590321232449193, 9144806766853478243]);
    }

    #[test]
    fn below_is_uniform_and_bounded() {
        let mut rng = stream(5, Purpose::Order, &[]);
        assert_eq!((rng.below(0), rng.below(1)), (0, 0));
        let mut counts = [0u32; 3];
        for _ in 0..30_000 {
            counts[rng.below(3) as usize] += 1;
        }
        // 10,000 each, with a standard deviation of 82.
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 400), "{counts:?}");
    }

    #[test]
    fn below_rejects_exactly_the_uneven_rest() {
        let (mut rng, mut plain) = (stream(7, Purpose::Order, &[]), stream(7, Purpose::Order, &[]));
        let mut rejected = 0;
        for n in [1, 2, 3, 1000, (1 << 63) - 1, (1 << 63) + 1, u64::MAX / 3 * 2, u64::MAX] {
            for _ in 0..100 {
                let expected = loop {
                    let product = u128::from(plain.bits()) * u128::from(n);
                    if product % (1 << 64) >= (1 << 64) % u128::from(n) {
                        break (product >> 64) as u64;
                    }
                    rejected += 1;
                };
                assert_eq!(rng.below(n), expected);
            }
        }
        assert!(rejected > 100, "{rejected}");
    }

    #[test]
    fn uniform_and_normal_have_their_moments() {
        let mut rng = stream(6, Purpose::Weights, &[]);
        let uniform: Vec<f64> = (0..20_000).map(|_| rng.uniform()).collect();
        assert!(uniform.iter().all(|u| (0.0..1.0).contains(u)));
        assert!((uniform.iter().sum::<f64>() / 20_000.0 - 0.5).abs() < 0.01);
        let normal: Vec<f64> = (0..20_000).map(|_| rng.normal()).collect();
        let mean = normal.iter().sum::<f64>() / 20_000.0;
        let variance = normal.iter().map(|x| x * x).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }

    #[test]
    fn samples_are_different_ascending_and_reach_everything() {
        for seed in 0..200 {
            let mut rng = stream(seed, Purpose::Order, &[]);
            let (n, k) = (rng.below(20) as usize, rng.below(25) as usize);
            let sample = rng.sample(n, k);
            assert_eq!(sample.len(), k.min(n));
            assert!(sample.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(sample.iter().all(|&i| i < n));
        }
        let mut seen = [0u32; 5];
        for seed in 0..1000 {
            for i in stream(seed, Purpose::Order, &[]).sample(5, 2) {
                seen[i] += 1;
            }
        }
        // 400 each, with a standard deviation of 15.
        assert!(seen.iter().all(|count| count.abs_diff(400) < 80), "{seen:?}");
    }

    #[test]
    fn a_shuffle_keeps_all_items() {
        let mut items: Vec<u32> = (0..100).collect();
        stream(9, Purpose::Order, &[]).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
