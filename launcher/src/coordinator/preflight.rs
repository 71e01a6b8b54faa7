//! The preflight: before anything is loaded, ranks on several hosts measure them, and the slow or broken host
//! is named.
//!
//! [`Preflight`] follows how far each rank has come, and names those that do not arrive in time. [`compare`]
//! is a function of what they have measured: a host that is slower than the others is a warning. One without
//! space is a failure at once ([`full_disk`]). Versions that differ are found by what ranks report of their
//! identity.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tandem_cluster::run::records::{Disk, PreflightStage, Probe};

use crate::journal::figures::{Figures, size};

/// A host whose matrix product takes so many times as long as the others' median is slow.
const SLOW_PRODUCT: f64 = 2.0;
/// The same of messages to rank 0 and back, if they take longer than this at all.
const SLOW_LINK: f64 = 3.0;
const SLOW_LINK_SECONDS: f64 = 0.02;
/// Less memory or disk than this share of the others' median is worth a warning.
const SCARCE: f64 = 0.5;
/// Disks with more free space than this are not compared.
const AMPLE_DISK: u64 = 1 << 30;
/// With less free space than this a run does not get far.
const FULL_DISK: u64 = 16 << 20;
/// What messages get of the time at least, however long measuring has taken.
const LEAST_TOGETHER: Duration = Duration::from_secs(1);
/// A difference between clocks that is worth a warning, in seconds; messages take some of it.
const CLOCK_SKEW: f64 = 5.0;

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

/// The first rank whose host has no space, what it has, and what to do.
pub(crate) fn full_disk(all: &[Figures]) -> Option<(usize, String)> {
    let full = |rank: &Figures| {
        let mut disks = rank.probe.disks.iter();
        disks.find(|(_, disk)| is_full(disk)).map(|(what, _)| what.clone())
    };
    let (rank, what) = all.iter().find_map(|rank| Some((rank, full(rank)?)))?;
    let mut findings = Findings::new(all);
    disk(&mut findings, rank, &what);
    Some((rank.rank, findings.texts.pop()?))
}

/// What is conspicuous about some hosts, by what all ranks have measured. `memory_per_rank` is what the plan
/// says that a rank takes on its device, in bytes.
pub(crate) fn compare(all: &[Figures], memory_per_rank: u64) -> Vec<String> {
    let mut findings = Findings::new(all);
    for rank in all {
        slow_product(&mut findings, rank);
        slow_link(&mut findings, rank);
        clock(&mut findings, rank);
        memory(&mut findings, rank, memory_per_rank);
        for what in rank.probe.disks.keys() {
            disk(&mut findings, rank, what);
        }
        features(&mut findings, rank);
    }
    findings.texts
}

/// At most one of each kind for a host, which its first rank gets.
struct Findings<'a> {
    all: &'a [Figures],
    named: BTreeSet<(String, String)>,
    texts: Vec<String>,
}

impl<'a> Findings<'a> {
    fn new(all: &'a [Figures]) -> Self {
        Self { all, named: BTreeSet::new(), texts: Vec::new() }
    }

    fn add(&mut self, kind: &str, rank: &Figures, text: &str) {
        if self.named.insert((kind.to_owned(), rank.host.clone())) {
            self.texts.push(format!("preflight: {} (rank {}): {text}", rank.host, rank.rank));
        }
    }

