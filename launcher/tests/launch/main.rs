//! The launcher, run for real against workers that fail on demand; each test with both engines.

mod causes;
mod metrics;
mod orphans;
mod scale;
mod slurm;
mod starts;
mod streams;
mod support;
mod systems;
mod using;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{fake_run, run_folder};
use tandem_tests::live::{eventually, send};
use tandem_tests::{expect_code, run_by};

/// Without a fault: train, average, test, export; then there is nothing left to do.
fn finishes(workers: usize) {
    let run = fake_run(workers);
    let umask = ["sh", "-c", "umask 002; exec \"$@\"", "sh"];
    let ended = run.start_with(&[], |command| run_by(command, &umask)).wait(0);
    ended.assert_said("valid at step 20: loss 2.00  BLEU 100.00");
    ended.assert_said("averaged 2 checkpoints: steps 15, 20");
    ended.assert_said("  translation  this is the sentence of number 0");
    ended.assert_said("report: ");
    ended.assert_said("test at step 20: loss 2.00  BLEU 100.00");
    let folder = run_folder(&run);
    assert_eq!(folder.store().steps().unwrap(), [10, 15, 20], "the last three are kept");
    assert_eq!(folder.store().open("average").unwrap().manifest().average_of, [15, 20]);
    assert_eq!(folder.store().best(), Some(20));
    let report = fs::read_to_string(folder.report()).unwrap();
    assert!(report.contains("**BLEU 100.00** (sacreBLEU 13a)"), "{report}");
    for file in ["adapters.safetensors", "config.yaml", "README.md"] {
        assert!(folder.export().join(file).is_file(), "{file} is exported");
    }
    let merged = folder.evaluation("test", 20).translations();
    assert_eq!(fs::read_to_string(merged).unwrap().lines().count(), 7);
    assert!((0..workers).all(|rank| folder.rank_log(1, rank).is_file()));
    assert_eq!(run.state()["status"], "done");
    let events = fs::read_to_string(folder.events()).unwrap();
    assert!(events.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{events}");
    run.assert_no_process();
    assert_open_to_the_group(folder.path());

    let again = run.launch(&[], 0);
    again.assert_said("has finished");
    assert_eq!(run.state()["attempt"], 2, "nothing was started again");
}

/// All modes follow the umask.
fn assert_open_to_the_group(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let found = fs::symlink_metadata(&path).unwrap();
        let mode = found.permissions().mode() & 0o777;
        if found.is_dir() {
            assert_eq!(mode, 0o775, "{}: {mode:o}", path.display());
            assert_open_to_the_group(&path);
        } else if found.is_file() {
            assert_eq!(mode, 0o664, "{}: {mode:o}", path.display());
        }
    }
}

#[test]
fn a_run_of_one_worker_finishes() {
    finishes(1);
}

#[test]
fn a_run_under_mpirun_finishes() {
    finishes(2);
}

/// A rank dies once: the run goes on from the last checkpoint, to the same end.
fn survives_a_death(workers: usize) {
    let rank = workers - 1;
    let run = fake_run(workers).with("FAKE_FAULT", &format!("die:{rank}:13"));
    let ended = run.launch(&[], 0);
    ended.assert_said(&format!("error: rank {rank} on "));
    ended.assert_said("died in phase train at step 13 (attempt 1)");
    if workers == 1 {
        ended.assert_said("ended by signal 6 (SIGABRT)");
    }
    ended.assert_said("  | about to fail");
    ended.assert_said("next: starting again (2 more restarts)");
    ended.assert_said("resuming from the checkpoint of step 10 of 20");
    assert_eq!(run.state()["restarts"], 1);
    assert_eq!(run_folder(&run).store().newest().unwrap(), Some(20));
    run.assert_no_process();
}

#[test]
fn a_death_is_survived_by_solo() {
    survives_a_death(1);
}

#[test]
fn a_death_is_survived_by_mpirun() {
    survives_a_death(2);
}

/// The same error at the same step twice ends the run, and the report is short and last.
fn gives_up_on_poison(workers: usize) {
    let rank = workers - 1;
    let run = fake_run(workers).with("FAKE_FAULT", &format!("error:{rank}:8!"));
    let ended = run.launch(&[], 93);
    let report: Vec<&str> =
        ended.stderr.lines().skip_while(|line| !line.contains("(attempt 2)")).collect();
    assert!(report.len() <= 15, "{}", ended.stderr);
    assert!(report[0].starts_with(&format!("error: rank {rank} on ")), "{}", report[0]);
    assert!(report[0].contains("failed in phase train at step 8"), "{}", report[0]);
    assert!(report[0].ends_with("is poisoned"), "{}", report[0]);
    let last = report.last().unwrap();
    assert!(last.contains("the same error at step 8 twice; do not retry"), "{last}");
    assert!(last.contains("resumes from step 5"), "{last}");
    assert_eq!(run.state()["failure"]["rank"], rank);
    assert_eq!(run.state()["status"], "failed");
}

