//! The ranks of one group: where each is, what it does, and which one is overdue.

use std::time::{Duration, Instant};

use tandem_cluster::engine::Process;
use tandem_cluster::run::control::{CONNECTION_TIMEOUT, HEARTBEAT, Phase};
use tandem_config::schema::cluster::Deadlines;

/// If something is overdue, a rank that has missed this many heartbeats is the reason.
const MISSED: u32 = 4;

/// One rank that has connected.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub host: String,
    /// Its process, if that is on this machine.
    pub process: Option<Process>,
    /// Its latest phase.
    pub phase: Phase,
    /// Its latest step.
    pub step: u64,
    progress: u64,
    heard: Instant,
    moved: Instant,
    /// Whether it has left, and the exit code that it announced.
    pub left: Option<Option<i32>>,
}

/// A rank that made no progress in time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Overdue {
    /// Which one; the first that did not connect if it never has.
    pub rank: usize,
    /// A description of what has not happened.
    pub reason: String,
}

/// The ranks of one group.
#[derive(Debug)]
pub(crate) struct Members {
    ranks: Vec<Option<Member>>,
    started: Instant,
}

impl Members {
    /// A group of `ranks`, none of which has connected.
    pub(crate) fn new(ranks: usize, now: Instant) -> Self {
        Self { ranks: vec![None; ranks], started: now }
    }

    /// A rank that has connected.
    pub(crate) fn get(&self, rank: usize) -> Option<&Member> {
        self.ranks.get(rank)?.as_ref()
    }

    /// Those that have connected.
    pub(crate) fn present(&self) -> impl Iterator<Item = (usize, &Member)> {
        self.ranks.iter().enumerate().filter_map(|(rank, member)| Some((rank, member.as_ref()?)))
    }

    /// How many ranks the group has.
    pub(crate) fn size(&self) -> usize {
        self.ranks.len()
    }

    /// The rank that has not connected, if there is exactly one.
    pub(crate) fn only_missing(&self) -> Option<usize> {
        let mut missing = (0..self.ranks.len()).filter(|rank| self.ranks[*rank].is_none());
        missing.next().filter(|_| missing.next().is_none())
    }

    /// Whether every rank has connected.
    pub(crate) fn complete(&self) -> bool {
        self.ranks.iter().all(Option::is_some)
    }

    /// Whether every rank has connected and left.
    pub(crate) fn all_left(&self) -> bool {
        self.ranks.iter().all(|member| member.as_ref().is_some_and(|m| m.left.is_some()))
    }

    /// Whether every rank is still loading, or has left.
    pub(crate) fn all_start(&self) -> bool {
        let starts = |member: &Member| member.phase == Phase::Start && member.left.is_none();
        self.present().all(|(_, member)| starts(member))
    }

    /// A rank connects.
    pub(crate) fn join(
        &mut self,
        rank: usize,
        host: String,
        process: Option<Process>,
        now: Instant,
    ) {
        let (phase, step, progress) = (Phase::Start, 0, 0);
        let (heard, moved) = (now, now);
        self.ranks[rank] =
            Some(Member { host, process, phase, step, progress, heard, moved, left: None });
    }

    /// A rank's heartbeat arrives.
    pub(crate) fn beat(
        &mut self,
        rank: usize,
        phase: Phase,
        step: u64,
        progress: u64,
        now: Instant,
    ) {
        if let Some(member) = self.ranks[rank].as_mut() {
            if member.progress != progress {
                member.moved = now;
            }
            (member.phase, member.step, member.progress) = (phase, step, progress);
            member.heard = now;
        }
    }

    /// A rank leaves.
    pub(crate) fn leave(&mut self, rank: usize, goodbye: Option<i32>) {
        if let Some(member) = self.ranks[rank].as_mut() {
            member.left = Some(goodbye);
        }
    }

    /// Does not count the time `lost`, during which the launcher itself was suspended.
    pub(crate) fn forgive(&mut self, lost: Duration) {
        self.started += lost;
        for member in self.ranks.iter_mut().flatten() {
            member.heard += lost;
            member.moved += lost;
        }
    }

