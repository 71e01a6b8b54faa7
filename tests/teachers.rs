//! Teachers: training data that another model makes is the same whatever happens on the way, and
//! so is what is learnt from it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use serde_json::Value;
use tandem_tests::launch::Launch;
use tandem_tests::live::{Run, eventually, send};
use tandem_tests::{Tiny, adapters, expect_code, program};

const STEPS: u64 = 12;
/// Distillation in chunks so small that a fault strikes in the middle.
const DISTILLATION: [&str; 3] = [
    "data.distillation.teacher=teacher.yaml",
    "data.distillation.beam=16",
    "data.distillation.chunk=8",
];
const BACK_TRANSLATION: [&str; 6] = [
    "data.back_translation.teacher=back",
    "data.back_translation.text=mono.en",
    "data.back_translation.ratio=0.5",
    "data.back_translation.beam=24",
    "data.back_translation.tag=null",
    "data.back_translation.chunk=4",
];

/// The texts, BERTs and the teacher from English to German of all tests here, made once.
fn tiny() -> Arc<Tiny> {
    static SHARED: Mutex<Weak<Tiny>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let tiny = Arc::new(Tiny::new());
        teacher(&tiny, "teacher");
        let back = teacher(&tiny, "back");
        let mut command = program("tandem");
        command.arg("launch").arg(back);
        for (column, number) in [("source", 2), ("target", 1)] {
            for split in ["train", "valid", "test"] {
                command.args(["--set", &format!("data.{split}.tsv.{column}={number}")]);
            }
        }
        expect_code(&mut command, 0);
        *shared = Arc::downgrade(&tiny);
        tiny
    })
}

/// The run file of a small autoregressive Transformer.
fn teacher(tiny: &Tiny, name: &str) -> std::path::PathBuf {
    let transformer = "{ transformer: { layers: 1, hidden: 32, heads: 2, feed_forward: 64, \
                       max_length: 32, vocabulary: { learn: { size: 110, lowercase: false } } } }";
    let path = tiny.translation(name, 1, transformer, transformer, "{ autoregressive: {} }");
    let config = std::fs::read_to_string(path).expect("a run file");
    // Small batches: many chunks, and time to strike between them.
    tiny.write(
        &format!("{name}.yaml"),
        &(config + "decoding: { beam_search: { max_tokens: 200 } }\n"),
    )
}

/// A student that finds no translations of other students.
fn student(tiny: &Arc<Tiny>, name: &str, workers: usize, settings: &[&str]) -> Run {
    let cache = format!("data.cache=cache-{name}");
    Run::new(tiny, name, workers, &[settings, &[&cache]].concat())
}

/// What is made of the data of a run, and what is learnt from it.
struct Outcome {
    pairs: Vec<u8>,
    scores: Vec<u8>,
    adapters: Vec<u8>,
}

impl Outcome {
    fn of(run: &Run, made: &str) -> Self {
        let read = |name: &str| {
            let path = run.folder().join(made).join(name);
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let adapters = adapters(run.folder(), STEPS);
        Self { pairs: read("train.jsonl"), scores: read("scores.json"), adapters }
    }

    fn assert_same(&self, other: &Self) {
        assert!(self.pairs == other.pairs, "other pairs were made");
        assert!(self.scores == other.scores, "the pairs have other figures");
        assert!(self.adapters == other.adapters, "other weights were learnt");
    }
}

/// The student to which nothing happens, on two workers.
fn undisturbed() -> &'static Outcome {
    &undisturbed_with_teacher().0
}

