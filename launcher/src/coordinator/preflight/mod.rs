//! The preflight: before anything is loaded, ranks on several hosts measure them, and the slow or broken host
//! is named.
//!
//! [`Preflight`] follows how far each rank has come, and names those that do not arrive in time. [`compare()`]
//! finds what is conspicuous in what they have measured. Versions that differ are found by what ranks report
//! of their identity.

mod compare;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tandem_cluster::run::records::{PreflightStage, Probe};

use crate::journal::figures::Figures;

use compare::is_full;
pub(super) use compare::{compare, full_disk};

/// What messages get of the time at least, however long measuring has taken.
const LEAST_TOGETHER: Duration = Duration::from_secs(1);

/// Ranks that have not come as far as the others in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Late {
    /// The first of them.
    pub rank: usize,
    /// What has not happened, and what to do.
    pub reason: String,
    /// Whether a look at the network may help.
    pub is_network: bool,
}

#[derive(Debug, Clone, Default)]
struct Rank {
    host: String,
    joined: Option<Instant>,
    probed: Option<(Instant, f64, Probe)>,
    started: Option<Instant>,
    linked: Option<Instant>,
    ready: Option<Instant>,
    reduced: Option<(Instant, f64)>,
}

impl Rank {
    fn probed_at(&self) -> Option<Instant> {
        self.probed.as_ref().map(|(at, ..)| *at)
    }
}

/// The preflight of one group of workers.
#[derive(Debug)]
pub(crate) struct Preflight {
    limit: Duration,
    ranks: Vec<Rank>,
    links: BTreeMap<usize, f64>,
    is_over: bool,
    /// How long the launcher itself was suspended.
    lost: Duration,
}

impl Preflight {
    /// Of so many ranks, which may take so many seconds together.
    pub(crate) fn new(ranks: usize, seconds: f64) -> Self {
        let (limit, lost) = (Duration::from_secs_f64(seconds), Duration::ZERO);
        let (ranks, links) = (vec![Rank::default(); ranks], BTreeMap::new());
        Self { limit, ranks, links, is_over: false, lost }
    }

    /// Does not count the time `lost`, during which the launcher itself was suspended.
    pub(crate) fn forgive(&mut self, lost: Duration) {
        self.lost += lost;
    }

    /// A rank on `host` has connected.
    pub(crate) fn joined(&mut self, rank: usize, host: &str, now: Instant) {
        let (host, joined) = (host.to_owned(), Some(now));
        self.ranks[rank] = Rank { host, joined, ..Rank::default() };
    }

    /// A rank has come so far, at `now`, which is `time` by the launcher's clock in seconds since 1970.
    /// Returns whether this was the last one that had something to do.
    pub(crate) fn reached(
        &mut self,
        rank: usize,
        stage: PreflightStage,
        (now, time): (Instant, f64),
    ) -> bool {
        let known = &mut self.ranks[rank];
        match stage {
            PreflightStage::Started => known.started = Some(now),
            PreflightStage::Probed(probe) => known.probed = Some((now, probe.time - time, probe)),
            PreflightStage::Linked { seconds } => {
                known.linked = Some(now);
                self.links.extend(seconds);
            }
            PreflightStage::Ready => known.ready = Some(now),
            PreflightStage::Reduced { seconds } => known.reduced = Some((now, seconds)),
        }
        if self.is_over || self.ranks.iter().any(|rank| rank.reduced.is_none()) {
            return false;
        }
        self.is_over = true;
        true
    }

    /// Whether a rank has measured that there is no space on its host.
    pub(crate) fn is_full(&self, rank: usize) -> bool {
        let probe = self.ranks[rank].probed.as_ref().map(|(.., probe)| probe);
        probe.is_some_and(|probe| probe.disks.values().any(is_full))
    }

    /// What the ranks have measured, as far as they have.
    pub(crate) fn figures(&self) -> Vec<Figures> {
        let figures = |(rank, known): (usize, &Rank)| {
            let (_, clock_ahead, probe) = known.probed.clone()?;
            let all_reduce_seconds = known.reduced.map_or(0.0, |(_, seconds)| seconds);
            let (host, link_seconds) = (known.host.clone(), self.links.get(&rank).copied());
            Some(Figures { rank, host, clock_ahead, link_seconds, all_reduce_seconds, probe })
        };
        self.ranks.iter().enumerate().filter_map(figures).collect()
    }

    /// The time that it has taken: the slowest rank's measuring, messages to rank 0, and the all-reduce.
    /// Starting MPI and NCCL in between have deadlines of their own.
    pub(crate) fn spent(&self, now: Instant) -> Duration {
        self.apart(now) + self.together(now)
    }

