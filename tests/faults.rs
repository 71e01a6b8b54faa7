//! Faults: whatever happens to the real programs on the way, the run ends with the bits of one to
//! which nothing happened, and leaves nothing behind.

use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use tandem_tests::launch::Launch;
use tandem_tests::live::{Run, eventually, send};
use tandem_tests::poison::{damage, poison};
use tandem_tests::seeded::Seeded;
use tandem_tests::{Ended, Tiny, adapters, copy_folder, processes, trace};

/// So many steps that a fault always strikes in the middle.
const STEPS: u64 = 48;
/// For all runs here: what else is set changes nothing of what is learnt.
const SETTINGS: [&str; 5] = [
    "training.steps=48",
    "checkpoints.every=4",
    "evaluation.every=24",
    "evaluation.sentences=4",
    "cluster.max_restarts=3",
];
/// Decoding that takes seconds where it usually takes milliseconds.
const LONG: [&str; 3] = [
    "decoding.mask_predict.iterations=1000",
    "decoding.mask_predict.stop=released",
    "evaluation.sentences=20",
];

/// What the undisturbed run of so many workers ends with.
struct Undisturbed {
    adapters: Vec<u8>,
    exported: Vec<u8>,
    losses: Vec<(u64, Value)>,
}

impl Undisturbed {
    fn of(workers: usize) -> &'static Self {
        static RUNS: [OnceLock<Undisturbed>; 2] = [const { OnceLock::new() }; 2];
        RUNS[workers - 1].get_or_init(|| {
            let run =
                Run::new(&Tiny::shared(), &format!("undisturbed-{workers}"), workers, &SETTINGS);
            run.launch(&[], 0);
            Self {
                adapters: adapters(run.folder(), STEPS),
                exported: run.exported(),
                losses: run.curves().remove("train/loss").expect("losses"),
            }
        })
    }

    /// The run has come to the same end, has one point for each tag and step, each evaluation
    /// once, and no process is left of it.
    fn assert_same(workers: usize, run: &Run, evaluated: &[u64]) {
        let expected = Self::of(workers);
        assert!(adapters(run.folder(), STEPS) == expected.adapters, "it learnt other weights");
        assert!(run.exported() == expected.exported, "it exports other weights");
        let curves = run.curves();
        assert_eq!(curves["train/loss"], expected.losses);
        assert_eq!(expected.losses.len() as u64, STEPS);
        for (tag, points) in &curves {
            let once = points.windows(2).all(|two| two[0].0 < two[1].0);
            assert!(once, "{tag} has two points at a step: {points:?}");
        }
        let steps: Vec<u64> = curves["eval/bleu"].iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, evaluated);
        run.assert_no_process();
    }
}

/// Workers are killed at two points of the training: each time it goes on from the newest
/// checkpoint.
fn survives_kills(workers: usize) {
    let run = Run::new(&Tiny::shared(), &format!("killed-{workers}"), workers, &SETTINGS);
    let mut seeded = Seeded(workers as u64);
    let launch = run.start(&[]);
    for attempt in [1, 2] {
        let rank = seeded.below(workers as u64) as usize;
        let pid = run.rank(attempt, rank);
        run.wait_for_checkpoint(attempt, 12 * (attempt - 1) + 4 * seeded.below(3));
        // Somewhere in the steps, or the saving, that follow.
        std::thread::sleep(Duration::from_millis(seeded.below(40)));
        send(pid, "KILL");
        eventually("it is noticed", || run.events("failure").len() as u64 == attempt);
        let failure = &run.events("failure")[attempt as usize - 1]["failure"];
        assert_eq!((&failure["rank"], &failure["kind"]), (&rank.into(), &"death".into()));
    }
    let ended = launch.wait(0);
    ended.assert_said(" died in phase ");
    ended.assert_said("ended by signal 9 (SIGKILL)");
    ended.assert_said("next: starting again (2 more restarts)");
    ended.assert_said("resuming from the checkpoint of step ");
    assert_eq!(run.events("attempt").len(), 4, "three to train, one to test");
    Undisturbed::assert_same(workers, &run, &[24, 48]);
}

#[test]
fn killed_workers_are_survived_by_solo() {
    survives_kills(1);
}