/// The same, and what its teacher learnt: the texts here, and with them the teacher's folder, go
/// whenever no test holds them.
fn undisturbed_with_teacher() -> &'static (Outcome, Vec<u8>) {
    static OUTCOME: OnceLock<(Outcome, Vec<u8>)> = OnceLock::new();
    OUTCOME.get_or_init(|| {
        let tiny = tiny();
        let run = student(&tiny, "student", 2, &DISTILLATION);
        let ended = run.launch(&[], 0);
        ended.assert_said("chunks translated");
        ended.assert_said("teacher BLEU ");
        let report = std::fs::read_to_string(run.folder().join("report.md")).expect("a report");
        assert!(report.contains("## Teachers"), "{report}");
        assert!(report.contains("`data.distillation`: "), "{report}");
        assert!(report.contains("`train`: 380 samples of 380 lines"), "{report}");
        (Outcome::of(&run, "distilled"), adapters(&tiny.path("teacher"), STEPS))
    })
}

fn chunks(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder.join("chunks")).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "jsonl")).count()
}

fn wait_for_chunks(run: &Run, made: &str, count: usize) {
    eventually("chunks are written", || chunks(&run.folder().join(made)) >= count);
}

fn kill_the_launcher(run: &Run, launch: Launch) {
    launch.kill();
    eventually("all are gone", || run.processes().is_empty());
}

#[test]
fn every_source_is_distilled_once_and_in_order() {
    let made = String::from_utf8(undisturbed().pairs.clone()).expect("UTF-8");
    let sources = made.lines().map(|line| {
        let pair: Value = serde_json::from_str(line).expect("a pair");
        pair["source"].as_str().expect("a source").to_owned()
    });
    let train = std::fs::read_to_string(tiny().path("train.tsv")).expect("texts");
    let expected = train.lines().map(|line| line.split('\t').next().expect("a source").to_owned());
    assert!(sources.eq(expected));
    let scores: Value = serde_json::from_slice(&undisturbed().scores).expect("figures");
    assert_eq!(scores["sentences"], 380);
    assert!(scores["scores"]["bleu_13a"]["score"].is_number(), "{scores}");
    assert!(scores["reference_duplicates"].is_number(), "{scores}");
}

#[test]
fn one_worker_distils_as_two_do() {
    let tiny = tiny();
    let expected = undisturbed();
    let run = student(&tiny, "one-student", 1, &DISTILLATION);
    run.launch(&[], 0);
    assert!(Outcome::of(&run, "distilled").pairs == expected.pairs);
}

/// The second student takes the first one's translations; of the third they are damaged.
#[test]
fn students_of_one_teacher_share_its_translations() {
    let tiny = tiny();
    let settings = [&DISTILLATION[..], &["data.cache=cache-shared"]].concat();
    let launch = |name: &str| {
        let run = Run::new(&tiny, name, 1, &settings);
        let ended = run.launch(&[], 0);
        assert!(Outcome::of(&run, "distilled").pairs == undisturbed().pairs, "{name}: other pairs");
        (run.events("translated").len(), ended)
    };
    let (chunks, _) = launch("first-student");
    assert!(chunks > 6, "{chunks}");
    let (again, ended) = launch("second-student");
    ended.assert_said("data.distillation: translated before, in ");
    assert_eq!(again, 0);

    let entries = std::fs::read_dir(tiny.path("cache-shared")).expect("a folder");
    let mut kept = entries.map(|entry| entry.expect("an entry").path());
    let kept = kept.find(|path| path.extension() == Some("translations".as_ref()));
    let damaged = kept.expect("translations").join("chunk-000003.jsonl");
    std::fs::write(&damaged, "half").expect("a chunk");
    let (again, ended) = launch("third-student");
    ended.assert_said("chunk-000003.jsonl is damaged");
    assert_eq!(again, chunks);
    assert!(std::fs::read(&damaged).expect("a chunk").len() > 4, "nothing was kept again");
}

#[test]
fn students_that_start_together_wait_for_their_teacher() {
    let tiny = tiny();
    teacher(&tiny, "slow-teacher");
    let settings = [&DISTILLATION[1..], &["data.distillation.teacher=slow-teacher.yaml"]].concat();
    let students =
        ["early-student", "other-student"].map(|name| student(&tiny, name, 1, &settings));
    let launches = students.each_ref().map(|run| run.start(&[]));
    let said = launches.map(|launch| launch.wait(0).stderr).concat();
    assert!(
        said.contains("data.distillation: waiting for the launcher with process number"),
        "{said}"
    );
    let pairs = students.map(|run| Outcome::of(&run, "distilled").pairs);
    assert!(pairs[0] == pairs[1] && pairs[0] == undisturbed().pairs);
}

