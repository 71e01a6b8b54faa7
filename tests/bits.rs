//! Determinism: the same seed gives the same bits, whatever happens on the way.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use tandem_tests::live::Run;
use tandem_tests::{Tiny, adapters, expect_code, mpirun, program};

#[test]
fn the_same_seed_and_a_stopped_run_give_the_same_bits() {
    // So many that the run is still under way when it is asked to stop.
    const STEPS: u64 = 150;
    let tiny = Arc::new(Tiny::new());
    let steps = format!("training.steps={STEPS}");
    let settings = [&*steps, "evaluation.every=75", "checkpoints.every=10"];
    let run = |name: &str| Run::new(&tiny, name, 2, &settings);
    for name in ["first", "second"] {
        run(name).launch(&[], 0);
    }
    let first = adapters(&tiny.path("first"), STEPS);
    assert!(first == adapters(&tiny.path("second"), STEPS), "the same seed gave other weights");

    let stopped = run("stopped");
    let launch = stopped.start(&[]);
    stopped.wait_for_checkpoint(1, 10);
    stopped.stop(0);
    launch.wait(75);
    stopped.launch(&[], 0);
    assert!(first == adapters(stopped.folder(), STEPS), "resuming gave other weights");
}

#[test]
fn resuming_at_any_checkpoint_gives_the_same_bits() {
    let tiny = Tiny::new();
    let whole = worker_run(&tiny, "whole", 1);
    for step in [3, 6, 9] {
        let name = format!("from-{step}");
        let folder = prepare(&tiny, &name, 1, 0.1, &[]);
        let checkpoint = whole.join(format!("checkpoints/step-{step:08}.tmp-0"));
        let mut command = program("tandem-worker");
        command.arg("train").arg("--run").arg(&folder).arg("--resume").arg(checkpoint);
        expect_code(&mut command, 0);
        assert!(
            draft(&whole, 12) == draft(&folder, 12),
            "resuming at step {step} gave other weights"
        );
    }
}

#[test]
fn one_rank_and_two_have_the_same_losses() {
    let tiny = Tiny::new();
    let run = |name: &str| prepare(&tiny, name, 2, 0.0, &[]);
    let mut one = program("tandem-worker");
    let one = losses(one.arg("train").arg("--run").arg(run("one")));
    let folder = run("two");
    let two = losses(mpirun(2).arg("train").arg("--run").arg(&folder));
    assert_eq!((one.len(), two.len()), (12, 12));
    for (step, (one, two)) in one.iter().zip(&two).enumerate() {
        assert!((one - two).abs() <= 1e-5 * one.abs(), "step {}: {one} and {two}", step + 1);
    }
    // What two ranks began, one goes on with: the same batches.
    let mut rest = program("tandem-worker");
    let checkpoint = folder.join("checkpoints/step-00000006.tmp-0");
    rest.arg("train").arg("--run").arg(run("rest")).arg("--resume").arg(checkpoint);
    let rest = losses(&mut rest);
    assert_eq!(rest.len(), 6);
    for (step, (rest, two)) in rest.iter().zip(&two[6..]).enumerate() {
        assert!((rest - two).abs() <= 1e-5 * two.abs(), "step {}: {rest} and {two}", step + 7);
    }
}

#[test]
fn bf16_trains_nearly_as_f32_and_keeps_what_is_trained_in_f32() {
    let tiny = Tiny::new();
    let train = |name: &str, changes: &[(&str, &str)]| {
        let folder = prepare(&tiny, name, 1, 0.1, changes);
        let mut command = program("tandem-worker");
        (losses(command.arg("train").arg("--run").arg(&folder)), draft(&folder, 12))
    };
    let precision = [("training: { ", "training: { precision: bf16, ")];
    let (f32, _) = train("f32", &[]);
    let (bf16, weights) = train("bf16", &precision);
    assert_eq!((f32.len(), bf16.len()), (12, 12));
    for (step, (f32, bf16)) in f32.iter().zip(&bf16).enumerate() {
        // bf16 has eight bits of mantissa.
        assert!((f32 - bf16).abs() <= 0.02 * f32.abs(), "step {}: {f32}, {bf16}", step + 1);
    }
    assert!(weights == train("again", &precision).1, "the same seed gave other weights");
    let header = String::from_utf8_lossy(&weights);
    assert!(header.contains("\"F32\"") && !header.contains("\"BF16\""), "{:.300}", header);
}

