//! The launcher, run for real against workers that fail on demand; each test with both engines.

mod causes;
mod metrics;
mod orphans;
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

use support::{Bench, Ended};
use tandem_tests::live::{eventually, send};

/// Without a fault: train, average, test, export; then there is nothing left to do.
fn finishes(workers: usize) {
    let bench = Bench::new(workers);
    let ended = bench.start_by(&["sh", "-c", "umask 002; exec \"$@\"", "sh"]).wait();
    ended.assert_code(0);
    ended.assert_said("valid at step 20: loss 2.00  BLEU 100.00");
    ended.assert_said("averaged 2 checkpoints: steps 15, 20");
    ended.assert_said("  translation  this is the sentence of number 0");
    ended.assert_said("report: ");
    ended.assert_said("test at step 20: loss 2.00  BLEU 100.00");
    let run = bench.run();
    assert_eq!(run.store().steps().unwrap(), [10, 15, 20], "the last three are kept");
    assert_eq!(run.store().open("average").unwrap().manifest().average_of, [15, 20]);
    assert_eq!(run.store().best(), Some(20));
    let report = fs::read_to_string(run.report()).unwrap();
    assert!(report.contains("**BLEU 100.00** (sacreBLEU 13a)"), "{report}");
    for file in ["adapters.safetensors", "config.yaml", "README.md"] {
        assert!(run.export().join(file).is_file(), "{file} is exported");
    }
    let merged = run.evaluation("test", 20).translations();
    assert_eq!(fs::read_to_string(merged).unwrap().lines().count(), 7);
    assert!((0..workers).all(|rank| run.rank_log(1, rank).is_file()));
    assert_eq!(bench.state()["status"], "done");
    assert!(bench.live().is_empty());
    assert_open_to_the_group(run.path());

    let again = bench.launch();
    again.assert_code(0);
    again.assert_said("has finished");
    assert_eq!(bench.state()["attempt"], 2, "nothing was started again");
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
    let bench = Bench::new(workers).with("FAKE_FAULT", &format!("die:{rank}:13"));
    let ended = bench.launch();
    ended.assert_code(0);
    ended.assert_said(&format!("error: rank {rank} on "));
    ended.assert_said("died in phase train at step 13 (attempt 1)");
    if workers == 1 {
        ended.assert_said("ended by signal 6 (SIGABRT)");
    }
    ended.assert_said("  | about to fail");
    ended.assert_said("next: starting again (2 more restarts)");
    ended.assert_said("resuming from the checkpoint of step 10 of 20");
    assert_eq!(bench.state()["restarts"], 1);
    assert_eq!(bench.run().store().newest().unwrap(), Some(20));
    assert!(bench.live().is_empty());
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
    let bench = Bench::new(workers).with("FAKE_FAULT", &format!("error:{rank}:8!"));
    let ended = bench.launch();
    ended.assert_code(93);
    let report: Vec<&str> =
        ended.said.lines().skip_while(|line| !line.contains("(attempt 2)")).collect();
    assert!(report.len() <= 15, "{}", ended.said);
    assert!(report[0].starts_with(&format!("error: rank {rank} on ")), "{}", report[0]);
    assert!(report[0].contains("failed in phase train at step 8"), "{}", report[0]);
    assert!(report[0].ends_with("is poisoned"), "{}", report[0]);
    let last = report.last().unwrap();
    assert!(last.contains("the same error at step 8 twice; do not retry"), "{last}");
    assert!(last.contains("resumes from step 5"), "{last}");
    assert_eq!(bench.state()["failure"]["rank"], rank);
    assert_eq!(bench.state()["status"], "failed");
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
    let ended = Bench::new(1).with("FAKE_FAULT", "exit:0:3!").launch();
    ended.assert_code(93);
    ended.assert_said("trying again does not help");
}

#[test]
fn the_budget_of_restarts_ends() {
    let bench = Bench::new(1).with("FAKE_FAULT", "die:0:3!").set("cluster.max_restarts=1");
    let ended = bench.launch();
    ended.assert_code(1);
    ended.assert_said("1 restarts brought no new checkpoint; there is no checkpoint yet");
    assert_eq!(bench.events("attempt").len(), 2);
}