#[test]
fn what_was_made_of_a_text_that_has_changed_since_is_not_resumed_with() {
    let tiny = tiny();
    let text = std::fs::read_to_string(tiny.path("train.tsv")).expect("a text");
    tiny.write("changing.tsv", &text);
    let settings = [&DISTILLATION[..], &["data.train.tsv.path=changing.tsv"]].concat();
    let run = student(&tiny, "changing-student", 1, &settings);
    run.launch(&[], 0);
    tiny.write("changing.tsv", &text.repeat(2));
    let more = "training.steps=15";
    run.launch(&[more], 2).assert_said("data.distillation changed since");
    let asked = run.launch(&[more, "data.allow_changed=true"], 0);
    asked.assert_said("what a teacher made of the old text stays");
    // Before anything is trained on it, it is made anew.
    for trained in ["checkpoints", "export"] {
        std::fs::remove_dir_all(run.folder().join(trained)).expect("a folder");
    }
    run.launch(&["training.steps=18"], 0);
    let pairs = String::from_utf8(Outcome::of(&run, "distilled").pairs).expect("UTF-8");
    assert_eq!(pairs.lines().count(), 2 * text.lines().count());
}

/// A worker is killed, then the launcher, then a chunk is damaged, then a stop is asked for.
#[test]
fn a_killed_distillation_ends_with_the_same_bits() {
    let run = student(&tiny(), "killed-student", 2, &DISTILLATION);
    undisturbed();
    let launch = run.start(&[]);
    let pid = run.rank(1, 1);
    wait_for_chunks(&run, "distilled", 2);
    send(pid, "KILL");
    eventually("it is noticed", || run.events("failure").len() == 1);
    assert_eq!(run.events("failure")[0]["failure"]["rank"], 1);
    wait_for_chunks(&run, "distilled", 6);
    kill_the_launcher(&run, launch);
    let before = chunks(&run.folder().join("distilled"));
    assert!(!run.folder().join("distilled/train.jsonl").exists(), "the fault came too late");

    let damaged = run.folder().join("distilled/chunks/chunk-000000.jsonl");
    let mut bytes = std::fs::read(&damaged).expect("the first chunk");
    let place = bytes.len() - 10;
    bytes[place] ^= 1;
    std::fs::write(&damaged, bytes).expect("a chunk");
    let launch = run.start(&[]);
    wait_for_chunks(&run, "distilled", before + 2);
    run.stop(0);
    let ended = launch.wait(75);
    ended.assert_said("chunk-000000.jsonl is damaged: its hash does not fit");
    ended.assert_said("the same command resumes with what is not translated");
    assert!(!run.folder().join("distilled/train.jsonl").exists(), "the stop came too late");
    run.assert_no_process();

    run.launch(&[], 0);
    let mut chunks: Vec<u64> =
        run.events("translated").iter().filter_map(|event| event["chunk"].as_u64()).collect();
    let count = chunks.len();
    chunks.sort_unstable();
    chunks.dedup();
    assert!(count - chunks.len() <= 3, "more than what was lost was translated again");
    Outcome::of(&run, "distilled").assert_same(undisturbed());
    assert!(!run.folder().join("distilled/chunks").exists());
    run.assert_no_process();
    run.launch(&[], 0).assert_said("has finished");
}

