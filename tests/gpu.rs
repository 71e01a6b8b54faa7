//! On real GPUs: the model's numbers, several ranks over the real NCCL, and what happens to them.
//!
//! `make test-gpu` runs these. Ranks share GPUs where there are fewer than four, which takes NCCL
//! 2.30 or newer in LD_LIBRARY_PATH.

use std::path::Path;

use tandem_tests::launch::Launch;
use tandem_tests::live::{Run, eventually, send};
use tandem_tests::{Tiny, adapters, expect_code, mpirun, processes, program, trace};

/// The most ranks of a test.
const RANKS: usize = 4;
/// So many steps that a fault always strikes in the middle.
const STEPS: u64 = 48;

/// How many workers of the most ranks each GPU has.
fn workers_per_gpu() -> usize {
    let libraries = expect_code(program("tandem-worker").arg("libraries"), 0).json();
    let gpus = libraries["gpus"].as_u64().expect("a number") as usize;
    assert!(gpus > 0, "these tests need a GPU: {libraries}");
    RANKS.div_ceil(gpus)
}

/// A run on GPUs, which learns the same with any number of workers.
fn run(name: &str, workers: usize, settings: &[&str]) -> Run {
    let sharing = format!("cluster.workers_per_gpu={}", workers_per_gpu());
    let common = [
        "cluster.device=cuda",
        &sharing,
        "cluster.deadlines.step=10",
        "training.steps=48",
        "training.micro_batches=4",
        "training.max_tokens=100",
        "checkpoints.every=4",
        "evaluation.every=24",
        "evaluation.sentences=4",
        "cluster.max_restarts=3",
    ];
    Run::new(&Tiny::shared(), name, workers, &[&common, settings].concat())
}

/// The losses of all steps, by the launcher's own events.
fn losses(run: &Run) -> Vec<f64> {
    let points = run.curves().remove("train/loss").expect("losses");
    points.iter().map(|(_, loss)| loss.as_f64().expect("a number")).collect()
}

#[test]
#[ignore = "needs a GPU: make test-gpu"]
fn every_quantity_agrees_in_f32() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/tiny-a");
    let mut command = program("tandem-worker");
    let said = expect_code(command.arg("parity").arg(golden).args(["--device", "cuda"]), 0).stdout;
    println!("{said}");
    assert!(said.ends_with("all quantities agree\n"), "{said}");
}

#[test]
#[ignore = "needs a GPU: make test-gpu"]
fn nccl_conforms_at_1_2_and_4_ranks() {
    let sharing = workers_per_gpu();
    for ranks in [1, 2, RANKS] {
        let mut command = mpirun(ranks);
        command.args(["conformance", "--backend", "nccl", "--bandwidth", "64"]);
        command.args(["--workers-per-gpu", &sharing.to_string()]);
        if sharing > 1 {
            command.env("NCCL_MULTI_RANK_GPU_ENABLE", "1");
            command.env("NCCL_NVLS_ENABLE", "0").env("NCCL_MAX_CTAS", "2");
        }
        let said = expect_code(&mut command, 0).stdout;
        println!("{said}");
        assert!(said.starts_with(&format!("nccl conforms with {ranks} ranks\n")), "{said}");
    }
}

#[test]
#[ignore = "needs a GPU: make test-gpu"]
fn any_number_of_workers_trains_the_same_bits() {
    let bits = |workers: usize| {
        let settings = ["cluster.reduction=reproducible", "cluster.bucket_mib=0.01"];
        let run = run(&format!("bits-{workers}"), workers, &settings);
        run.launch(&[], 0);
        adapters(run.folder(), STEPS)
    };
    let one = bits(1);
    for workers in [2, RANKS] {
        assert!(one == bits(workers), "{workers} workers learnt other weights than one");
    }
}

#[test]
#[ignore = "needs a GPU: make test-gpu"]
fn several_workers_have_the_losses_of_one() {
    let trained = |workers: usize, dtype: &str| {
        let settings = [&*format!("cluster.gradient_dtype={dtype}"), "cluster.bucket_mib=0.01"];
        let run = run(&format!("losses-{workers}-{dtype}"), workers, &settings);
        run.launch(&[], 0);
        losses(&run)
    };
    let one = trained(1, "f32");
    assert_eq!(one.len() as u64, STEPS);
    // bf16 has eight bits of mantissa, and what it rounds away is never learnt.
    for (workers, dtype, bound) in [(2, "f32", 1e-3), (RANKS, "f32", 1e-3), (2, "bf16", 5e-2)] {
        let several = trained(workers, dtype);
        let errors = one.iter().zip(&several).map(|(one, several)| (one - several).abs() / one);
        let worst = errors.fold(0.0, f64::max);
        println!("{workers} workers, {dtype} gradients: losses differ by at most {worst:.1e}");
        assert_eq!(several.len() as u64, STEPS);
        assert!(worst < bound, "{workers} workers, {dtype}: {one:?}\n{several:?}");
    }
}

/// Something happens to the last rank in mid run; the group is started again, and the end is that
/// of the run that nothing happened to. Answers what the launcher said.
fn survives(name: &str, workers: usize, strike: impl FnOnce(&Run, &Launch, u32)) {
    let undisturbed = run(&format!("undisturbed-{name}"), workers, &[]);
    undisturbed.launch(&[], 0);
    let run = run(name, workers, &[]);
    let launch = run.start(&[]);
    let pid = run.rank(1, workers - 1);
    run.wait_for_checkpoint(1, 8);
    strike(&run, &launch, pid);
    let ended = launch.wait(0);
    println!("{}", ended.stderr);
    assert_eq!(run.events("failure").len(), 1, "{:?}", run.events("failure"));
    assert_eq!(run.events("failure")[0]["failure"]["rank"], workers - 1);
    ended.assert_said("resuming from the checkpoint of step ");
    run.assert_no_process();
    let same = adapters(run.folder(), STEPS) == adapters(undisturbed.folder(), STEPS);
    assert!(same, "it learnt other weights than the undisturbed run");
}

#[test]
#[ignore = "needs a GPU: make test-gpu"]
fn a_killed_worker_is_survived_alone() {
    survives("killed-1", 1, |_, _, pid| send(pid, "KILL"));
}

#[test]
#[ignore = "needs a GPU: make test-gpu"]
fn a_killed_worker_is_survived_over_nccl() {
    survives("killed-2", 2, |_, _, pid| send(pid, "KILL"));
}

#[test]
#[ignore = "needs a GPU: make test-gpu"]
fn a_stopped_worker_is_found_over_nccl() {
    survives("stopped", 2, |_, _, pid| send(pid, "STOP"));
}

/// The rank lives and sends heartbeats, but no longer takes part: the others wait in NCCL.
#[test]
#[ignore = "needs a GPU: make test-gpu"]
fn a_collective_that_hangs_is_found() {
    survives("hung", 2, |run, _, pid| {
        let holder = trace::hold(processes::thread(pid, "tandem-worker").expect("the main thread"));
        eventually("it is noticed", || !run.events("failure").is_empty());
        holder.join().expect("it ends with its process");
    });
}
