//! What is conspicuous in what ranks have measured: a host that is slower than the others is a warning
//! ([`compare`]), one without space a failure at once ([`full_disk`]).

use std::collections::{BTreeMap, BTreeSet};

use tandem_cluster::run::records::{Disk, Probe};

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
/// A difference between clocks that is worth a warning, in seconds; messages take some of it.
const CLOCK_SKEW: f64 = 5.0;

/// The first rank whose host has no space, what it has, and what to do.
pub(in crate::coordinator) fn full_disk(all: &[Figures]) -> Option<(usize, String)> {
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
pub(in crate::coordinator) fn compare(all: &[Figures], memory_per_rank: u64) -> Vec<String> {
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

pub(super) fn is_full(disk: &Disk) -> bool {
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
}