/// The teacher is trained by the student's launch, which is stopped and killed meanwhile.
#[test]
fn a_teacher_is_trained_first_and_gone_on_with() {
    let tiny = tiny();
    let (undisturbed, teacher_weights) = undisturbed_with_teacher();
    teacher(&tiny, "late-teacher");
    let late = ["data.distillation.teacher=late-teacher.yaml", "data.distillation.beam=16"];
    let run = student(&tiny, "late-student", 1, &late);
    let launch = run.start(&[]);
    let checkpoints = run.beside("late-teacher/checkpoints");
    eventually("the teacher has a checkpoint", || checkpoints.join("latest").exists());
    run.stop(0);
    launch.wait(75).assert_said("data.distillation: training ");
    let launch = run.start(&[]);
    eventually("the teacher is done", || checkpoints.join("average").exists());
    kill_the_launcher(&run, launch);
    run.launch(&[], 0);
    let weights = adapters(&tiny.path("late-teacher"), STEPS);
    assert!(&weights == teacher_weights, "the teacher learnt other weights");
    let pairs = Outcome::of(&run, "distilled").pairs;
    assert!(pairs == undisturbed.pairs, "the teacher translated otherwise");
}

#[test]
fn a_killed_back_translation_ends_with_the_same_bits() {
    let whole = student(&tiny(), "back-whole", 2, &BACK_TRANSLATION);
    whole.launch(&[], 0);
    let report = std::fs::read_to_string(whole.folder().join("report.md")).expect("a report");
    assert!(report.contains("`train`: 570 samples of 570 lines"), "{report}");
    let mixed = "translated 190 sentences, at most 0.5 for each pair of `data.train`";
    assert!(report.contains(mixed), "{report}");
    let whole = Outcome::of(&whole, "back_translated");
    assert_eq!(String::from_utf8_lossy(&whole.pairs).lines().count(), 190);

    let run = student(&tiny(), "back-killed", 2, &BACK_TRANSLATION);
    let launch = run.start(&[]);
    let pid = run.rank(1, 0);
    wait_for_chunks(&run, "back_translated", 2);
    send(pid, "KILL");
    eventually("it is noticed", || run.events("failure").len() == 1);
    wait_for_chunks(&run, "back_translated", 5);
    kill_the_launcher(&run, launch);
    run.launch(&[], 0);
    Outcome::of(&run, "back_translated").assert_same(&whole);
    run.assert_no_process();
}

#[test]
fn both_together_with_a_tag() {
    let settings =
        [&DISTILLATION[..], &BACK_TRANSLATION, &["data.back_translation.tag=BT"]].concat();
    let run = student(&tiny(), "both", 1, &settings);
    run.launch(&[], 0);
    let made = std::fs::read_to_string(run.folder().join("back_translated/train.jsonl"));
    let made = made.expect("pairs");
    let mono = std::fs::read_to_string(run.beside("mono.en")).expect("texts");
    for line in made.lines() {
        let pair: Value = serde_json::from_str(line).expect("a pair");
        let (source, target) = (pair["source"].as_str(), pair["target"].as_str());
        assert!(source.is_some_and(|source| source.is_empty() || source.starts_with("BT ")));
        assert!(mono.lines().any(|line| Some(line) == target), "{pair}");
    }
    assert!(Outcome::of(&run, "distilled").pairs == undisturbed().pairs);
}

#[test]
fn a_teacher_that_cannot_teach_is_refused_before_anything_starts() {
    let tiny = tiny();
    let refused = |settings: &[&str], words: &str| {
        let run = Run::new(&tiny, "refused", 1, settings);
        run.launch(&[], 2).assert_said(words);
        assert!(!run.folder().exists());
    };
    refused(&["data.distillation.teacher=bert-de"], "has the mlm objective and cannot translate");
    refused(
        &["data.distillation.teacher=refused.yaml"],
        "would need itself first; it must be another run",
    );
    let masked = tiny.ab_net("masked-teacher", 1, 0.0);
    let masked = format!("data.distillation.teacher={}", masked.display());
    refused(&[&masked, "data.distillation.beam=5"], "does not use beam search");

    let side = "{ transformer: { layers: 1, hidden: 32, heads: 2, feed_forward: 64, \
                max_length: 32, vocabulary: { bert: ./bert-de/export } } }";
    // Whether it has been trained, as `back` has, or not.
    teacher(&tiny, "never-teacher");
    for name in ["back", "never-teacher"] {
        let objective =
            format!("{{ autoregressive: {{ soft_labels: {{ teacher: {name}.yaml }} }} }}");
        let config = tiny.translation("refused", 1, side, side, &objective);
        let ended = Run::of(&tiny, config, "refused", &[]).launch(&[], 2);
        ended.assert_said(
            "does not read pairs; it must have the mlm objective with `conditional: true`",
        );
    }
}