#[test]
fn communication_behind_the_next_forward_pass_changes_no_bits() {
    let tiny = Tiny::new();
    let train = |name: &str, clip: &str| {
        let optimizer = "optimizer: { adam: { weight_decay: 0.1 } }";
        let training = format!("training: {{ {optimizer}, clip_norm: {clip}, ");
        let buckets = ("threads: 1,", "threads: 1, bucket_mib: 0.01,");
        let folder = prepare(&tiny, name, 2, 0.1, &[("training: { ", &training), buckets]);
        expect_code(mpirun(2).arg("train").arg("--run").arg(&folder), 0);
        draft(&folder, 12)
    };
    // To clip gradients, even such as none has, all of them are waited for.
    let (behind, between) = (train("behind", "0.0"), train("between", "1.0e+30"));
    assert!(behind == between, "weights were used before they were there");
}

/// Eight shards, which any number of ranks adds up in the same order; 50 steps.
const REPRODUCIBLE: [(&str, &str); 3] = [
    ("steps: 12, max_tokens: 200, micro_batches: 2", "steps: 50, max_tokens: 50, micro_batches: 8"),
    ("evaluation: { every: 6,", "evaluation: { every: 0,"),
    ("threads: 1,", "threads: 1, reduction: reproducible, bucket_mib: 0.01,"),
];

#[test]
fn any_number_of_ranks_trains_the_same_bits() {
    train_the_same_bits(&[2, 3, 4, 8], &[]);
}

#[test]
fn any_number_of_ranks_corrects_the_same() {
    let correction = ("length_classes: 40", "length_classes: 40, correction: {}");
    train_the_same_bits(&[8], &[correction]);
}

/// Trains with these numbers of ranks, the last being 8, and with others after that.
fn train_the_same_bits(numbers: &[usize], changes: &[(&str, &str)]) {
    let tiny = Tiny::new();
    let changes = [&REPRODUCIBLE, changes].concat();
    let train = |ranks: usize, resume: Option<(&Path, u64)>| {
        let name = format!("{ranks}-from-{}", resume.map_or(0, |(_, step)| step));
        let folder = prepare(&tiny, &name, ranks, 0.1, &changes);
        let mut command = mpirun(ranks);
        command.arg("train").arg("--run").arg(&folder);
        if let Some((run, step)) = resume {
            let checkpoint = run.join(format!("checkpoints/step-{step:08}.tmp-0"));
            command.arg("--resume").arg(checkpoint);
        }
        expect_code(&mut command, 0);
        folder
    };
    let one = train(1, None);
    for &ranks in numbers {
        let run = train(ranks, None);
        assert!(draft(&one, 50) == draft(&run, 50), "{ranks} ranks trained other weights");
    }
    // 8, then 3, then 4 ranks.
    let three = train(3, Some((&tiny.path("8-from-0"), 18)));
    let four = train(4, Some((&three, 36)));
    assert!(draft(&one, 50) == draft(&four, 50), "resuming with other ranks gave other weights");
}

/// A run's folder with its config, for a worker without a launcher; each change is a text of the
/// config and what takes its place.
fn prepare(
    tiny: &Tiny,
    name: &str,
    workers: usize,
    dropout: f64,
    changes: &[(&str, &str)],
) -> std::path::PathBuf {
    let config = tiny.ab_net(name, workers, dropout);
    let folder = tiny.path(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut text = std::fs::read_to_string(config).expect("a config");
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    std::fs::write(folder.join("config.yaml"), absolute(tiny, &text)).expect("a config");
    folder
}

/// Paths of the resolved config are absolute.
fn absolute(tiny: &Tiny, text: &str) -> String {
    let folder = tiny.path("").display().to_string();
    text.replace("./bert", &format!("{folder}/bert"))
        .replace("train.tsv", &format!("{folder}/train.tsv"))
        .replace("valid.tsv", &format!("{folder}/valid.tsv"))
}

fn worker_run(tiny: &Tiny, name: &str, workers: usize) -> std::path::PathBuf {
    let folder = prepare(tiny, name, workers, 0.1, &[]);
    expect_code(program("tandem-worker").arg("train").arg("--run").arg(&folder), 0);
    folder
}

/// The adapters at a step of a worker whose drafts nobody published.
fn draft(run: &Path, step: u64) -> Vec<u8> {
    let path = run.join(format!("checkpoints/step-{step:08}.tmp-0/adapters.safetensors"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The loss of each step, as a rank without a launcher prints them.
fn losses(command: &mut Command) -> Vec<f64> {
    let text = expect_code(command, 0).stdout;
    let metrics = text.split("TrainingMetrics {").skip(1);
    metrics
        .filter_map(|metrics| metrics.split_once(" loss: ")?.1.split(',').next()?.parse().ok())
        .collect()
}