/// `tandem stop` ends the launch with 75 and a checkpoint; launching again goes on.
fn stops_and_goes_on(workers: usize) {
    let bench = Bench::new(workers).with("FAKE_STEPS", "2000").with("FAKE_STEP_MS", "5");
    let live = bench.start();
    bench.wait_for_step(3);
    let stop = Ended::new(bench.tandem(&["stop", "runs/test"]).output().unwrap());
    stop.assert_code(0);
    stop.assert_said("stopped; the newest checkpoint is from step ");
    let ended = live.wait();
    ended.assert_code(75);
    let step = bench.run().store().newest().unwrap().unwrap();
    ended.assert_said(&format!("stopped with a checkpoint at step {step}"));
    assert_eq!(bench.state()["status"], "stopped");
    assert!(bench.live().is_empty());
    assert!(!bench.run().stop_request().exists());

    let idle = Ended::new(bench.tandem(&["stop", "runs/test"]).output().unwrap());
    idle.assert_code(2);
    idle.assert_said("is not running");

    let bench = bench.with("FAKE_STEPS", &(step + 5).to_string());
    let ended = bench.launch();
    ended.assert_code(0);
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
    let bench = Bench::new(workers)
        .with("FAKE_START_MS", "1000000")
        .set("cluster.deadlines.start=1000")
        .set("cluster.deadlines.stop=10");
    let live = bench.start();
    eventually("they have joined", || bench.events("joined").len() == workers);
    Ended::new(bench.tandem(&["stop", "runs/test"]).output().unwrap()).assert_code(0);
    let ended = live.wait();
    ended.assert_code(75);
    ended.assert_said("stopped before the first checkpoint");
    assert_eq!(bench.state()["status"], "stopped");
    assert!(bench.live().is_empty() && bench.engines().is_empty());
    bench.with("FAKE_START_MS", "0").launch().assert_code(0);
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
    let bench = Bench::new(1).with("FAKE_STEPS", "100000");
    let live = bench.start();
    bench.wait_for_step(3);
    live.signal("TERM");
    live.wait().assert_code(75);

    let bench = Bench::new(1).with("FAKE_FAULT", "hang:0:3");
    let live = bench.start();
    eventually("it hangs", || bench.run().path().join("hang-0-3").exists());
    live.signal("INT");
    eventually("it is stopping", || !bench.events("stopping").is_empty());
    live.signal("INT");
    live.wait().assert_code(130);
    assert!(bench.live().is_empty());
}

#[test]
fn workers_that_do_not_stop_in_time_are_killed() {
    let bench = Bench::new(1).with("FAKE_FAULT", "hang:0:3").set("cluster.deadlines.stop=1");
    let live = bench.start();
    eventually("it hangs", || bench.run().path().join("hang-0-3").exists());
    live.signal("TERM");
    let ended = live.wait();
    ended.assert_code(124);
    ended.assert_said("did not stop within 1 s (cluster.deadlines.stop)");
    assert!(bench.live().is_empty());
}