    /// How long the slowest rank has measured by itself.
    fn apart(&self, now: Instant) -> Duration {
        let measured =
            |rank: &Rank| Some(self.since(rank.joined?, rank.probed_at().unwrap_or(now)));
        self.ranks.iter().filter_map(measured).max().unwrap_or_default()
    }

    /// How long the ranks have exchanged messages.
    fn together(&self, now: Instant) -> Duration {
        let between = |from: fn(&Rank) -> Option<Instant>, to: fn(&Rank) -> Option<Instant>| {
            let Some(from) = self.ranks.iter().filter_map(from).min() else {
                return Duration::ZERO;
            };
            let ends: Option<Vec<Instant>> = self.ranks.iter().map(to).collect();
            self.since(from, ends.and_then(|ends| ends.into_iter().max()).unwrap_or(now))
        };
        let linked = between(|rank| rank.started, |rank| rank.linked);
        linked + between(|rank| rank.ready, |rank| rank.reduced.map(|(at, _)| at))
    }

    fn since(&self, from: Instant, to: Instant) -> Duration {
        to.saturating_duration_since(from).saturating_sub(self.lost)
    }

    /// The ranks that have not arrived in time, if there are any.
    pub(crate) fn overdue(&self, now: Instant) -> Option<Late> {
        if self.is_over {
            return None;
        }
        let ranks_where = |is: &dyn Fn(&Rank) -> bool| -> Vec<usize> {
            (0..self.ranks.len()).filter(|rank| is(&self.ranks[*rank])).collect()
        };
        let within = format!("within {} s (cluster.deadlines.preflight)", self.limit.as_secs_f64());
        let silent = ranks_where(&|rank| {
            let waits = rank.joined.filter(|_| rank.probed.is_none());
            waits.is_some_and(|joined| self.since(joined, now) > self.limit)
        });
        if let Some(&rank) = silent.first() {
            let who = self.names(&silent);
            let reason = format!(
                "preflight: {who} did not measure the host {within}: look there for what keeps the CPUs, \
                 the GPU or a file system busy"
            );
            return Some(Late { rank, reason, is_network: false });
        }
        let left = self.limit.saturating_sub(self.apart(now)).max(LEAST_TOGETHER);
        if self.together(now) <= left {
            return None;
        }
        let mut apart = ranks_where(&|rank| rank.linked.is_none());
        if !apart.is_empty() {
            // Rank 0 waits for all others, and is to blame where it reaches none of several.
            if apart.len() < self.ranks.len() || self.ranks.len() == 2 {
                apart.retain(|rank| *rank > 0);
            }
            let zero = self.names(&[0]);
            let reason = match apart.contains(&0) {
                true => {
                    format!("preflight: no other rank could exchange messages with {zero} {within}")
                }
                false => {
                    let who = self.names(&apart);
                    format!("preflight: {who} could not exchange messages with {zero} {within}")
                }
            };
            let rank = apart.first().copied().unwrap_or(0);
            return Some(Late { rank, reason, is_network: true });
        }
        let absent = ranks_where(&|rank| rank.ready.is_none());
        let (late, what) = match absent.is_empty() {
            true => {
                let unfinished = ranks_where(&|rank| rank.reduced.is_none());
                (unfinished, "did not get through an all-reduce")
            }
            false => (absent, "did not arrive at an all-reduce"),
        };
        let who = self.names(&late);
        let reason = format!("preflight: {who} {what} {within}");
        Some(Late { rank: late.first().copied().unwrap_or(0), reason, is_network: true })
    }

