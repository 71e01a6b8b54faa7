//! Whether a difference of BLEU is more than the choice of test sentences (Koehn 2004).
//!
//! The test set is drawn anew, as many sentences with replacement, the same ones for both systems. What
//! is drawn is a pure function of the resample and the place in it, so that an interval is always the
//! same.

use tandem_cluster::run::records::Translation;

use super::bleu::Counts;
use super::{Scoring, lowercase};

/// How often the test set is drawn anew.
const RESAMPLES: usize = 1000;
/// Resamples beyond each end of the interval, which holds 95 % of them.
const BEYOND: usize = RESAMPLES / 40;
const SEED: u64 = 2004;

/// A difference of BLEU (13a), and its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// On the test set itself.
    pub bleu: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// How much higher the BLEU of `system` is than that of `baseline`; none where they did not translate
/// the same test set.
pub fn paired_difference(
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
        let (mut above, mut below) = (Counts::default(), Counts::default());
        for place in places {
            above += &system[place];
            below += &baseline[place];
        }
        above.score_13a() - below.score_13a()
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

/// The random number of a counter (SplitMix64, Steele et al. 2014), among 0, ..., `count` - 1.
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
    fn the_same_translations_do_not_differ() {
        let pairs = [("a b c d e", "a b c d f"), ("g h i j", "g h i k"), ("", "l m n o")];
        let own = translations(&pairs);
        let found = paired_difference(&own, &own, Scoring::default());
        assert_eq!(found, Some(Difference { bleu: 0.0, low: 0.0, high: 0.0 }));
    }

    #[test]
    fn what_differs_in_case_alone_differs_only_where_case_is_scored() {
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
    fn other_test_sets_are_not_compared() {
        let one = translations(&[("a", "b")]);
        assert_eq!(paired_difference(&one, &translations(&[("a", "c")]), Scoring::default()), None);
        assert_eq!(paired_difference(&one, &[], Scoring::default()), None);
        assert_eq!(paired_difference(&[], &[], Scoring::default()), None);
    }
}
