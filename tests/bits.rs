//! Determinism: the same seed gives the same bits, whatever happens on the way.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tandem_tests::{Tiny, adapters, expect_code, program};

#[test]
fn the_same_seed_and_a_stopped_run_give_the_same_bits() {
    let tiny = Tiny::new();
    for name in ["first", "second"] {
        let config = tiny.ab_net(name, 2, 0.1);
        expect_code(program("tandem").arg("launch").arg(config), 0);
    }
    let first = adapters(&tiny.path("first"), 12);
    assert!(first == adapters(&tiny.path("second"), 12), "the same seed gave other weights");

    let config = tiny.ab_net("stopped", 2, 0.1);
    let mut launch = program("tandem").arg("launch").arg(&config).spawn().expect("tandem launch");
    let checkpoints = tiny.path("stopped/checkpoints/latest");
    let deadline = Instant::now() + Duration::from_secs(120);
    while !checkpoints.exists() {
        assert!(Instant::now() < deadline, "no checkpoint after two minutes");
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = program("tandem").arg("stop").arg(tiny.path("stopped")).output();
    let code = launch.wait().expect("an end").code();
    // It may have been done already when it was asked to stop.
    assert!(code == Some(75) || code == Some(0), "{code:?}");
    expect_code(program("tandem").arg("launch").arg(&config), 0);
    assert!(first == adapters(&tiny.path("stopped"), 12), "resuming gave other weights");
}

#[test]
fn resuming_at_any_checkpoint_gives_the_same_bits() {
    let tiny = Tiny::new();
    let whole = worker_run(&tiny, "whole", 1);
    for step in [3, 6, 9] {
        let name = format!("from-{step}");
        let folder = prepare(&tiny, &name, 1);
        let checkpoint = whole.join(format!("checkpoints/step-{step:08}.tmp-0"));
        let mut command = program("tandem-worker");
        command.arg("train").arg("--run").arg(&folder).arg("--resume").arg(checkpoint);
        expect_code(&mut command, 0);
        assert!(draft(&whole) == draft(&folder), "resuming at step {step} gave other weights");
    }
}

#[test]
fn one_rank_and_two_have_the_same_losses() {
    let tiny = Tiny::new();
    let config = |name: &str| tiny.ab_net(name, 2, 0.0);
    let folder = |name: &str| {
        let resolved = config(name);
        let folder = tiny.path(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let text = std::fs::read_to_string(resolved).expect("a config");
        std::fs::write(folder.join("config.yaml"), absolute(&tiny, &text)).expect("a config");
        folder
    };
    let mut one = program("tandem-worker");
    let one = losses(one.arg("train").arg("--run").arg(folder("one")));
    let worker = program("tandem-worker").get_program().to_owned();
    let mut two = Command::new("mpirun");
    two.args(["-n", "2", "--oversubscribe", "--bind-to", "none", "-x", "TANDEM_WORLD_SIZE"])
        .envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")])
        .envs([("TANDEM_WORLD_SIZE", "2"), ("OMP_NUM_THREADS", "1")])
        .arg(worker)
        .arg("train")
        .arg("--run")
        .arg(folder("two"));
    let two = losses(&mut two);
    assert_eq!((one.len(), two.len()), (12, 12));
    for (step, (one, two)) in one.iter().zip(&two).enumerate() {
        assert!((one - two).abs() <= 1e-5 * one.abs(), "step {}: {one} and {two}", step + 1);
    }
}

#[test]
fn bf16_trains_nearly_as_f32_and_keeps_what_is_trained_in_f32() {
    let tiny = Tiny::new();
    let train = |name: &str, precision: &str| {
        let folder = prepare(&tiny, name, 1);
        let path = folder.join("config.yaml");
        let config = std::fs::read_to_string(&path).expect("a config");
        let training = format!("training: {{ precision: {precision}, ");
        std::fs::write(path, config.replace("training: { ", &training)).expect("a config");
        (losses(program("tandem-worker").arg("train").arg("--run").arg(&folder)), draft(&folder))
    };
    let (f32, _) = train("f32", "f32");
    let (bf16, weights) = train("bf16", "bf16");
    assert_eq!((f32.len(), bf16.len()), (12, 12));
    for (step, (f32, bf16)) in f32.iter().zip(&bf16).enumerate() {
        // bf16 has eight bits of mantissa.
        assert!((f32 - bf16).abs() <= 0.02 * f32.abs(), "step {}: {f32}, {bf16}", step + 1);
    }
    assert!(weights == train("again", "bf16").1, "the same seed gave other weights");
    let header = String::from_utf8_lossy(&weights);
    assert!(header.contains("\"F32\"") && !header.contains("\"BF16\""), "{:.300}", header);
}

/// A run's folder with its config, for a worker without a launcher.
fn prepare(tiny: &Tiny, name: &str, workers: usize) -> std::path::PathBuf {
    let config = tiny.ab_net(name, workers, 0.1);
    let folder = tiny.path(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    let text = std::fs::read_to_string(config).expect("a config");
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
    let folder = prepare(tiny, name, workers);
    expect_code(program("tandem-worker").arg("train").arg("--run").arg(&folder), 0);
    folder
}

/// The last checkpoint of a worker whose drafts nobody published.
fn draft(run: &Path) -> Vec<u8> {
    let path = run.join("checkpoints/step-00000012.tmp-0/adapters.safetensors");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The loss of each step, as a rank without a launcher prints them.
fn losses(command: &mut Command) -> Vec<f64> {
    let output = expect_code(command, 0);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.match_indices("(\"train/loss\", ")
        .filter_map(|(start, key)| text[start + key.len()..].split(')').next())
        .filter_map(|number| number.parse().ok())
        .collect()
}
