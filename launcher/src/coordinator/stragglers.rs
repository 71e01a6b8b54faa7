//! Ranks that are slower than the others, which all have to wait for them.

use crate::journal::Pace;

/// A rank that takes so much longer than the others' median is slow.
const SLOW: f64 = 1.2;
/// Ranks report every ten steps; so many reports in a row make a straggler.
const REPORTS: usize = 2;

/// What is known of one rank.
#[derive(Debug, Clone, Default)]
struct Rank {
    newest: Option<Pace>,
    slowdown: Option<f64>,
    slow_in_a_row: usize,
    is_named: bool,
}

/// The paces of a group's ranks.
#[derive(Debug)]
pub(crate) struct Stragglers {
    ranks: Vec<Rank>,
}

impl Stragglers {
    /// A group of so many.
    pub(crate) fn new(ranks: usize) -> Self {
        Self { ranks: vec![Rank::default(); ranks] }
    }

    /// Adds the pace of a rank. Once all ranks have reported theirs of a step: the new stragglers, each
    /// once, with how many percent it is slower and in what.
    pub(crate) fn add(&mut self, rank: usize, pace: Pace) -> Vec<(usize, String)> {
        self.ranks[rank].newest = Some(pace);
        let newest = self.ranks.iter().filter_map(|rank| rank.newest);
        let paces: Vec<Pace> = newest.filter(|other| other.step == pace.step).collect();
        if paces.len() < self.ranks.len() || paces.len() < 2 {
            return Vec::new();
        }
        let mut found = Vec::new();
        for (index, rank) in self.ranks.iter_mut().enumerate() {
            let others = |of: fn(Pace) -> f64| {
                let others = paces.iter().enumerate().filter(|(other, _)| *other != index);
                median(others.map(|(_, pace)| of(*pace)).collect())
            };
            let (here, usual) = (paces[index], others(Pace::total));
            rank.slowdown = (usual > 0.0).then(|| here.total() / usual);
            let Some(slowdown) = rank.slowdown.filter(|slowdown| *slowdown >= SLOW) else {
                rank.slow_in_a_row = 0;
                continue;
            };
            rank.slow_in_a_row += 1;
            if rank.slow_in_a_row == REPORTS && !rank.is_named {
                rank.is_named = true;
                let percent = 100.0 * (slowdown - 1.0);
                let more_data = here.data - others(|pace| pace.data);
                let more_compute = here.compute - others(|pace| pace.compute);
                let phase = if more_data > more_compute { "data" } else { "compute" };
                found.push((index, format!("{percent:.0} % slower than the others in {phase}")));
            }
        }
        found
    }

    /// How many times as long as the others' median a rank takes; none before all have reported a step.
    pub(crate) fn slowdown(&self, rank: usize) -> Option<f64> {
        self.ranks.get(rank)?.slowdown
    }

    /// Whether a rank has been slow for some time, and still is.
    pub(crate) fn is_slow(&self, rank: usize) -> bool {
        self.ranks.get(rank).is_some_and(|rank| rank.slow_in_a_row >= REPORTS)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(stragglers: &mut Stragglers, step: u64, paces: &[(f64, f64)]) -> Vec<(usize, String)> {
        let ranks = paces.iter().enumerate();
        ranks
            .flat_map(|(rank, (data, compute))| {
                let (data, compute) = (*data, *compute);
                stragglers.add(rank, Pace { step, data, compute, ..Pace::default() })
            })
            .collect()
    }

    #[test]
    fn a_straggler_is_named_once_after_twenty_steps() {
        let mut stragglers = Stragglers::new(3);
        let slow = [(0.0, 1.0), (0.0, 1.25), (0.0, 1.0)];
        assert!(add(&mut stragglers, 10, &slow).is_empty());
        let named = add(&mut stragglers, 20, &slow);
        assert_eq!(named, [(1, "25 % slower than the others in compute".to_owned())]);
        assert!(add(&mut stragglers, 30, &slow).is_empty());
        assert_eq!((stragglers.slowdown(1), stragglers.is_slow(1)), (Some(1.25), true));
        assert_eq!((stragglers.slowdown(0), stragglers.is_slow(0)), (Some(0.8), false));
        let waits = [(0.5, 1.0), (0.0, 1.0), (0.0, 1.0)];
        add(&mut stragglers, 40, &waits);
        let named = add(&mut stragglers, 50, &waits);
        assert_eq!(named, [(0, "50 % slower than the others in data".to_owned())]);
        assert!(
            stragglers.is_slow(0) && !stragglers.is_slow(1),
            "rank 1 is as fast as the others again"
        );
    }

    #[test]
    fn who_is_slow_for_a_moment_or_alone_is_no_straggler() {
        let mut stragglers = Stragglers::new(2);
        for step in [10, 20, 30] {
            let second = if step == 20 { 1.0 } else { 1.5 };
            assert!(add(&mut stragglers, step, &[(0.0, 1.0), (0.0, second)]).is_empty());
            assert!(add(&mut stragglers, step + 1, &[(0.1, 1.0), (0.0, 1.2)]).is_empty());
        }
        let mut alone = Stragglers::new(1);
        assert!((1..9).all(|step| add(&mut alone, step, &[(0.0, 9.0)]).is_empty()));
    }
}