#[test]
fn killed_workers_are_survived_by_mpirun() {
    survives_kills(2);
}

/// A stopped rank is found by its silence, named, and the group is started again.
fn finds_the_stopped(workers: usize) {
    let mut settings = SETTINGS.to_vec();
    settings.push("cluster.deadlines.step=6");
    let run = Run::new(&Tiny::shared(), &format!("hung-{workers}"), workers, &settings);
    let launch = run.start(&[]);
    let rank = workers - 1;
    let pid = run.rank(1, rank);
    run.wait_for_checkpoint(1, 8);
    send(pid, "STOP");
    let ended = launch.wait(0);
    ended.assert_said(&format!("error: rank {rank} on "));
    ended.assert_said(" hung in phase ");
    ended.assert_said("no heartbeat for ");
    let failures = run.events("failure");
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(failures[0]["failure"]["rank"], rank);
    Undisturbed::assert_same(workers, &run, &[24, 48]);
}

#[test]
fn a_stopped_worker_is_found_under_solo() {
    finds_the_stopped(1);
}

#[test]
fn a_stopped_worker_is_found_under_mpirun() {
    finds_the_stopped(2);
}

/// The launcher is killed: its workers go with it, within what it promises.
fn kill_the_launcher(run: &Run, launch: Launch) -> Ended {
    let ended = launch.kill();
    let killed = Instant::now();
    eventually("all are gone", || run.processes().is_empty());
    assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
    ended
}

#[test]
fn a_second_launch_goes_on_where_a_killed_launcher_was() {
    let run = Run::new(&Tiny::shared(), "orphans", 2, &SETTINGS);
    let launch = run.start(&[]);
    run.wait_for_checkpoint(1, 12);
    kill_the_launcher(&run, launch);
    let newest = run.newest();
    let ended = run.launch(&[], 0);
    ended.assert_said(&format!("resuming from the checkpoint of step {newest} of {STEPS}"));
    Undisturbed::assert_same(2, &run, &[24, 48]);
}

/// Three launchers are killed, and each time the newest checkpoint is damaged in another way.
#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_is_used() {
    let run = Run::new(&Tiny::shared(), "damaged", 1, &SETTINGS);
    let flip = |folder: &Path| {
        let path = folder.join("optimizer.safetensors");
        let mut bytes = std::fs::read(&path).expect("a file");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).expect("a file");
    };
    let truncate = |folder: &Path| {
        let file = std::fs::File::options().write(true).open(folder.join("adapters.safetensors"));
        file.expect("a file").set_len(1000).expect("a shorter file");
    };
    let remove = |folder: &Path| {
        std::fs::remove_file(folder.join("trainer.json")).expect("a file");
    };
    type Damage<'a> = (&'a dyn Fn(&Path), &'a str);
    let damages: [Damage; 3] = [
        (&flip, "optimizer.safetensors has another content"),
        (&truncate, "adapters.safetensors has 1000 bytes"),
        (&remove, "trainer.json"),
    ];
    let mut expected = Vec::new();
    for (attempt, (damage, words)) in (1..).zip(damages) {
        let launch = run.start(&[]);
        eventually("two checkpoints are published", || {
            let published = run.events("published");
            published.iter().filter(|event| event["attempt"] == attempt).count() >= 2
        });
        let ended = kill_the_launcher(&run, launch);
        expected.iter().for_each(|words: &String| ended.assert_said(words));
        let newest = run.newest();
        damage(&run.checkpoint(newest));
        let before = run.checkpoints().into_iter().rfind(|step| *step < newest).expect("another");
        expected = vec![
            format!("step-{newest:08} is damaged: "),
            words.into(),
            format!("resuming from the checkpoint of step {before} of {STEPS}"),
        ];
    }
    let ended = run.launch(&[], 0);
    expected.iter().for_each(|words| ended.assert_said(words));
    Undisturbed::assert_same(1, &run, &[24, 48]);
}