    /// The rank to blame when some have made no progress within their deadline: a silent one before
    /// one that merely waits, and of those the one that is furthest behind. Nobody is to blame
    /// while a rank at an earlier step makes progress: those ahead wait for it.
    pub(crate) fn overdue(&self, deadlines: &Deadlines, now: Instant) -> Option<Overdue> {
        let here = || self.present().filter(|(_, member)| member.left.is_none());
        let silent = here()
            .filter(|(_, member)| {
                let limit = CONNECTION_TIMEOUT.min(deadline(member.phase, deadlines));
                now.saturating_duration_since(member.heard) > limit
            })
            .min_by_key(|(_, member)| member.heard);
        let unheard = |member: &Member| now.saturating_duration_since(member.heard);
        let is_silent = |(rank, member): (usize, &Member)| {
            let seconds = unheard(member).as_secs_f64();
            let reason =
                format!("no heartbeat for {seconds:.1} s: it is stopped, or its machine is gone");
            Some(Overdue { rank, reason })
        };
        if let Some(silent) = silent {
            return is_silent(silent);
        }
        let start = Duration::from_secs_f64(deadlines.start);
        let absent = self.ranks.iter().position(Option::is_none);
        if let (Some(rank), true) = (absent, now.saturating_duration_since(self.started) > start) {
            let seconds = deadlines.start;
            let reason = format!(
                "it did not connect within {seconds} s of its start (cluster.deadlines.start)"
            );
            return Some(Overdue { rank, reason });
        }
        let stands = |member: &Member, slack: Duration| {
            let limit = deadline(member.phase, deadlines).saturating_sub(slack);
            now.saturating_duration_since(member.moved) > limit
        };
        here().find(|(_, member)| stands(member, Duration::ZERO))?;
        // Progress is seen by heartbeats: the rank that stopped first may be seen to stop last.
        let misses = |member: &Member| unheard(member) > MISSED * HEARTBEAT;
        let stuck = here().filter(|(_, member)| stands(member, 2 * HEARTBEAT)).min_by_key(
            |(_, member)| {
                // A rank that waits for data, or computes, is what the ranks in reduce wait for.
                let waits_for_others = match member.phase {
                    Phase::Data => 0,
                    Phase::Reduce => 2,
                    _ => 1,
                };
                (!misses(member), member.step, waits_for_others, member.moved)
            },
        )?;
        let (rank, member) = stuck;
        if misses(member) {
            return is_silent(stuck);
        }
        if here().any(|(_, other)| other.step < member.step) {
            return None;
        }
        let seconds = now.saturating_duration_since(member.moved).as_secs_f64();
        let reason = format!(
            "no progress in phase {} for {seconds:.1} s (cluster.deadlines.{})",
            member.phase,
            deadline_key(member.phase)
        );
        Some(Overdue { rank, reason })
    }
}

fn deadline(phase: Phase, deadlines: &Deadlines) -> Duration {
    Duration::from_secs_f64(match phase {
        Phase::Start => deadlines.start,
        Phase::Train | Phase::Data | Phase::Reduce => deadlines.step,
        Phase::Save | Phase::Finish => deadlines.save,
        Phase::Evaluate | Phase::Translate => deadlines.evaluate,
    })
}