/// The launcher is killed: five seconds later nothing is alive, even a stopped worker.
fn leaves_nothing_behind(workers: usize, stopped: bool) {
    let bench = Bench::new(workers).with("FAKE_STEPS", "100000");
    let live = bench.start();
    bench.wait_for_step(3);
    if stopped {
        send(bench.live()[0], "STOP");
    }
    live.signal("KILL");
    live.wait();
    let killed = Instant::now();
    eventually("all are gone", || bench.live().is_empty() && bench.engines().is_empty());
    assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
    assert_eq!(bench.run().holder(), None, "the lock went with the launcher");
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
    let bench = Bench::new(workers)
        .with("FAKE_STEPS", "400")
        .with("FAKE_STEP_MS", "10")
        .set("cluster.deadlines.step=5");
    let live = bench.start();
    bench.wait_for_step(11);
    let victim = *bench.live().last().unwrap();
    send(victim, "STOP");
    let ended = live.wait();
    ended.assert_code(0);
    ended.assert_said(" hung in phase ");
    ended.assert_said("no heartbeat for ");
    assert_eq!(bench.state()["restarts"], 1);
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
    let bench = Bench::new(2).with("FAKE_FAULT", "hang:1:7").set("cluster.deadlines.step=2");
    let ended = bench.launch();
    ended.assert_code(0);
    ended.assert_said("error: rank 1 on ");
    ended.assert_said("hung in phase train at step 7 (attempt 1)");
    ended.assert_said("no progress in phase train for ");
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_is_used() {
    let bench = Bench::new(1).with("FAKE_FAULT", "error:0:17!").set("cluster.max_restarts=0");
    bench.launch().assert_code(1);
    let newest = bench.run().store().open("latest").unwrap();
    assert_eq!(newest.step(), 15);
    let adapters = newest.path("adapters.safetensors");
    let mut bytes = fs::read(&adapters).unwrap();
    *bytes.last_mut().unwrap() ^= 4;
    fs::write(&adapters, bytes).unwrap();
    let bench = bench.with("FAKE_FAULT", "");
    let ended = bench.launch();
    ended.assert_code(0);
    ended.assert_said("step-00000015 is damaged: adapters.safetensors has another content");
    ended.assert_said("resuming from the checkpoint of step 10 of 20");
    assert_eq!(bench.run().store().open("15").unwrap().step(), 15, "it was written again");
}

#[test]
fn a_failing_test_evaluation_is_tried_again() {
    let bench = Bench::new(2).with("FAKE_FAULT", "die:1:0");
    let ended = bench.launch();
    ended.assert_code(0);
    ended.assert_said("rank 1 on ");
    ended.assert_said("test at step 20: loss 2.00  BLEU 100.00");
}

#[test]
fn another_config_needs_another_name() {
    let bench = Bench::new(1);
    bench.launch().assert_code(0);
    let bench = bench.set("seed=2");
    let ended = bench.launch();
    ended.assert_code(2);
    ended.assert_said("`seed` was 1 and is 2 now");
    let mut restart = bench.tandem(&["launch", "run.yaml", "--set", "seed=2", "--restart"]);
    Ended::new(restart.output().unwrap()).assert_code(0);
}

#[test]
fn logs_are_followed_from_attempt_to_attempt() {
    let bench = Bench::new(2).with("FAKE_FAULT", "die:1:7").with("FAKE_STEP_MS", "50");
    let live = bench.start();
    eventually("the workers are there", || bench.live().len() == 2);
    let follow = Ended::new(bench.tandem(&["logs", "--follow"]).output().unwrap());
    follow.assert_code(0);
    live.wait().assert_code(0);
    assert!(follow.printed.contains("[1] about to fail\n"), "{}", follow.printed);
    assert!(follow.printed.matches("[0] rank 0 of 2\n").count() >= 2, "{}", follow.printed);
}

#[test]
fn the_time_of_a_run_adds_up() {
    let bench = Bench::new(2).with("FAKE_FAULT", "die:1:13").with("FAKE_STEP_MS", "50");
    bench.launch().assert_code(0);
    let ledger = &bench.state()["ledger"];
    let seconds = ledger["seconds"].as_object().unwrap();
    assert_eq!(ledger["unsaved"], serde_json::json!({}), "it is done");
    for account in ["start", "compute", "restart", "lost"] {
        assert!(seconds[account].as_f64() > Some(0.0), "{account}: {ledger}");
    }
    let sum: f64 = seconds.values().filter_map(serde_json::Value::as_f64).sum();
    let time = |name: &str| bench.events(name)[0]["time"].as_f64().unwrap();
    let whole = time("exit") - time("attempt");
    // The first attempt begins a moment after the launch.
    assert!((sum - whole).abs() < 1.0, "{sum} of {whole}");
    assert!(fs::read_to_string(bench.run().report()).unwrap().contains("| all | "));
}

#[test]
fn a_second_launcher_is_kept_out() {
    let bench = Bench::new(1).with("FAKE_STEPS", "100000");
    let live = bench.start();
    bench.wait_for_step(3);
    let second = bench.launch();
    second.assert_code(1);
    second.assert_said("is in use by the launcher with process number ");
    live.signal("TERM");
    live.wait().assert_code(75);
}

#[test]
fn a_wrong_config_starts_nothing() {
    let bench = Bench::new(1).set("training.stepz=5");
    let ended = bench.launch();
    ended.assert_code(2);
    ended.assert_said("stepz");
    assert!(!bench.run().path().exists());
}

#[test]
fn a_finished_run_translates_evaluates_and_exports() {
    let bench = Bench::new(2);
    bench.launch().assert_code(0);
    fs::write(bench.path("input.txt"), "ein\nzwei\n\nvier\nfünf\n").unwrap();
    let run = |arguments: &[&str]| Ended::new(bench.tandem(arguments).output().unwrap());
    let translated = run(&["translate", "runs/test", "--input", "input.txt"]);
    translated.assert_code(0);
    assert_eq!(translated.printed, "EIN\nZWEI\n\nVIER\nFÜNF\n");
    let evaluated = run(&["evaluate", "test", "--checkpoint", "best", "--json"]);
    evaluated.assert_code(0);
    let json: serde_json::Value = serde_json::from_str(&evaluated.printed).unwrap();
    assert_eq!(json["figures"]["loss"], 2.0);
    run(&["average", "test", "--last", "3"]).assert_code(0);
    let average = bench.run().store().open("average").unwrap();
    assert_eq!(average.manifest().average_of, [10, 15, 20]);
    let output = bench.path("given");
    let exported =
        run(&["export", "test", "--checkpoint", "20", "--output", &output.to_string_lossy()]);
    exported.assert_code(0);
    assert!(output.join("README.md").is_file());
    let missing = run(&["translate", "test", "--checkpoint", "7", "--input", "input.txt"]);
    missing.assert_code(2);
    missing.assert_said("there are: latest, best, average, 10, 15, 20");
    let status = run(&["status", "test", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&status.printed).unwrap();
    assert_eq!((&json["status"], &json["launcher"]), (&"done".into(), &serde_json::Value::Null));
    assert_eq!(json["checkpoints"], serde_json::json!([10, 15, 20]));
    run(&["status"]).assert_code(0);
    let logs = run(&["logs", "test"]);
    logs.assert_code(0);
    assert_eq!(logs.printed, "[0] rank 0 of 2\n[1] rank 1 of 2\n");
    assert_eq!(run(&["logs", "--rank", "1"]).printed, "[1] rank 1 of 2\n");
    run(&["logs", "--rank", "7"]).assert_code(2);
}

#[test]
fn a_plan_starts_nothing() {
    let bench = Bench::new(2);
    let plan = Ended::new(bench.tandem(&["plan", "run.yaml", "--json"]).output().unwrap());
    plan.assert_code(0);
    let json: serde_json::Value = serde_json::from_str(&plan.printed).unwrap();
    assert_eq!(json["topology"]["ranks"], 2);
    assert!(json["size"]["trained"].as_u64().unwrap() > 0);
    assert!(json["commands"][0].as_str().unwrap().starts_with("mpirun -n 2 "));
    assert!(!bench.run().path().exists());
}

/// Slurm's variables tell of GPUs where there is none.
#[test]
fn a_plan_tells_which_workers_share_a_gpu() {
    let bench = Bench::new(2)
        .with("SLURM_JOB_ID", "7")
        .with("SLURM_JOB_NODELIST", "n1")
        .with("SLURM_JOB_CPUS_PER_NODE", "8")
        .with("SLURM_GPUS_ON_NODE", "2")
        .with("NCCL_MAX_CTAS", "4");
    let plan = |more: &[&str]| {
        let mut command = bench.tandem(&["plan", "run.yaml"]);
        for setting in [
            "cluster.device=auto",
            "cluster.workers=0",
            "cluster.workers_per_gpu=2",
            "cluster.engine=mpirun",
            "training.micro_batches=4",
        ] {
            command.args(["--set", setting]);
        }
        Ended::new(command.args(more).output().unwrap())
    };
    let shared = plan(&[]);
    shared.assert_code(0);
    let words =
        "4 workers on n1, cuda, 2 threads each, up to 2 workers on each GPU, connected by NCCL";
    for words in [
        words,
        " on each GPU\ndisk",
        "-x NCCL_MULTI_RANK_GPU_ENABLE -x NCCL_NVLS_ENABLE -x NCCL_MAX_CTAS ",
    ] {
        assert!(shared.printed.contains(words), "{words}: {}", shared.printed);
    }
    let json = plan(&["--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.printed).unwrap();
    assert_eq!(json["topology"]["workers_per_gpu"], 2);

    let alone = plan(&["--set", "cluster.workers_per_gpu=1"]);
    alone.assert_code(0);
    assert!(!alone.printed.contains("each GPU"), "{}", alone.printed);
    assert!(!alone.printed.contains("NCCL_"), "{}", alone.printed);
    let crowded = plan(&["--set", "cluster.workers=5", "--set", "training.micro_batches=5"]);
    crowded.assert_code(2);
    crowded.assert_said("there are 2 GPUs (by SLURM_GPUS_ON_NODE)");
}