/// A stop does not wait for the end of an evaluation; the next launch makes it, once.
fn stops_an_evaluation(workers: usize, stop: impl Fn(&Run, &Launch)) {
    let mut settings = SETTINGS.to_vec();
    // Neither step 23 nor step 46 is of the schedule of checkpoints, so neither is averaged.
    settings.push("evaluation.every=23");
    let run = Run::new(&Tiny::shared(), &format!("unevaluated-{workers}"), workers, &settings);
    let launch = run.start(&LONG);
    // The first rank has a batch for sure; another one may be done already and wait for it.
    let part = run.folder().join("evaluation/valid-step-00000023/rank-0.jsonl");
    eventually("it translates", || part.is_file());
    stop(&run, &launch);
    launch.wait(75).assert_said("stopped with a checkpoint at step 23");
    assert_eq!(run.linked("latest"), Some(23));
    assert_eq!(run.steps("evaluated"), [] as [u64; 0]);
    assert!(!part.exists(), "half an evaluation is left");
    run.assert_no_process();

    run.launch(&[], 0).assert_said("resuming from the checkpoint of step 23");
    assert_eq!(run.steps("evaluated"), [23, 46, 48]);
    Undisturbed::assert_same(workers, &run, &[23, 46, 48]);
}

#[test]
fn a_stop_gives_up_an_evaluation_under_solo() {
    stops_an_evaluation(1, |_, launch| launch.signal("TERM"));
}

#[test]
fn a_stop_gives_up_an_evaluation_under_mpirun() {
    stops_an_evaluation(2, |run, _| drop(run.stop(0)));
}

/// The data thread of a rank hangs: a stop ends the run with a checkpoint all the same.
fn stops_without_data(workers: usize) {
    let mut settings = SETTINGS.to_vec();
    settings.push("cluster.deadlines.step=100");
    settings.push("training.steps=100000");
    settings.push("evaluation.every=0");
    let run = Run::new(&Tiny::shared(), &format!("dataless-{workers}"), workers, &settings);
    let launch = run.start(&[]);
    let pid = run.rank(1, workers - 1);
    run.wait_for_checkpoint(1, 8);
    let holder = trace::hold(processes::thread(pid, "prefetch").expect("a data thread"));
    // Until the batches that it had made are used up.
    let mut before = None;
    eventually("the steps stand still", || {
        std::thread::sleep(Duration::from_millis(1500));
        let step = run.state()["step"].as_u64().expect("a step");
        before.replace(step) == Some(step)
    });
    run.stop(0);
    launch.wait(75);
    holder.join().expect("it ends with its process");
    // A step is logged when the next one has been computed, or at once where there is a checkpoint; the one
    // that was given up is in neither.
    let (latest, logged) = (run.linked("latest").expect("a step"), before.expect("a step"));
    assert!(
        latest == logged + 1 || latest == logged && logged % 4 == 0,
        "{latest}, {logged} logged"
    );
    run.assert_no_process();
}

#[test]
fn a_stop_does_not_wait_for_data_under_solo() {
    stops_without_data(1);
}

#[test]
fn a_stop_does_not_wait_for_data_under_mpirun() {
    stops_without_data(2);
}

#[test]
fn a_stop_gives_up_the_test_and_the_next_launch_makes_it() {
    let mut settings = SETTINGS.to_vec();
    settings.push("evaluation.every=0");
    let run = Run::new(&Tiny::shared(), "untested", 2, &settings);
    let launch = run.start(&LONG);
    let folder = run.folder().join("evaluation/test-step-00000048");
    eventually("it translates", || folder.join("rank-0.jsonl").is_file());
    launch.signal("TERM");
    launch.wait(75);
    assert!(!folder.join("scores.json").exists());
    run.launch(&[], 0).assert_said("test at step 48: loss ");
    assert!(folder.join("scores.json").is_file());
    assert_eq!(run.steps("published").last(), Some(&STEPS), "nothing was trained again");
    run.assert_no_process();
}

