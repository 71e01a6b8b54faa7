//! Alignments of CTC: which class each position predicts so that a target is left when equal neighbours
//! are merged and blanks removed.
//!
//! Shapes: T positions, C classes of which 0 is the blank, L tokens of a target.

/// The most probable alignment of a target with its positions, by log-probabilities `[T, C]`: a class for
/// each position. None where the target does not fit into the positions.
pub(crate) fn best_alignment(
    log_probs: &[f32],
    classes: usize,
    target: &[usize],
) -> Option<Vec<usize>> {
    // States are the target's tokens with a blank before, between and after them.
    let states = 2 * target.len() + 1;
    let class = |state: usize| if state.is_multiple_of(2) { 0 } else { target[state / 2] };
    // A blank may be left out between different tokens.
    let skips = |state: usize| state >= 3 && class(state) != 0 && class(state) != class(state - 2);
    let positions = log_probs.len() / classes;
    let mut came_from = vec![0u8; positions * states]; // by how many states
    let mut scores = vec![f32::NEG_INFINITY; states];
    let mut next = scores.clone();
    for (position, log_probs) in log_probs.chunks(classes).enumerate() {
        for state in 0..states {
            let mut best = (scores[state], 0);
            if position == 0 {
                best.0 = if state < 2 { 0.0 } else { f32::NEG_INFINITY };
            } else {
                if state >= 1 && scores[state - 1] > best.0 {
                    best = (scores[state - 1], 1);
                }
                if skips(state) && scores[state - 2] > best.0 {
                    best = (scores[state - 2], 2);
                }
            }
            next[state] = best.0 + log_probs[class(state)];
            came_from[position * states + state] = best.1;
        }
        std::mem::swap(&mut scores, &mut next);
    }
    let (end, before) = (states - 1, states.saturating_sub(2));
    let mut state = if scores[before] > scores[end] { before } else { end };
    if positions == 0 {
        return target.is_empty().then(Vec::new);
    }
    if scores[state] == f32::NEG_INFINITY {
        return None;
    }
    let mut path = vec![0; positions];
    for position in (0..positions).rev() {
        path[position] = class(state);
        state -= usize::from(came_from[position * states + state]);
    }
    Some(path)
}

/// What is left of predicted classes or words: equal neighbours merged, blanks removed.
pub(crate) fn collapse<T: Copy + PartialEq>(predictions: &[Option<T>]) -> Vec<T> {
    let mut before = None;
    let mut left = Vec::new();
    for &prediction in predictions {
        if let Some(word) = prediction.filter(|_| prediction != before) {
            left.push(word);
        }
        before = prediction;
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, stream};

    /// Every sequence of so many classes at so many positions.
    fn all(classes: usize, positions: usize) -> impl Iterator<Item = Vec<usize>> {
        (0..classes.pow(positions as u32)).map(move |mut number| {
            let digit = |_| {
                let digit = number % classes;
                number /= classes;
                digit
            };
            (0..positions).map(digit).collect()
        })
    }

    fn collapsed(path: &[usize]) -> Vec<usize> {
        let words: Vec<Option<usize>> =
            path.iter().map(|&class| (class > 0).then_some(class)).collect();
        collapse(&words)
    }

    #[test]
    fn predictions_collapse() {
        for (path, target) in [
            (&[0, 0, 0][..], &[][..]),
            (&[1, 1, 0, 1, 2, 2], &[1, 1, 2]),
            (&[0, 3, 0, 0, 3, 3], &[3, 3]),
            (&[2], &[2]),
        ] {
            assert_eq!(collapsed(path), target, "{path:?}");
        }
    }

    #[test]
    fn no_alignment_is_better_than_the_best() {
        let mut rng = stream(1, Purpose::Order, &[]);
        let score = |log_probs: &[f32], path: &[usize]| -> f32 {
            path.iter().enumerate().map(|(position, &class)| log_probs[position * 4 + class]).sum()
        };
        let targets: [&[usize]; 7] =
            [&[], &[2], &[1, 1], &[1, 2], &[3, 1, 3], &[2, 2, 2], &[1, 2, 3, 1]];
        for positions in 1..=5 {
            let log_probs: Vec<f32> =
                (0..positions * 4).map(|_| rng.uniform().ln() as f32).collect();
            for target in targets {
                let best = all(4, positions)
                    .filter(|path| collapsed(path) == target)
                    .map(|path| score(&log_probs, &path))
                    .max_by(f32::total_cmp);
                let found = best_alignment(&log_probs, 4, target);
                assert_eq!(found.is_some(), best.is_some(), "{target:?} at {positions} positions");
                if let (Some(path), Some(best)) = (found, best) {
                    assert_eq!(collapsed(&path), target);
                    assert!((score(&log_probs, &path) - best).abs() < 1e-5, "{target:?}");
                }
            }
        }
    }
}