    /// The median of the ranks on other hosts; of the other ranks, where there is one host.
    fn others(&self, rank: &Figures, value: impl Fn(&Figures) -> Option<f64>) -> Option<f64> {
        let is_one_host = self.all.iter().all(|other| other.host == rank.host);
        let is_other = |other: &&Figures| match is_one_host {
            true => other.rank != rank.rank,
            false => other.host != rank.host,
        };
        let others = self.all.iter().filter(is_other);
        let mut values: Vec<f64> = others.filter_map(value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }
}

fn slow_product(findings: &mut Findings, rank: &Figures) {
    let here = rank.probe.product_seconds;
    let Some(others) = findings.others(rank, |other| Some(other.probe.product_seconds)) else {
        return;
    };
    if here > SLOW_PRODUCT * others {
        let (here, others) = (1e3 * here, 1e3 * others);
        let text = format!(
            "a matrix product takes {here:.1} ms, and on the others {others:.1} ms: look there for other \
             programs (`top`, `nvidia-smi`), for fewer CPUs, and for throttling"
        );
        findings.add("product", rank, &text);
    }
}

fn slow_link(findings: &mut Findings, rank: &Figures) {
    let others = findings.others(rank, |other| other.link_seconds);
    let (Some(here), Some(others)) = (rank.link_seconds, others) else { return };
    if here > SLOW_LINK_SECONDS && here > SLOW_LINK * others {
        let (here, others) = (1e3 * here, 1e3 * others);
        let text = format!(
            "a message from rank 0 and back takes {here:.1} ms, and to the others {others:.1} ms: check \
             its network interface and cable, and which network leads there (`tandem doctor`)"
        );
        findings.add("link", rank, &text);
    }
}

fn clock(findings: &mut Findings, rank: &Figures) {
    let ahead = rank.clock_ahead;
    if ahead.abs() >= CLOCK_SKEW {
        let direction = if ahead > 0.0 { "ahead of" } else { "behind" };
        let text = format!(
            "its clock is {:.0} s {direction} the launcher's: synchronise both (chrony, ntp)",
            ahead.abs()
        );
        findings.add("clock", rank, &text);
    }
}

fn memory(findings: &mut Findings, rank: &Figures, memory_per_rank: u64) {
    let Probe { memory, gpu_memory, .. } = rank.probe;
    let ranks = findings.all.iter().filter(|other| other.host == rank.host).count() as u64;
    let needed = memory_per_rank * ranks;
    if gpu_memory.is_none() && memory < needed {
        let (here, needed) = (size(memory), size(needed));
        let text = format!(
            "{here} of memory are available, and its workers need about {needed}: end what else runs \
             there, or lower training.max_tokens, data.max_length or cluster.workers"
        );
        return findings.add("memory", rank, &text);
    }
    for kind in ["memory", "GPU memory"] {
        let value = |rank: &Figures| match kind {
            "memory" => Some(rank.probe.memory),
            _ => rank.probe.gpu_memory,
        };
        let others = findings.others(rank, |other| value(other).map(|bytes| bytes as f64));
        let (Some(here), Some(others)) = (value(rank), others) else { continue };
        if (here as f64) < SCARCE * others {
            let (here, others) = (size(here), size(others as u64));
            let text = format!(
                "{here} of {kind} are free, and on the others {others}: look there for other programs \
                 (`top`, `nvidia-smi`)"
            );
            findings.add(kind, rank, &text);
        }
    }
}

/// A folder without space, or with little where the others have more.
fn disk(findings: &mut Findings, rank: &Figures, what: &str) {
    let Some(disk) = rank.probe.disks.get(what) else { return };
    let free = |other: &Figures| other.probe.disks.get(what).map(|disk| disk.free as f64);
    let others = findings.others(rank, free);
    let is_less = others.is_some_and(|others| (disk.free as f64) < SCARCE * others);
    if is_full(disk) || disk.free < AMPLE_DISK && is_less {
        let compared = others
            .map_or(String::new(), |others| format!(", and on the others {}", size(others as u64)));
        let (here, path) = (size(disk.free), disk.path.display());
        let text =
            format!("{here} are free for the {what} in {path}{compared}: free disk space there");
        findings.add(what, rank, &text);
    }
}

fn is_full(disk: &Disk) -> bool {
    disk.free < FULL_DISK
}

/// Names the hosts that differ from most.
fn features(findings: &mut Findings, rank: &Figures) {
    for (name, here) in &rank.probe.features {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for other in findings.all {
            if let Some(value) = other.probe.features.get(name) {
                *counts.entry(value).or_default() += 1;
            }
        }
        let most = counts.values().copied().max().unwrap_or(0);
        // Of several that are as frequent, what the first rank has is taken to be usual.
        let usual = findings.all.iter().filter_map(|other| other.probe.features.get(name));
        let Some(usual) = usual.into_iter().find(|value| counts[value.as_str()] == most) else {
            continue;
        };
        if here != usual {
            let text = format!(
                "its {name} are {here}, and on the others {usual}: hosts of one kind train faster"
            );
            findings.add(name, rank, &text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four ranks on two hosts, with nothing wrong.
    fn four() -> Vec<Figures> {
        let rank = |rank: usize| Figures {
            rank,
            host: ["n1", "n1", "n2", "n2"][rank].into(),
            clock_ahead: -0.1,
            link_seconds: (rank > 0).then_some(0.002),
            all_reduce_seconds: 0.01,
            probe: Probe {
                product_seconds: 0.03,
                memory: 16 << 30,
                disks: [("run folder".into(), Disk { path: "/runs/a".into(), free: 99 << 30 })]
                    .into(),
                features: [("CPU instructions".into(), "AVX512".into())].into(),
                ..Probe::default()
            },
        };
        (0..4).map(rank).collect()
    }

    fn texts(all: &[Figures]) -> Vec<String> {
        compare(all, 1 << 30)
    }

    #[test]
    fn nothing_is_said_of_hosts_that_are_alike() {
        let mut all = four();
        assert_eq!(compare(&all, 8 << 30), [""; 0]);
        // Differences that are usual.
        all[2].probe.product_seconds = 0.055;
        all[3].probe.memory = 9 << 30;
        all[3].link_seconds = Some(0.015);
        all[1].clock_ahead = 4.0;
        assert_eq!(texts(&all), [""; 0]);
        assert_eq!(texts(&all[..1]), [""; 0], "one rank has nothing to be compared with");
    }

    #[test]
    fn a_slow_host_is_named_once_with_what_the_others_have() {
        let mut all = four();
        for slow in &mut all[2..4] {
            slow.probe.product_seconds = 0.3;
        }
        // Most ranks are slow, and a slow one is not compared with those of its own host.
        all.remove(1);
        let found = texts(&all);
        assert_eq!(found.len(), 1, "{found:?}");
        let words =
            "preflight: n2 (rank 2): a matrix product takes 300.0 ms, and on the others 30.0 ms: ";
        assert!(found[0].starts_with(words), "{found:?}");
    }

    #[test]
    fn a_slow_link_and_a_wrong_clock_are_named() {
        let mut all = four();
        all[3].link_seconds = Some(0.1);
        all[0].clock_ahead = -3600.0;
        all[2].clock_ahead = 6.0;
        let found = texts(&all);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].contains("n1 (rank 0): its clock is 3600 s behind the launcher's"));
        assert!(found[1].contains("n2 (rank 2): its clock is 6 s ahead of the launcher's"));
        assert!(found[2].contains("n2 (rank 3): a message from rank 0 and back takes 100.0 ms"));
    }

    #[test]
    fn little_memory_is_compared_with_the_need_and_with_the_others() {
        let mut all = four();
        all[2].probe.memory = 7 << 30;
        all[3].probe.memory = 7 << 30;
        let words = "n2 (rank 2): 7.0 GiB of memory are free, and on the others 16.0 GiB";
        let found = texts(&all);
        assert!(found.len() == 1 && found[0].contains(words), "{found:?}");
        let found = compare(&all, 4 << 30);
        let words =
            "n2 (rank 2): 7.0 GiB of memory are available, and its workers need about 8.0 GiB";
        assert!(found.len() == 1 && found[0].contains(words), "{found:?}");

        let mut all = four();
        for (rank, free) in [80, 30, 80, 80].into_iter().enumerate() {
            all[rank].probe.gpu_memory = Some(free << 30);
        }
        let words = "n1 (rank 1): 30.0 GiB of GPU memory are free, and on the others 80.0 GiB";
        assert!(texts(&all)[0].contains(words));
    }

    #[test]
    fn a_full_disk_is_a_failure_and_a_small_one_a_warning() {
        let mut all = four();
        let free = |all: &mut Vec<Figures>, rank: usize, free| {
            all[rank].probe.disks.get_mut("run folder").unwrap().free = free;
        };
        assert_eq!(full_disk(&all), None);
        free(&mut all, 3, 3 << 20);
        let (rank, text) = full_disk(&all).unwrap();
        let words =
            "n2 (rank 3): 3 MiB are free for the run folder in /runs/a, and on the others 99.0 GiB";
        assert!(rank == 3 && text.contains(words), "{text}");
        assert!(full_disk(&all[3..]).unwrap().1.contains("in /runs/a: free disk space"));

        free(&mut all, 3, 500 << 20);
        assert_eq!(full_disk(&all), None);
        let found = texts(&all);
        assert!(
            found.len() == 1 && found[0].contains("n2 (rank 3): 500 MiB are free"),
            "{found:?}"
        );
        for rank in 0..4 {
            free(&mut all, rank, 500 << 20);
        }
        assert_eq!(texts(&all), [""; 0], "all have the same");
    }

    #[test]
    fn who_differs_from_most_is_named() {
        let mut all = four();
        all[0].probe.features.insert("CPU instructions".into(), "AVX2".into());
        let words = "n1 (rank 0): its CPU instructions are AVX2, and on the others AVX512";
        assert!(texts(&all)[0].contains(words));
    }

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
