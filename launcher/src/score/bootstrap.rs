//! The significance of a difference in BLEU, by paired bootstrap resampling (Koehn 2004).
//!
//! Each resample draws as many sentences as the test set has, with replacement, and the same ones for
//! both systems. The drawn sentence is a pure function of the resample and the position in it, so that an
//! interval is reproducible.

use tandem_cluster::run::records::Translation;

use super::bleu::Counts;
use super::{Scoring, lowercase};

const RESAMPLES: usize = 1000;
/// The number of resamples beyond each end of the interval, which contains 95 % of them.
const BEYOND: usize = RESAMPLES / 40;
const SEED: u64 = 2004;

/// A difference of BLEU (13a) with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Difference {
    /// The difference on the test set itself.
    pub bleu: f64,
    /// The lower end of the interval.
    pub low: f64,
    /// The upper end of the interval.
    pub high: f64,
}

/// The BLEU of `system` minus that of `baseline`, unless they translated different test sets.
pub(crate) fn paired_difference(
    system: &[Translation],
    baseline: &[Translation],
    scoring: Scoring,
) -> Option<Difference> {
    let references = |translations: &[Translation]| -> Vec<String> {
        translations.iter().map(|translation| translation.reference.clone()).collect()
    };
    if system.is_empty() || references(system) != references(baseline) {
        return None;
    }
    let counts = |translations: &[Translation]| -> Vec<Counts> {
        let count = |translation: &Translation| match scoring.lowercase {
            true => Counts::of_13a(&lowercase(translation)),
            false => Counts::of_13a(translation),
        };
        translations.iter().map(count).collect()
    };
    let (system, baseline) = (counts(system), counts(baseline));
    let difference = |places: &mut dyn Iterator<Item = usize>| {
        let (mut system_counts, mut baseline_counts) = (Counts::default(), Counts::default());
        for place in places {
            system_counts += &system[place];
            baseline_counts += &baseline[place];
        }
        system_counts.score_13a() - baseline_counts.score_13a()
    };
    let count = system.len();
    let resample = |sample: usize| {
        let first = (sample * count) as u64;
        let mut places = (first..first + count as u64).map(|counter| below(count, counter));
        difference(&mut places)
    };
    let mut resamples: Vec<f64> = (0..RESAMPLES).map(resample).collect();
    resamples.sort_by(f64::total_cmp);
    Some(Difference {
        bleu: difference(&mut (0..count)),
        low: resamples[BEYOND],
        high: resamples[RESAMPLES - 1 - BEYOND],
    })
}

/// A random number below `count`, as a function of `counter` (SplitMix64, Steele et al. 2014).
fn below(count: usize, counter: u64) -> usize {
    let mut bits = SEED.wrapping_add((counter + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    ((u128::from(bits) * count as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translations(pairs: &[(&str, &str)]) -> Vec<Translation> {
        let translation = |(hypothesis, reference): &(&str, &str)| Translation {
            hypothesis: (*hypothesis).into(),
            reference: (*reference).into(),
            ..Translation::default()
        };
        pairs.iter().map(translation).collect()
    }

    #[test]
    fn identical_translations_have_no_difference() {
        let pairs = [("a b c d e", "a b c d f"), ("g h i j", "g h i k"), ("", "l m n o")];
        let own = translations(&pairs);
        let found = paired_difference(&own, &own, Scoring::default());
        assert_eq!(found, Some(Difference { bleu: 0.0, low: 0.0, high: 0.0 }));
    }

    #[test]
    fn a_difference_in_case_disappears_with_lowercase() {
        let references = ["A b c d", "E f g h", "I j k l"];
        let small = references.map(str::to_lowercase);
        let own = translations(&references.map(|text| (text, text)));
        let pairs: Vec<_> = small.iter().map(String::as_str).zip(references).collect();
        let small = translations(&pairs);
        let found = paired_difference(&own, &small, Scoring::default()).unwrap();
        assert!(found.bleu > 0.0 && 0.0 < found.low && found.low <= found.high, "{found:?}");
        let lowercase = Scoring { lowercase: true, ..Scoring::default() };
        assert_eq!(paired_difference(&own, &small, lowercase).unwrap().bleu, 0.0);
    }

    #[test]
    fn different_test_sets_are_not_compared() {
        let one = translations(&[("a", "b")]);
        assert_eq!(paired_difference(&one, &translations(&[("a", "c")]), Scoring::default()), None);
        assert_eq!(paired_difference(&one, &[], Scoring::default()), None);
        assert_eq!(paired_difference(&[], &[], Scoring::default()), None);
    }
}