#[test]
fn any_evaluated_step_can_be_the_best() {
    let settings = [
        "evaluation.every=3",
        "evaluation.metric=loss",
        "checkpoints.every=12",
        "checkpoints.keep_last=1",
        "checkpoints.keep_best=3",
        "checkpoints.average=1",
        // So high that the last is not simply the best.
        "training.schedule.constant.rate=0.1",
        "training.steps=24",
    ];
    let run = Run::new(&Tiny::shared(), "best", 1, &settings);
    run.launch(&[], 0);
    let mut losses: Vec<(f64, u64)> = run
        .events("evaluated")
        .iter()
        .map(|event| (event["figures"]["loss"].as_f64().expect("a loss"), event["step"].as_u64()))
        .map(|(loss, step)| (loss, step.expect("a step")))
        .collect();
    assert_eq!(losses.len(), 8);
    losses.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert_eq!(run.linked("best"), Some(losses[0].1));
    let mut kept: Vec<u64> = losses[..3].iter().map(|(_, step)| *step).chain([24]).collect();
    kept.sort_unstable();
    kept.dedup();
    assert_eq!(run.checkpoints(), kept, "{losses:?}");
    let manifest = std::fs::read(run.folder().join("checkpoints/average/manifest.json"));
    let manifest: Value = serde_json::from_slice(&manifest.expect("an average")).expect("JSON");
    assert_eq!(manifest["manifest"]["average_of"], serde_json::json!([24]));
}

#[test]
fn a_training_that_diverges_ends_and_says_why() {
    let settings =
        ["training.schedule.constant.rate=1e30", "training.max_non_finite=3", "evaluation.every=0"];
    let run = Run::new(&Tiny::shared(), "diverged", 2, &settings);
    let ended = run.launch(&[], 93);
    // The first step makes the weights absurd. What became of a step is known when the next one has been
    // computed.
    for (step, in_a_row) in [(2, 1), (3, 2), (4, 3)] {
        ended.assert_said(&format!(
            "step {step} is skipped: its gradient is not finite ({in_a_row} in a row)"
        ));
    }
    let first = ended.first_error();
    assert!(first.starts_with("error: rank ") && first.contains(" at step 5 "), "{first}");
    assert!(
        first.ends_with(
            "in 3 steps in a row, up to step 4: lower the learning rate, clip the \
                             gradient (training.clip_norm), or use f32"
        ),
        "{first}"
    );
    ended.assert_said("trying again does not help");
    assert_eq!(run.events("attempt").len(), 1, "it was not tried again");
    let skipped: Vec<_> = run.curves().remove("train/skipped_steps").expect("a curve");
    assert_eq!(skipped, [(1, 0.0.into()), (2, 1.0.into()), (3, 2.0.into())]);
    run.assert_no_process();
}

#[test]
fn a_missing_file_is_named_and_nothing_is_started() {
    let run = Run::new(&Tiny::shared(), "absent", 2, &["data.train.tsv.path=absent.tsv"]);
    let ended = run.launch(&[], 2);
    assert_eq!(ended.first_error(), "error: the config is invalid");
    ended.assert_said("data.train.tsv.path: there is no file ");
    assert!(!run.folder().exists());
}

#[test]
fn a_file_without_a_usable_line_is_named_and_not_tried_again() {
    let run = Run::new(&Tiny::shared(), "empty", 2, &["data.train.tsv.path=empty.tsv"]);
    std::fs::write(run.beside("empty.tsv"), "nur eine Seite\n").expect("a file");
    let ended = run.launch(&[], 2);
    let first = ended.first_error();
    assert!(first.contains(" failed in phase start at step 0 (attempt 1): "), "{first}");
    assert!(first.contains("empty.tsv can be used"), "{first}");
    ended.assert_said("next: fix the config or the data, and launch again");
    assert_eq!(run.events("attempt").len(), 1);
    run.assert_no_process();
}

