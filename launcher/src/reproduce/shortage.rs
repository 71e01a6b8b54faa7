//! Back-translated lines that a row asks for and its run did not have.

use tandem_config::RunConfig;

use crate::journal::State;
use crate::prepare::distillation::{self, DistillationStats};

/// What share of the wanted lines may be missing, or be there besides: a few are always dropped.
const TOLERANCE: f64 = 0.02;

/// What a row's run was trained on, if that is not as many back-translated lines as the row asks for.
pub fn note(config: &RunConfig, state: &State) -> Option<String> {
    let back_translation = config.data.back_translation.as_ref()?;
    let taught = distillation::stats(config).into_iter().find(|taught| taught.ratio.is_some())?;
    let train = state.data.iter().find(|report| report.split == "train")?;
    told(back_translation.ratio, &taught, train.read)
}

/// `read` are all pairs, the back-translated ones among them.
fn told(asked: f64, taught: &DistillationStats, read: u64) -> Option<String> {
    let pairs = read.checked_sub(taught.sentences as u64).filter(|pairs| *pairs > 0)?;
    let lines = taught.sentences.saturating_sub(taught.empty);
    let wanted = asked * pairs as f64;
    let is_far = (lines as f64 - wanted).abs() > (TOLERANCE * wanted).max(1.0);
    is_far.then(|| {
        let ratio = lines as f64 / pairs as f64;
        format!(
            "trained on {lines} back-translated lines beside {pairs} pairs, {ratio:.3} for each and \
             not {asked}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_short_is_told_by_its_true_share() {
        let taught = |sentences, empty| DistillationStats {
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
        assert_eq!(told(0.44, &taught(440, 3), 1440), None); // 437 of 1000
        assert_eq!(told(0.11, &taught(7, 0), 67), None, "there are no 6.6 lines");
        assert_eq!(
            told(0.44, &taught(250, 50), 1250).unwrap(),
            "trained on 200 back-translated lines beside 1000 pairs, 0.200 for each and not 0.44"
        );
        assert_eq!(told(0.44, &taught(250, 0), 250), None, "of no pairs there is no share");
    }
}
