//! Chaos: faults of all kinds, one after another, at random moments of a tiny run. Its adapters and
//! its curves are those of the run that nothing happened to.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use crate::fault::{Deck, Fault, Struck};
use crate::hosts::Hosts;
use crate::live::{Run, eventually};
use crate::seeded::Seeded;
use crate::{Tiny, adapters};

const STEPS: u64 = 96;
const SETTINGS: [&str; 10] = [
    "training.steps=96",
    "training.micro_batches=4",
    "checkpoints.every=4",
    "evaluation.every=48",
    "evaluation.sentences=4",
    "evaluation.latency_sentences=1",
    "cluster.max_restarts=100",
    "cluster.reduction=reproducible",
    "cluster.deadlines.start=20",
    "cluster.deadlines.step=5",
];

/// What a run ends with: adapters, and all curves that do not measure time or memory.
#[derive(PartialEq)]
struct Outcome {
    adapters: Vec<u8>,
    exported: Vec<u8>,
    curves: BTreeMap<String, Vec<(u64, Value)>>,
}

impl Outcome {
    fn of(run: &Run) -> Self {
        let mut curves = run.curves();
        // The runs have other names.
        curves.retain(|tag, _| tag != "config" && !tag.starts_with("_hparams_"));
        let measures_time = |tag: &str| {
            ["perf/", "time/", "mem/", "ft/"].iter().any(|family| tag.starts_with(family))
                || ["_second", "latency", "_ms"].iter().any(|unit| tag.contains(unit))
        };
        curves.retain(|tag, _| !measures_time(tag));
        Self { adapters: adapters(run.folder(), STEPS), exported: run.exported(), curves }
    }
}

/// Strikes a run until its end, or until there have been `most` faults; answers how many there
/// were.
fn survives(
    (run, hosts, cache): (&Run, Option<&Hosts>, &Path),
    expected: &Outcome,
    workers: usize,
    deck: &mut Deck,
    most: usize,
) -> usize {
    let started = Instant::now();
    let mut struck = Struck::start(run, hosts, cache, workers, deck.seed());
    let mut count = 0;
    while count < most {
        let fault = deck.draw();
        let Some(moment) = struck.strike(fault) else {
            deck.put_back(fault);
            break;
        };
        count += 1;
        let (workers, seconds) = (struck.workers(), started.elapsed().as_secs_f64());
        println!("{workers} workers, {:>6.1} s, {moment}: {fault:?}", seconds);
    }
    struck.finish();
    let found = Outcome::of(run);
    let name = run.folder().display();
    assert!(found.adapters == expected.adapters, "{name}: other adapters");
    assert!(found.exported == expected.exported, "{name}: another export");
    assert_eq!(found.curves, expected.curves, "{name}");
    eventually("nothing is left", || run.processes().is_empty());
    let (attempts, seconds) = (run.events("attempt").len(), started.elapsed().as_secs_f64());
    println!(
        "{workers} workers at first: {count} faults, {attempts} attempts and {seconds:.0} s later \
         the same adapters, export and {} curves",
        found.curves.len()
    );
    count
}

/// So many faults of these kinds, on these hosts or on this machine, over as many runs as that takes;
/// `each` run, which begins with so many workers, has no more than so many.
///
/// # Panics
/// If a run ends otherwise than one that nothing happens to.
pub fn chaos(hosts: Option<&Hosts>, kinds: Vec<Fault>, workers: usize, faults: usize, each: usize) {
    let tiny = Arc::new(Tiny::new());
    let (cache, calm) = (tiny.path("chaos-cache"), Run::new(&tiny, "calm", workers, &SETTINGS));
    calm.launch(&[], 0);
    let expected = Outcome::of(&calm);
    let own_cache = format!("data.cache={}", cache.display());
    let settings = [&SETTINGS[..], &[&own_cache]].concat();
    let mut deck = Deck::new(kinds, Seeded(workers as u64));
    let (mut struck, mut runs) = (0, 0);
    while struck < faults {
        let run = Run::new(&tiny, &format!("chaos-{workers}-{runs}"), workers, &settings);
        let most = each.min(faults - struck);
        struck += survives((&run, hosts, &cache), &expected, workers, &mut deck, most);
        runs += 1;
    }
    println!("{workers} workers at first: {struck} faults survived in {runs} runs");
}
