//! When checkpoints are written and which are kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When checkpoints are written and which are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Checkpoints {
    /// Steps between two checkpoints. One more is written after the last step, one at each
    /// evaluation, so that any of them can be the best, and one at a stop. These extra ones count
    /// neither for `keep_last` nor for `average`; they go when they are neither the newest nor
    /// among the best.
    #[schemars(range(min = 1))]
    pub every: u64,
    /// The newest so many are kept.
    #[schemars(range(min = 1))]
    pub keep_last: usize,
    /// So many with the best `evaluation.metric` are kept besides.
    pub keep_best: usize,
    /// Checkpoints of every so many steps are kept besides; 0 for none.
    pub keep_every: u64,
    /// The finished model is the average of the newest so many.
    #[schemars(range(min = 1))]
    pub average: usize,
}

impl Checkpoints {
    /// Whether one is written after `step` of `steps`, whatever else happens there.
    pub fn is_due(&self, step: u64, steps: u64) -> bool {
        step.is_multiple_of(self.every) || step == steps
    }

    /// The steps whose average is the model of a run of so many, oldest first.
    pub fn averaged(&self, steps: u64) -> Vec<u64> {
        let scheduled = 1..=steps.saturating_sub(1) / self.every;
        let before = scheduled.rev().map(|index| index * self.every);
        let mut averaged: Vec<u64> = [steps].into_iter().chain(before).take(self.average).collect();
        averaged.reverse();
        averaged
    }
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { every: 1000, keep_last: 10, keep_best: 1, keep_every: 0, average: 10 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_is_of_the_last_step_and_of_those_of_the_schedule_before() {
        let averaged = |every, average, steps| {
            Checkpoints { every, average, ..Checkpoints::default() }.averaged(steps)
        };
        assert_eq!(averaged(4, 3, 48), [40, 44, 48]);
        assert_eq!(averaged(4, 3, 50), [44, 48, 50]);
        assert_eq!(averaged(4, 1, 50), [50]);
        assert_eq!(averaged(20, 10, 48), [20, 40, 48]);
        assert_eq!(averaged(1000, 10, 48), [48]);
    }
}