#[test]
fn poison_ends_a_run_under_solo() {
    gives_up_on_poison(1);
}

#[test]
fn poison_ends_a_run_under_mpirun() {
    gives_up_on_poison(2);
}

#[test]
fn a_worker_can_forbid_another_try() {
    let ended = fake_run(1).with("FAKE_FAULT", "exit:0:3!").launch(&[], 93);
    ended.assert_said("trying again does not help");
}

#[test]
fn the_budget_of_restarts_ends() {
    let run = fake_run(1).with("FAKE_FAULT", "die:0:3!").set("cluster.max_restarts=1");
    let ended = run.launch(&[], 1);
    ended.assert_said("1 restarts brought no new checkpoint; there is no checkpoint yet");
    assert_eq!(run.events("attempt").len(), 2);
}

/// `tandem stop` ends the launch with 75 and a checkpoint; launching again goes on.
fn stops_and_goes_on(workers: usize) {
    let run = fake_run(workers).set("training.steps=2000").with("FAKE_STEP_MS", "5");
    let launch = run.start(&[]);
    run.wait_for_step(3);
    let stop = run.stop(0);
    stop.assert_said("stopped; the newest checkpoint is from step ");
    let ended = launch.wait(75);
    let step = run_folder(&run).store().newest().unwrap().unwrap();
    ended.assert_said(&format!("stopped with a checkpoint at step {step}"));
    assert_eq!(run.state()["status"], "stopped");
    run.assert_no_process();
    assert!(!run_folder(&run).stop_request().exists());

    let idle = run.stop(2);
    idle.assert_said("is not running");

    let run = run.set(&format!("training.steps={}", step + 5));
    let ended = run.launch(&[], 0);
    ended.assert_said(&format!("resuming from the checkpoint of step {step}"));
}

#[test]
fn a_stop_is_clean_under_solo() {
    stops_and_goes_on(1);
}

#[test]
fn a_stop_is_clean_under_mpirun() {
    stops_and_goes_on(2);
}

/// A stop while the workers load ends them at once: there is nothing new to save.
fn stops_a_start(workers: usize) {
    let run = fake_run(workers)
        .with("FAKE_START_MS", "1000000")
        .set("cluster.deadlines.start=1000")
        .set("cluster.deadlines.stop=10");
    let launch = run.start(&[]);
    eventually("they have joined", || run.events("joined").len() == workers);
    run.stop(0);
    let ended = launch.wait(75);
    ended.assert_said("stopped before the first checkpoint");
    assert_eq!(run.state()["status"], "stopped");
    run.assert_no_process();
    run.with("FAKE_START_MS", "0").launch(&[], 0);
}

#[test]
fn a_stop_while_solo_loads_is_quick() {
    stops_a_start(1);
}

#[test]
fn a_stop_while_a_group_loads_is_quick() {
    stops_a_start(2);
}

#[test]
fn a_termination_signal_is_a_stop_and_a_second_interrupt_kills() {
    let run = fake_run(1).set("training.steps=100000");
    let launch = run.start(&[]);
    run.wait_for_step(3);
    launch.signal("TERM");
    launch.wait(75);

    let run = fake_run(1).with("FAKE_FAULT", "hang:0:3");
    let launch = run.start(&[]);
    eventually("it hangs", || run_folder(&run).path().join("hang-0-3").exists());
    launch.signal("INT");
    eventually("it is stopping", || !run.events("stopping").is_empty());
    launch.signal("INT");
    launch.wait(130);
    run.assert_no_process();
}

#[test]
fn workers_that_do_not_stop_in_time_are_killed() {
    let run = fake_run(1).with("FAKE_FAULT", "hang:0:3").set("cluster.deadlines.stop=1");
    let launch = run.start(&[]);
    eventually("it hangs", || run_folder(&run).path().join("hang-0-3").exists());
    launch.signal("TERM");
    let ended = launch.wait(124);
    ended.assert_said("did not stop within 1 s (cluster.deadlines.stop)");
    run.assert_no_process();
}

/// The launcher is killed: five seconds later nothing is alive, even a stopped worker.
fn leaves_nothing_behind(workers: usize, stopped: bool) {
    let run = fake_run(workers).set("training.steps=100000");
    let launch = run.start(&[]);
    run.wait_for_step(3);
    if stopped {
        send(run.workers()[0], "STOP");
    }
    let killed = Instant::now();
    launch.kill();
    eventually("all are gone", || run.processes().is_empty());
    assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
    assert_eq!(run_folder(&run).holder(), None, "the lock went with the launcher");
}

