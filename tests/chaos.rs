//! Chaos: faults of all kinds, one after another, at random moments of a tiny run. Its adapters and
//! its curves are those of the run that nothing happened to.
//!
//! The long form strikes 200 times and takes about an hour on two cores:
//! `cargo test --release -p tandem-tests chaos -- --ignored --nocapture`

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tandem_tests::live::{Launch, Run, eventually, limit_files, send};
use tandem_tests::seeded::Seeded;
use tandem_tests::{Tiny, adapters, processes, program, trace};

const STEPS: u64 = 96;
const SETTINGS: [&str; 8] = [
    "training.steps=96",
    "training.micro_batches=4",
    "checkpoints.every=4",
    "evaluation.every=48",
    "evaluation.sentences=4",
    "evaluation.latency_sentences=1",
    "cluster.max_restarts=100",
    "cluster.deadlines.step=5",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    KilledWorker,
    StoppedWorker,
    HungDataThread,
    KilledEngine,
    KilledLauncher,
    Stop,
    FlippedBit,
    FullDiskOfWorker,
    FullDiskOfLauncher,
}

const FAULTS: [Fault; 9] = [
    Fault::KilledWorker,
    Fault::StoppedWorker,
    Fault::HungDataThread,
    Fault::KilledEngine,
    Fault::KilledLauncher,
    Fault::Stop,
    Fault::FlippedBit,
    Fault::FullDiskOfWorker,
    Fault::FullDiskOfLauncher,
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

/// Strikes a run of so many workers until there have been `most` faults or its end is near;
/// answers how many there were.
fn survives(tiny: &Arc<Tiny>, expected: &Outcome, workers: usize, seed: u64, most: usize) -> usize {
    let mut seeded = Seeded(seed * 8 + workers as u64);
    let run = Run::new(tiny, &format!("chaos-{workers}-{seed}"), workers, &SETTINGS);
    let mut launch = run.start(&[]);
    let mut struck = 0;
    let mut held = Vec::new();
    while struck < most {
        let target = newest(&run) + 4 * (1 + seeded.below(2));
        if target + 8 > STEPS {
            break;
        }
        eventually("it gets on", || newest(&run) >= target || launch.has_ended());
        std::thread::sleep(Duration::from_millis(seeded.below(60)));
        let fault = FAULTS[seeded.below(FAULTS.len() as u64) as usize];
        let Some(after) = strike(fault, &run, launch, workers, &mut seeded, &mut held) else {
            panic!("{fault:?} found nothing to strike");
        };
        launch = after;
        struck += 1;
        println!("{workers} workers, seed {seed}: {fault:?} after step {target}");
    }
    launch.wait(0);
    held.into_iter().for_each(|holder: std::thread::JoinHandle<()>| holder.join().expect("ended"));
    let found = Outcome::of(&run);
    assert!(found.adapters == expected.adapters, "seed {seed}: other adapters");
    assert!(found.exported == expected.exported, "seed {seed}: another export");
    assert_eq!(found.curves, expected.curves, "seed {seed}");
    run.assert_no_process();
    struck
}

fn newest(run: &Run) -> u64 {
    run.checkpoints().pop().unwrap_or(0)
}

/// Does it, and answers the launcher that goes on, which may be a new one.
fn strike(
    fault: Fault,
    run: &Run,
    launch: Launch,
    workers: usize,
    seeded: &mut Seeded,
    held: &mut Vec<std::thread::JoinHandle<()>>,
) -> Option<Launch> {
    let running = processes::of_run("tandem-worker", run.folder());
    let victim = running.get(seeded.below(running.len().max(1) as u64) as usize).copied();
    let again = |launch: Launch| {
        launch.kill();
        eventually("all are gone", || run.processes().is_empty());
    };
    match fault {
        Fault::KilledWorker => send(victim?, "KILL"),
        Fault::StoppedWorker => send(victim?, "STOP"),
        Fault::HungDataThread => held.push(trace::hold(processes::thread(victim?, "prefetch")?)),
        Fault::KilledEngine => {
            let engine = processes::of_run("mpirun", run.folder());
            send(if workers > 1 { *engine.first()? } else { victim? }, "KILL");
        }
        Fault::KilledLauncher => {
            again(launch);
            return Some(run.start(&[]));
        }
        Fault::Stop => {
            let stopped = program("tandem").arg("stop").arg(run.folder()).output();
            assert!(stopped.expect("tandem stop").status.success());
            launch.wait(75);
            return Some(run.start(&[]));
        }
        Fault::FlippedBit => {
            again(launch);
            let path = run.checkpoint(newest(run)).join("adapters.safetensors");
            let mut bytes = std::fs::read(&path).expect("a checkpoint");
            let bit = seeded.below(bytes.len() as u64 * 8) as usize;
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bytes).expect("a checkpoint");
            return Some(run.start(&[]));
        }
        Fault::FullDiskOfWorker => full_for_a_while(victim?, seeded),
        Fault::FullDiskOfLauncher => full_for_a_while(launch.pid(), seeded),
    }
    Some(launch)
}

fn full_for_a_while(pid: u32, seeded: &mut Seeded) {
    limit_files(pid, Some(100));
    std::thread::sleep(Duration::from_millis(100 + seeded.below(400)));
    limit_files(pid, None);
}

/// So many faults or more, over as many runs as that takes.
fn chaos(workers: usize, faults: usize, each: usize) -> usize {
    let tiny = Arc::new(Tiny::new());
    let undisturbed = Run::new(&tiny, &format!("calm-{workers}"), workers, &SETTINGS);
    undisturbed.launch(&[], 0);
    let expected = Outcome::of(&undisturbed);
    let mut struck = 0;
    let mut seed = 0;
    while struck < faults {
        struck += survives(&tiny, &expected, workers, seed, each.min(faults - struck));
        seed += 1;
        println!("{workers} workers: {struck} faults survived in {seed} runs");
    }
    struck
}

#[test]
fn a_little_chaos_changes_nothing() {
    assert!(chaos(2, 5, 5) >= 5);
}

#[test]
#[ignore = "an hour: the long form of the test above"]
fn chaos_of_two_hundred_faults_changes_nothing() {
    let struck: usize = [1, 2, 4].into_iter().map(|workers| chaos(workers, 67, 12)).sum();
    println!("{struck} faults survived");
}