/// What soft labels are made of, and by a teacher that is slow: each token is masked alone.
const SOFT_LABELS: &str =
    "{ autoregressive: { soft_labels: { pretrained: ./bert-both/export, passes: 512 } } }";

/// A worker is killed, a stop is asked for, and the launcher is killed, while a BERT labels the pairs.
#[test]
fn killed_soft_labels_end_with_the_same_bits() {
    let tiny = Arc::new(Tiny::texts());
    let mono = |name: &str| std::fs::read_to_string(tiny.path(name)).expect("texts");
    tiny.write("mono.both", &(mono("mono.de") + &mono("mono.en")));
    tiny.pre_train("both", 64);
    let side = "{ transformer: { layers: 1, hidden: 32, heads: 2, feed_forward: 64, \
                max_length: 32, vocabulary: { bert: ./bert-both/export } } }";
    let run = |name: &str, cache: &str| {
        let config = tiny.translation(name, 2, side, side, SOFT_LABELS);
        Run::of(&tiny, config, name, &[&format!("data.cache={cache}")])
    };
    let whole = run("whole", "cache-whole");
    let ended = whole.launch(&[], 0);
    ended.assert_said("labels the training pairs once, before the first step");
    ended.assert_said(" of 24 is made");
    let labels = |cache: &str| {
        let entries = std::fs::read_dir(tiny.path(cache)).into_iter().flatten().flatten();
        let is_labels = |path: &PathBuf| path.extension() == Some("labels".as_ref());
        let folder = entries.map(|entry| entry.path()).find(is_labels);
        let files = folder.and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten();
        let files = files.map(|file| file.expect("a file").path());
        // Killed workers leave drafts, whose names begin with a dot.
        let is_draft = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
        };
        let files = files.filter(|path| path.extension().is_none() && !is_draft(path));
        files
            .map(|path| (path.file_name().map(ToOwned::to_owned), path))
            .collect::<BTreeMap<_, _>>()
    };
    let bytes = |cache: &str| -> Vec<Vec<u8>> {
        labels(cache).values().map(|path| std::fs::read(path).expect("a chunk")).collect()
    };
    assert_eq!(labels("cache-whole").len(), 24);

    // Rank 1 is held when it has just made something, so that no fault comes too late.
    let run = run("killed", "cache-killed");
    let hold = |attempt: u64| {
        let (pid, before) = (run.rank(attempt, 1), labels("cache-killed").len());
        eventually("chunks are made", || labels("cache-killed").len() >= before + 2);
        send(pid, "STOP");
        assert!(labels("cache-killed").len() < 24, "the fault came too late");
        pid
    };
    let launch = run.start(&[]);
    send(hold(1), "KILL");
    eventually("it is noticed", || run.events("failure").len() == 1);
    hold(2);
    run.stop(0);
    launch.wait(75).assert_said("the same command starts again");
    let launch = run.start(&[]);
    let held = hold(3);
    launch.kill();
    send(held, "KILL");
    eventually("all are gone", || run.processes().is_empty());

    let damaged = labels("cache-killed").into_values().next().expect("a chunk");
    let mut damage = std::fs::read(&damaged).expect("a chunk");
    *damage.last_mut().expect("bytes") ^= 1;
    std::fs::write(&damaged, damage).expect("a chunk");

    run.launch(&[], 0);
    assert!(run.events("labelled").len() <= 24 + 1 + 3 * 2, "made again what was there");
    assert!(bytes("cache-killed") == bytes("cache-whole"), "other labels were made");
    assert!(adapters(run.folder(), STEPS) == adapters(whole.folder(), STEPS), "other weights");
    run.assert_no_process();
}