#[test]
fn a_killed_launcher_takes_a_solo_worker_along() {
    leaves_nothing_behind(1, false);
    leaves_nothing_behind(1, true);
}

#[test]
fn a_killed_launcher_takes_a_group_along() {
    leaves_nothing_behind(2, false);
    leaves_nothing_behind(2, true);
}

/// A stopped worker is found by its silence, named, killed, and the run goes on.
fn finds_the_stopped(workers: usize) {
    let run = fake_run(workers)
        .set("training.steps=400")
        .with("FAKE_STEP_MS", "10")
        .set("cluster.deadlines.step=5");
    let launch = run.start(&[]);
    run.wait_for_step(11);
    let victim = *run.workers().last().unwrap();
    send(victim, "STOP");
    let ended = launch.wait(0);
    ended.assert_said(" hung in phase ");
    ended.assert_said("no heartbeat for ");
    assert_eq!(run.state()["restarts"], 1);
}

#[test]
fn a_stopped_worker_is_found_under_solo() {
    finds_the_stopped(1);
}

#[test]
fn a_stopped_worker_is_found_under_mpirun() {
    finds_the_stopped(2);
}

#[test]
fn a_step_that_never_ends_is_found_by_its_deadline() {
    let run = fake_run(2).with("FAKE_FAULT", "hang:1:7").set("cluster.deadlines.step=2");
    let ended = run.launch(&[], 0);
    ended.assert_said("error: rank 1 on ");
    ended.assert_said("hung in phase train at step 7 (attempt 1)");
    ended.assert_said("no progress in phase train for ");
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_is_used() {
    let run = fake_run(1).with("FAKE_FAULT", "error:0:17!").set("cluster.max_restarts=0");
    run.launch(&[], 1);
    let newest = run_folder(&run).store().open("latest").unwrap();
    assert_eq!(newest.step(), 15);
    let adapters = newest.path("adapters.safetensors");
    let mut bytes = fs::read(&adapters).unwrap();
    *bytes.last_mut().unwrap() ^= 4;
    fs::write(&adapters, bytes).unwrap();
    let run = run.with("FAKE_FAULT", "");
    let ended = run.launch(&[], 0);
    ended.assert_said("step-00000015 is damaged: adapters.safetensors has another content");
    ended.assert_said("resuming from the checkpoint of step 10 of 20");
    assert_eq!(run_folder(&run).store().open("15").unwrap().step(), 15, "it was written again");
}

#[test]
fn a_failing_test_evaluation_is_tried_again() {
    let run = fake_run(2).with("FAKE_FAULT", "die:1:0");
    let ended = run.launch(&[], 0);
    ended.assert_said("rank 1 on ");
    ended.assert_said("test at step 20: loss 2.00  BLEU 100.00");
}

#[test]
fn another_config_needs_another_name() {
    let run = fake_run(1);
    run.launch(&[], 0);
    let run = run.set("seed=2");
    let ended = run.launch(&[], 2);
    ended.assert_said("`seed` was 1 and is 2 now");
    let mut restart = run.tandem(&["launch", "run.yaml", "--set", "seed=2", "--restart"]);
    expect_code(&mut restart, 0);
}

#[test]
fn logs_are_followed_from_attempt_to_attempt() {
    let run = fake_run(2).with("FAKE_FAULT", "die:1:7").with("FAKE_STEP_MS", "50");
    let launch = run.start(&[]);
    eventually("the workers are there", || run.workers().len() == 2);
    let follow = expect_code(&mut run.tandem(&["logs", "--follow"]), 0);
    launch.wait(0);
    assert!(follow.stdout.contains("[1] about to fail\n"), "{}", follow.stdout);
    assert!(follow.stdout.matches("[0] rank 0 of 2\n").count() >= 2, "{}", follow.stdout);
}

#[test]
fn the_time_of_a_run_adds_up() {
    let run = fake_run(2).with("FAKE_FAULT", "die:1:13").with("FAKE_STEP_MS", "50");
    run.launch(&[], 0);
    let ledger = &run.state()["ledger"];
    let seconds = ledger["seconds"].as_object().unwrap();
    assert_eq!(ledger["unsaved"], json!({}), "it is done");
    for account in ["start", "compute", "restart", "lost"] {
        assert!(seconds[account].as_f64() > Some(0.0), "{account}: {ledger}");
    }
    let sum: f64 = seconds.values().filter_map(Value::as_f64).sum();
    let time = |name: &str| run.events(name)[0]["time"].as_f64().unwrap();
    let whole = time("exit") - time("attempt");
    // The first attempt begins a moment after the launch.
    assert!((sum - whole).abs() < 1.0, "{sum} of {whole}");
    assert!(fs::read_to_string(run_folder(&run).report()).unwrap().contains("| all | "));
}

#[test]
fn a_second_launcher_is_kept_out() {
    let run = fake_run(1).set("training.steps=100000");
    let launch = run.start(&[]);
    run.wait_for_step(3);
    let second = run.launch(&[], 1);
    second.assert_said("is in use by the launcher with process number ");
    launch.signal("TERM");
    launch.wait(75);
}

#[test]
fn a_wrong_config_starts_nothing() {
    let run = fake_run(1).set("training.stepz=5");
    let ended = run.launch(&[], 2);
    ended.assert_said("stepz");
    assert!(!run_folder(&run).path().exists());
}

#[test]
fn a_finished_run_translates_evaluates_and_exports() {
    let run = fake_run(2);
    run.launch(&[], 0);
    fs::write(run.beside("input.txt"), "ein\nzwei\n\nvier\nfünf\n").unwrap();
    let tandem = |code, arguments: &[&str]| expect_code(&mut run.tandem(arguments), code);
    let translated = tandem(0, &["translate", "runs/test", "--input", "input.txt"]);
    assert_eq!(translated.stdout, "EIN\nZWEI\n\nVIER\nFÜNF\n");
    let json = tandem(0, &["evaluate", "test", "--checkpoint", "best", "--json"]).json();
    assert_eq!(json["figures"]["loss"], 2.0);
    tandem(0, &["average", "test", "--last", "3"]);
    let average = run_folder(&run).store().open("average").unwrap();
    assert_eq!(average.manifest().average_of, [10, 15, 20]);
    let output = run.beside("given");
    tandem(0, &["export", "test", "--checkpoint", "20", "--output", &output.to_string_lossy()]);
    assert!(output.join("README.md").is_file());
    let missing = tandem(2, &["translate", "test", "--checkpoint", "7", "--input", "input.txt"]);
    missing.assert_said("there are: latest, best, average, 10, 15, 20");
    let json = tandem(0, &["status", "test", "--json"]).json();
    assert_eq!((&json["status"], &json["launcher"]), (&"done".into(), &Value::Null));
    assert_eq!(json["checkpoints"], json!([10, 15, 20]));
    tandem(0, &["status"]);
    let logs = tandem(0, &["logs", "test"]);
    assert_eq!(logs.stdout, "[0] rank 0 of 2\n[1] rank 1 of 2\n");
    assert_eq!(tandem(0, &["logs", "--rank", "1"]).stdout, "[1] rank 1 of 2\n");
    tandem(2, &["logs", "--rank", "7"]);
}

#[test]
fn a_plan_starts_nothing() {
    let run = fake_run(2);
    let json = expect_code(&mut run.tandem(&["plan", "run.yaml", "--json"]), 0).json();
    assert_eq!(json["topology"]["ranks"], 2);
    assert!(json["size"]["trained"].as_u64().unwrap() > 0);
    assert!(json["commands"][0].as_str().unwrap().starts_with("mpirun -n 2 "));
    assert!(!run_folder(&run).path().exists());
}

/// Slurm's variables tell of GPUs where there is none.
#[test]
fn a_plan_tells_which_workers_share_a_gpu() {
    let run = fake_run(2)
        .with("SLURM_JOB_ID", "7")
        .with("SLURM_JOB_NODELIST", "n1")
        .with("SLURM_JOB_CPUS_PER_NODE", "8")
        .with("SLURM_GPUS_ON_NODE", "2")
        .with("NCCL_MAX_CTAS", "4");
    let plan = |code, more: &[&str]| {
        let mut command = run.tandem(&["plan", "run.yaml"]);
        for setting in [
            "cluster.device=auto",
            "cluster.workers=0",
            "cluster.workers_per_gpu=2",
            "cluster.engine=mpirun",
            "training.micro_batches=4",
        ] {
            command.args(["--set", setting]);
        }
        expect_code(command.args(more), code)
    };
    let shared = plan(0, &[]);
    let words =
        "4 workers on n1, cuda, 2 threads each, up to 2 workers on each GPU, connected by NCCL";
    for words in [
        words,
        " on each GPU\ndisk",
        "-x NCCL_MULTI_RANK_GPU_ENABLE -x NCCL_NVLS_ENABLE -x NCCL_MAX_CTAS ",
    ] {
        assert!(shared.stdout.contains(words), "{words}: {}", shared.stdout);
    }
    let json = plan(0, &["--json"]).json();
    assert_eq!(json["topology"]["workers_per_gpu"], 2);

    let alone = plan(0, &["--set", "cluster.workers_per_gpu=1"]);
    assert!(!alone.stdout.contains("each GPU"), "{}", alone.stdout);
    assert!(!alone.stdout.contains("NCCL_"), "{}", alone.stdout);
    let crowded = plan(2, &["--set", "cluster.workers=5", "--set", "training.micro_batches=5"]);
    crowded.assert_said("there are 2 GPUs (by SLURM_GPUS_ON_NODE)");
}