    /// `rank 1 on n2, rank 2 on n3`.
    fn names(&self, ranks: &[usize]) -> String {
        let name = |rank: &usize| match self.ranks[*rank].host.as_str() {
            "" => format!("rank {rank}"),
            host => format!("rank {rank} on {host}"),
        };
        let mut names: Vec<String> = ranks.iter().take(4).map(name).collect();
        if ranks.len() > names.len() {
            names.push(format!("{} more", ranks.len() - names.len()));
        }
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Clock {
        preflight: Preflight,
        start: Instant,
    }

    impl Clock {
        fn new(ranks: usize) -> Self {
            Self { preflight: Preflight::new(ranks, 5.0), start: Instant::now() }
        }

        fn at(&self, seconds: f64) -> Instant {
            self.start + Duration::from_secs_f64(seconds)
        }

        fn join(&mut self, seconds: f64) {
            for rank in 0..self.preflight.ranks.len() {
                let at = self.at(seconds);
                self.preflight.joined(rank, &format!("n{}", rank + 1), at);
            }
        }

        fn reach(&mut self, seconds: f64, rank: usize, stage: PreflightStage) -> bool {
            let at = (self.at(seconds), 1000.0);
            self.preflight.reached(rank, stage, at)
        }

        /// All have measured their hosts and started MPI.
        fn meet(&mut self, seconds: f64) {
            self.join(seconds);
            for rank in 0..self.preflight.ranks.len() {
                self.reach(seconds, rank, probed());
                self.reach(seconds, rank, PreflightStage::Started);
            }
        }

        fn late(&self, seconds: f64) -> Option<(usize, String)> {
            let late = self.preflight.overdue(self.at(seconds))?;
            Some((late.rank, late.reason))
        }
    }

    fn probed() -> PreflightStage {
        PreflightStage::Probed(Probe { time: 1007.0, ..Probe::default() })
    }

    fn linked() -> PreflightStage {
        PreflightStage::Linked { seconds: BTreeMap::new() }
    }

    #[test]
    fn it_is_over_when_the_last_has_done_everything() {
        let mut clock = Clock::new(2);
        clock.join(0.0);
        clock.reach(1.0, 1, probed());
        clock.reach(2.0, 0, probed());
        assert_eq!(clock.late(60.0), None, "starting MPI has another deadline");
        for rank in 0..2 {
            clock.reach(60.0, rank, PreflightStage::Started);
        }
        clock.reach(60.5, 1, linked());
        let seconds = [(1, 0.25)].into();
        clock.reach(60.5, 0, PreflightStage::Linked { seconds });
        assert_eq!(clock.late(90.0), None, "and so has NCCL");
        for rank in 0..2 {
            clock.reach(90.0, rank, PreflightStage::Ready);
        }
        assert!(!clock.reach(91.0, 0, PreflightStage::Reduced { seconds: 0.5 }));
        assert!(clock.reach(91.0, 1, PreflightStage::Reduced { seconds: 0.5 }));
        let figures = clock.preflight.figures();
        assert_eq!((figures[0].link_seconds, figures[1].link_seconds), (None, Some(0.25)));
        assert_eq!((figures[1].clock_ahead, &*figures[1].host), (7.0, "n2"));
        assert_eq!(clock.preflight.spent(clock.at(99.0)), Duration::from_millis(3500));
        assert_eq!(clock.late(99.0), None);
    }

    #[test]
    fn who_does_not_measure_its_host_is_named() {
        let mut clock = Clock::new(3);
        assert_eq!(clock.late(99.0), None, "nobody has connected");
        clock.join(1.0);
        clock.reach(1.0, 0, probed());
        clock.reach(1.0, 2, probed());
        assert_eq!(clock.late(5.9), None);
        let (rank, reason) = clock.late(6.1).unwrap();
        assert_eq!(rank, 1);
        assert!(reason.contains("rank 1 on n2 did not measure the host within 5 s"), "{reason}");
        clock.preflight.forgive(Duration::from_secs(2));
        assert_eq!(clock.late(6.1), None, "the launcher was suspended");
    }

    #[test]
    fn who_does_not_reach_rank_0_is_named() {
        let mut clock = Clock::new(3);
        clock.meet(0.0);
        assert_eq!(clock.late(4.9), None);
        let (rank, reason) = clock.late(5.1).unwrap();
        assert_eq!(rank, 0);
        let words = "no other rank could exchange messages with rank 0 on n1";
        assert!(reason.contains(words), "{reason}");
        clock.reach(1.0, 1, linked());
        let (rank, reason) = clock.late(5.1).unwrap();
        assert_eq!(rank, 2);
        let words = "rank 2 on n3 could not exchange messages with rank 0 on n1";
        assert!(reason.contains(words), "{reason}");
        let mut pair = Clock::new(2);
        pair.meet(0.0);
        assert_eq!(pair.late(5.1).unwrap().0, 1);
    }

    #[test]
    fn an_all_reduce_that_does_not_end_names_who_did_not_arrive() {
        let mut clock = Clock::new(2);
        clock.meet(0.0);
        for rank in 0..2 {
            clock.reach(1.0, rank, linked());
        }
        clock.reach(1.0, 0, PreflightStage::Ready);
        assert_eq!(clock.late(4.9), None);
        let (rank, reason) = clock.late(5.1).unwrap();
        assert_eq!(rank, 1);
        let words = "rank 1 on n2 did not arrive at an all-reduce within 5 s";
        assert!(reason.contains(words), "{reason}");
        clock.reach(1.5, 1, PreflightStage::Ready);
        let (rank, reason) = clock.late(5.1).unwrap();
        assert_eq!(rank, 0);
        let words = "rank 0 on n1, rank 1 on n2 did not get through an all-reduce within 5 s";
        assert!(reason.contains(words), "{reason}");
    }
}
