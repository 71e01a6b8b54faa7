//! Runs that had fewer or more back-translated lines than their row asks for.

use tandem_config::RunConfig;

use crate::journal::State;
use crate::prepare::distillation::{self, DistillationStats};

/// The share of the wanted lines that may be missing or extra: a few are always dropped.
const TOLERANCE: f64 = 0.02;

/// A note on how many back-translated lines a run was trained on, if the row asks for another number.
pub(crate) fn note(config: &RunConfig, state: &State) -> Option<String> {
    let back_translation = config.data.back_translation.as_ref()?;
    let stats = distillation::stats(config).into_iter().find(|stats| stats.ratio.is_some())?;
    let train = state.data.iter().find(|report| report.split == "train")?;
    describe(back_translation.ratio, &stats, train.read)
}

/// `wanted_ratio` is the number of back-translated lines for each pair; `read` counts all pairs,
/// including back-translated ones.
fn describe(wanted_ratio: f64, stats: &DistillationStats, read: u64) -> Option<String> {
    let pairs = read.checked_sub(stats.sentences as u64).filter(|pairs| *pairs > 0)?;
    let lines = stats.sentences.saturating_sub(stats.empty);
    let wanted = wanted_ratio * pairs as f64;
    let is_far = (lines as f64 - wanted).abs() > (TOLERANCE * wanted).max(1.0);
    is_far.then(|| {
        let ratio = lines as f64 / pairs as f64;
        format!(
            "trained on {lines} back-translated lines in addition to {pairs} pairs, {ratio:.3} for \
             each pair instead of {wanted_ratio}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_short_is_reported_with_its_actual_ratio() {
        let stats = |sentences, empty| DistillationStats {
            key: "data.back_translation".into(),
            teacher: "runs/teacher".into(),
            sentences,
            ratio: Some(0.44),
            empty,
            duplicates: 0,
            reference_duplicates: None,
            length_ratio: 1.0,
            scores: None,
        };
        assert_eq!(describe(0.44, &stats(440, 3), 1440), None); // 437 of 1000
        assert_eq!(describe(0.11, &stats(7, 0), 67), None, "there are no 6.6 lines");
        assert_eq!(
            describe(0.44, &stats(250, 50), 1250).unwrap(),
            "trained on 200 back-translated lines in addition to 1000 pairs, 0.200 for each pair \
             instead of 0.44"
        );
        assert_eq!(describe(0.44, &stats(250, 0), 250), None, "without pairs there is no ratio");
    }
}
