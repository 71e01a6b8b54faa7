//! Chaos: faults of all kinds, one after another, at random moments of a tiny run. Its adapters and
//! its curves are those of the run that nothing happened to.
//!
//! The long form strikes 216 times, and `docs/chaos.log` is what it said:
//! `cargo test --release -p tandem-tests chaos -- --ignored --nocapture`

mod fault;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use fault::{Deck, FAULTS, Struck};
use serde_json::Value;
use tandem_tests::live::Run;
use tandem_tests::seeded::Seeded;
use tandem_tests::{Tiny, adapters};

const STEPS: u64 = 96;
const SETTINGS: [&str; 9] = [
    "training.steps=96",
    "training.micro_batches=4",
    "checkpoints.every=4",
    "evaluation.every=48",
    "evaluation.sentences=4",
    "evaluation.latency_sentences=1",
    "cluster.max_restarts=100",
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
        let exported = std::fs::read(run.folder().join("export/adapters.safetensors"));
        Self {
            adapters: adapters(run.folder(), STEPS),
            exported: exported.expect("an export"),
            curves,
        }
    }
}

/// Strikes a run until its end, or until there have been `most` faults; answers how many there
/// were.
fn survives(run: &Run, expected: &Outcome, workers: usize, deck: &mut Deck, most: usize) -> usize {
    let started = Instant::now();
    let mut struck = Struck::start(run, workers, deck.seed());
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
    run.assert_no_process();
    let (attempts, seconds) = (run.events("attempt").len(), started.elapsed().as_secs_f64());
    println!(
        "{workers} workers: {count} faults, {attempts} attempts and {seconds:.0} s later the same \
         adapters, export and {} curves",
        found.curves.len()
    );
    count
}

/// So many faults, over as many runs as that takes; `each` run has no more than so many.
fn chaos(workers: usize, faults: usize, each: usize) {
    let tiny = Arc::new(Tiny::new());
    let undisturbed = Run::new(&tiny, &format!("calm-{workers}"), workers, &SETTINGS);
    undisturbed.launch(&[], 0);
    let expected = Outcome::of(&undisturbed);
    let mut deck = Deck::new(Seeded(workers as u64));
    let (mut struck, mut runs) = (0, 0);
    while struck < faults {
        let run = Run::new(&tiny, &format!("chaos-{workers}-{runs}"), workers, &SETTINGS);
        struck += survives(&run, &expected, workers, &mut deck, each.min(faults - struck));
        runs += 1;
    }
    println!("{workers} workers: {struck} faults survived in {runs} runs");
}

#[test]
fn a_little_chaos_changes_nothing() {
    chaos(2, 5, 5);
}

/// Each kind 18 times: 6 times for each number of workers.
#[test]
#[ignore = "a quarter of an hour: the long form of the test above"]
fn chaos_of_two_hundred_faults_changes_nothing() {
    for workers in [1, 2, 4] {
        chaos(workers, FAULTS.len() * 6, 12);
    }
}