#[test]
fn a_poisoned_batch_is_named_and_not_tried_a_third_time() {
    let cache = Tiny::shared().path("poisoned-cache");
    let mut settings = SETTINGS.to_vec();
    let own_cache = format!("data.cache={}", cache.display());
    settings.push(&own_cache);
    let run = Run::new(&Tiny::shared(), "poisoned", 2, &settings);
    let launch = run.start(&["training.steps=100000", "evaluation.every=0"]);
    run.wait_for_checkpoint(1, 4);
    launch.signal("TERM");
    launch.wait(75);
    poison(&cache).expect("the training data");
    let ended = run.launch(&["training.steps=100000", "evaluation.every=0"], 93);
    let attempts = run.events("failure");
    assert_eq!(attempts.len(), 2, "{}", ended.stderr);
    assert_eq!(attempts[0]["failure"]["step"], attempts[1]["failure"]["step"]);
    ended.assert_said(" twice; do not retry");
    let first = ended.first_error();
    assert!(
        first.starts_with("error: rank ") && first.contains(": libtorch: label 4000000 of "),
        "{first}"
    );
    let message = attempts[1]["failure"]["message"].as_str().expect("a message");
    let samples = message.lines().find_map(|line| line.split_once("of the samples "));
    let (_, samples) = samples.unwrap_or_else(|| panic!("no samples in {message}"));
    assert!(samples.split([',', ' ']).any(|sample| sample == "0"), "{message}");
    ended.assert_said("  in the micro-batch of the samples ");
    run.assert_no_process();
}

#[test]
fn damaged_tokenised_text_is_not_trained_on_and_is_made_again() {
    let tiny = Tiny::shared();
    let text = std::fs::read_to_string(tiny.path("train.tsv")).expect("a text");
    tiny.write("long.tsv", &text.repeat(10));
    let cache = tiny.path("damaged-cache");
    let mut settings = SETTINGS.to_vec();
    let own_cache = format!("data.cache={}", cache.display());
    settings.extend([&own_cache[..], "data.train.tsv.path=long.tsv"]);
    let sound = Run::new(&tiny, "sound-cache", 2, &settings);
    sound.launch(&[], 0);
    damage(&cache);
    let run = Run::new(&tiny, "damaged-cache-run", 2, &settings);
    run.launch(&[], 0);
    let failures = run.events("failure");
    assert_eq!(failures.len(), 1, "{failures:?}");
    let message = failures[0]["failure"]["message"].as_str().expect("a message");
    let words = ["the cache of tokenised text ", ".tokens is damaged in the ", "makes it again"];
    assert!(words.iter().all(|words| message.contains(words)), "{message}");
    assert!(adapters(run.folder(), STEPS) == adapters(sound.folder(), STEPS), "other weights");
    run.assert_no_process();
}

/// A copy of a BERT whose weights `change` has changed.
fn damaged_bert(run: &Run, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let copy = run.beside(name);
    copy_folder(&run.beside("bert-en/export"), &copy);
    let weights = copy.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("weights");
    change(&mut bytes);
    std::fs::write(weights, bytes).expect("weights");
    format!("model.decoder.bert.pretrained={}", copy.display())
}

#[test]
fn an_evaluation_whose_files_cannot_be_written_is_in_the_curves() {
    let run = Run::new(&Tiny::shared(), "unwritten-evaluation", 1, &SETTINGS);
    let in_the_way = run.folder().join("evaluation/valid-step-00000024/translations.jsonl");
    std::fs::create_dir_all(in_the_way).expect("a folder");
    let said = run.launch(&[], 0).stderr;
    assert!(said.contains("cannot write") && said.contains("valid-step-00000024"), "{said}");
    let steps: Vec<u64> = run.curves()["eval/bleu"].iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [24, 48]);
}

#[test]
fn a_bert_with_a_wrong_tensor_is_refused_before_anything_starts() {
    let run = Run::new(&Tiny::shared(), "wrong-bert", 2, &[]);
    // The same file with one tensor less, by its name.
    let wrong = damaged_bert(&run, "renamed", |bytes| {
        let name = b"bert.encoder.layer.1.output.dense.bias";
        let at = bytes.windows(name.len()).position(|found| found == name).expect("a tensor");
        bytes[at + name.len() - 1] = b'z';
    });
    let ended = run.launch(&[&wrong], 2);
    assert_eq!(ended.first_error(), "error: the config is invalid");
    ended.assert_said("model.decoder.bert.pretrained: ");
    ended.assert_said("has no tensor `bert.encoder.layer.1.output.dense.bias`");
    assert!(!run.folder().exists());

    let short = damaged_bert(&run, "short", |bytes| bytes.truncate(bytes.len() - 4));
    let ended = run.launch(&[&short], 2);
    ended.assert_said("model.safetensors is not a safetensors file: it ends too early");
    assert!(!run.folder().exists());
}