fn deadline_key(phase: Phase) -> &'static str {
    match phase {
        Phase::Start => "start",
        Phase::Train | Phase::Data | Phase::Reduce => "step",
        Phase::Save | Phase::Finish => "save",
        Phase::Evaluate | Phase::Translate => "evaluate",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINES: Deadlines = Deadlines {
        start: 60.0,
        preflight: 5.0,
        step: 30.0,
        save: 40.0,
        evaluate: 50.0,
        stop: 10.0,
        hosts: 60.0,
    };

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn two(start: Instant) -> Members {
        let mut members = Members::new(2, start);
        for rank in 0..2 {
            members.join(rank, "here".into(), None, start);
        }
        members
    }

    fn blamed(members: &Members, now: Instant) -> Option<usize> {
        members.overdue(&DEADLINES, now).map(|overdue| overdue.rank)
    }

    #[test]
    fn a_rank_that_never_connects_is_named_after_the_start_deadline() {
        let start = Instant::now();
        let mut members = Members::new(2, start);
        members.join(0, "here".into(), None, start);
        members.beat(0, Phase::Start, 0, 0, at(start, 59));
        assert_eq!(blamed(&members, at(start, 59)), None);
        members.beat(0, Phase::Start, 0, 0, at(start, 61));
        let overdue = members.overdue(&DEADLINES, at(start, 61)).unwrap();
        assert_eq!(overdue.rank, 1);
        assert!(overdue.reason.contains("did not connect within 60 s"), "{}", overdue.reason);
    }

    #[test]
    fn a_silent_rank_is_blamed_before_those_that_wait_for_it() {
        let start = Instant::now();
        let mut members = two(start);
        members.beat(1, Phase::Train, 5, 9, at(start, 1));
        for second in 1..=12 {
            members.beat(0, Phase::Train, 5, 9, at(start, second));
        }
        assert_eq!(blamed(&members, at(start, 11)), None);
        let overdue = members.overdue(&DEADLINES, at(start, 12)).unwrap();
        assert_eq!(overdue.rank, 1);
        assert!(overdue.reason.contains("no heartbeat for 11.0 s"), "{}", overdue.reason);
    }

    #[test]
    fn of_those_that_beat_and_stand_still_the_last_is_blamed() {
        let start = Instant::now();
        let mut members = two(start);
        for second in 1..=32 {
            members.beat(0, Phase::Train, 6, 10, at(start, second));
            members.beat(1, Phase::Train, 5, 9, at(start, second));
        }
        assert_eq!(blamed(&members, at(start, 31)), None);
        let overdue = members.overdue(&DEADLINES, at(start, 32)).unwrap();
        assert_eq!(overdue.rank, 1);
        assert!(overdue.reason.contains("phase train for 31.0 s"), "{}", overdue.reason);
    }

    #[test]
    fn the_last_is_blamed_even_if_its_progress_was_seen_later() {
        let start = Instant::now();
        let mut members = two(start);
        let late = Duration::from_millis(400);
        members.beat(0, Phase::Train, 6, 10, at(start, 1));
        members.beat(1, Phase::Train, 5, 9, at(start, 1) + late);
        for second in 2..=31 {
            members.beat(0, Phase::Train, 6, 10, at(start, second));
            members.beat(1, Phase::Train, 5, 9, at(start, second));
        }
        assert_eq!(blamed(&members, at(start, 31)), None);
        assert_eq!(blamed(&members, at(start, 31) + late / 2), Some(1));
    }

    #[test]
    fn one_that_waits_for_data_is_blamed_before_those_that_wait_for_it() {
        let start = Instant::now();
        let mut members = two(start);
        for second in 1..=40 {
            members.beat(0, Phase::Train, 5, 10, at(start, second));
            let (phase, progress) = if second > 1 { (Phase::Data, 10) } else { (Phase::Train, 9) };
            members.beat(1, phase, 5, progress, at(start, second));
        }
        let overdue = members.overdue(&DEADLINES, at(start, 40)).unwrap();
        assert_eq!(overdue.rank, 1);
        assert!(overdue.reason.contains("phase data for 38.0 s (cluster.deadlines.step)"));
    }

    #[test]
    fn one_that_computes_is_blamed_before_those_that_wait_for_its_gradients() {
        let start = Instant::now();
        let mut members = two(start);
        for second in 1..=40 {
            members.beat(0, Phase::Reduce, 5, 10, at(start, second));
            let progress = if second > 1 { 10 } else { 9 };
            members.beat(1, Phase::Train, 5, progress, at(start, second));
        }
        assert_eq!(blamed(&members, at(start, 40)), Some(1));
    }

    #[test]
    fn of_those_that_stand_still_a_silent_one_is_blamed() {
        let start = Instant::now();
        let mut members = two(start);
        let late = Duration::from_millis(400);
        members.beat(0, Phase::Train, 5, 9, at(start, 1));
        members.beat(1, Phase::Train, 5, 9, at(start, 1) + late);
        for second in 2..=11 {
            members.beat(0, Phase::Train, 5, 9, at(start, second));
        }
        let deadlines = Deadlines { step: 10.0, ..DEADLINES };
        let overdue = members.overdue(&deadlines, at(start, 11) + late / 2).unwrap();
        assert_eq!(overdue.rank, 1);
        assert!(overdue.reason.contains("no heartbeat for 9.8 s"), "{}", overdue.reason);
    }

    #[test]
    fn those_ahead_wait_for_one_behind_as_long_as_it_gets_on() {
        let start = Instant::now();
        let mut members = two(start);
        for second in 1..=200 {
            members.beat(0, Phase::Evaluate, 6, second, at(start, second));
            members.beat(1, Phase::Train, 7, 1, at(start, second));
            assert_eq!(blamed(&members, at(start, second)), None, "after {second} s");
        }
        for second in 201..=251 {
            members.beat(0, Phase::Evaluate, 6, 200, at(start, second));
            members.beat(1, Phase::Train, 7, 1, at(start, second));
        }
        assert_eq!(blamed(&members, at(start, 245)), None, "an evaluation's batch may take 50 s");
        assert_eq!(blamed(&members, at(start, 251)), Some(0));
    }

    #[test]
    fn each_phase_has_its_own_deadline_and_progress_resets_it() {
        let start = Instant::now();
        let mut members = Members::new(1, start);
        members.join(0, "here".into(), None, start);
        for second in 1..=39 {
            members.beat(0, Phase::Save, 5, 1, at(start, second));
        }
        assert_eq!(blamed(&members, at(start, 39)), None, "saving may take 40 s");
        members.beat(0, Phase::Save, 5, 2, at(start, 40));
        for second in 41..=79 {
            members.beat(0, Phase::Save, 5, 2, at(start, second));
        }
        assert_eq!(blamed(&members, at(start, 79)), None, "it got on at 40 s");
        members.beat(0, Phase::Save, 5, 2, at(start, 81));
        assert_eq!(blamed(&members, at(start, 81)), Some(0));
    }

    #[test]
    fn those_that_left_and_time_that_nobody_had_do_not_count() {
        let start = Instant::now();
        let mut members = two(start);
        members.leave(0, Some(0));
        members.forgive(Duration::from_secs(1000));
        assert_eq!(blamed(&members, at(start, 1000)), None);
        assert_eq!(blamed(&members, at(start, 1016)), Some(1));
        members.leave(1, None);
        assert_eq!(blamed(&members, at(start, 9999)), None);
        assert!(members.all_left());
    }
}
