//! Whatever is killed, in whatever order, nothing is left.

use std::time::{Duration, Instant};

use tandem_tests::live::eventually;
use tandem_tests::seeded::Seeded;

use crate::support::{fake_run, run_folder};

/// Time within which all are gone after the launcher is.
const GONE: Duration = Duration::from_secs(5);

/// Workers, mpirun and the launcher are killed in an order that `seed` says, with pauses, at any
/// time of the run's first moments; nobody comes after the launcher.
fn kills_in_an_order_of(seed: u64) {
    let mut seeded = Seeded(seed);
    let workers = 1 + seeded.below(3) as usize;
    let run = fake_run(workers)
        .set("training.steps=100000")
        .set("training.micro_batches=3")
        .set("cluster.max_restarts=50");
    let launch = run.start(&[]);
    if seeded.below(3) > 0 {
        run.wait_for_step(1);
    } else {
        eventually("something has started", || !run.workers().is_empty());
    }
    let mut order: Vec<&str> = vec!["mpirun"];
    order.extend(vec!["worker"; workers]);
    seeded.shuffle(&mut order);
    order.truncate(seeded.below(order.len() as u64 + 1) as usize);
    for victim in order {
        let running = if victim == "mpirun" { run.engines() } else { run.workers() };
        if !running.is_empty() {
            let pid = running[seeded.below(running.len() as u64) as usize];
            // It may have ended by itself meanwhile, with its group.
            tandem_cluster::process::kill(pid);
        }
        std::thread::sleep(Duration::from_millis(seeded.below(200)));
    }
    let killed = Instant::now();
    launch.kill();
    eventually("all are gone", || run.processes().is_empty());
    assert!(killed.elapsed() < GONE, "seed {seed}: {:?}", killed.elapsed());
    assert_eq!(run_folder(&run).holder(), None, "seed {seed}: the lock went with the launcher");
}

#[test]
fn ten_orders_of_killing_leave_nothing() {
    (0..10).for_each(kills_in_an_order_of);
}

/// `cargo test --release -p tandem-launcher orders -- --ignored --nocapture`
#[test]
#[ignore = "minutes: the long form of the test above"]
fn two_hundred_orders_of_killing_leave_nothing() {
    for seed in 0..200 {
        kills_in_an_order_of(seed);
        println!("order {seed}: nothing is left");
    }
}
