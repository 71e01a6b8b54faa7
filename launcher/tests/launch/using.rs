//! Using a model beside its training: the run is only read, and nobody meets anybody else's files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tandem_tests::live::{Run, eventually};
use tandem_tests::{expect_code, processes, run_by};

use crate::support::{fake_run, run_folder};

/// Lines that tell whose they are.
fn lines(name: &str, count: usize) -> String {
    (0..count).map(|line| format!("{name} {line}\n")).collect()
}

fn translate(run: &Run, name: &str, count: usize) -> Command {
    fs::create_dir_all(run.beside("tmp")).unwrap();
    let input = run.beside(&format!("{name}.txt"));
    fs::write(&input, lines(name, count)).unwrap();
    let input = input.to_str().unwrap();
    let words = ["translate", "runs/test", "--checkpoint", "latest", "--input", input];
    let mut command = run.tandem(&words);
    command.env("TMPDIR", run.beside("tmp"));
    command
}

/// The scratch folder of a translate.
fn scratch(run: &Run) -> Option<PathBuf> {
    fs::read_dir(run.beside("tmp")).unwrap().flatten().next().map(|entry| entry.path())
}

fn wait_until_it_works(run: &Run) {
    eventually("it translates", || {
        scratch(run).is_some_and(|scratch| scratch.join("task/chunks").is_dir())
    });
}

/// All paths below a folder.
fn tree(folder: &Path) -> Vec<String> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        paths.push(entry.path().display().to_string());
        if entry.file_type().unwrap().is_dir() {
            paths.extend(tree(&entry.path()));
        }
    }
    paths.sort();
    paths
}

#[test]
fn translates_with_equal_process_numbers_do_not_mix() {
    let run = fake_run(1).with("FAKE_LINE_MS", "2");
    run.launch(&[], 0);
    let before = tree(run_folder(&run).path());
    let names = ["anna", "bert", "carl", "dora"];
    let started = names.map(|name| {
        let mut command = translate(&run, name, 40);
        // Each is the process number 1 of a container of its own.
        run_by(&mut command, &["unshare", "-p", "-f", "--mount-proc"]);
        (name, run.spawn(command))
    });
    for (name, translating) in started {
        let ended = translating.wait_for_one_of(&[0, 1]);
        if ended.stderr.contains("unshare failed") {
            return;
        }
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert_eq!(ended.stdout, lines(name, 40).to_uppercase());
    }
    assert_eq!(tree(run_folder(&run).path()), before, "the run is only read");
    assert_eq!(scratch(&run), None, "it goes with its owner");
}

#[test]
fn a_killed_translate_is_swept_up_after() {
    let run = fake_run(1).with("FAKE_LINE_MS", "100");
    run.launch(&[], 0);
    let translating = run.spawn(translate(&run, "anna", 1000));
    wait_until_it_works(&run);
    translating.kill();
    let left = scratch(&run).expect("nobody was there to remove it");
    eventually("its worker ends", || processes::of_run("tandem-worker", &left).is_empty());
    // As if it had been a while ago.
    let hour = std::time::Duration::from_secs(3600);
    let old = std::time::SystemTime::now() - hour;
    fs::File::open(&left).unwrap().set_modified(old).unwrap();
    expect_code(&mut translate(&run, "bert", 2), 0);
    assert_eq!(scratch(&run), None);
}

#[test]
fn a_stale_request_stops_nobody() {
    let run = fake_run(1);
    run.launch(&[], 0);
    for stale in ["stop\n", "", "0123456789abcdef0123456789abcdef\n"] {
        fs::write(run_folder(&run).stop_request(), stale).unwrap();
        let ended = expect_code(&mut translate(&run, "anna", 3), 0);
        assert_eq!(ended.stdout, lines("anna", 3).to_uppercase());
        let output = run.beside("scores");
        let output = output.to_str().unwrap();
        let mut evaluate = run.tandem(&["evaluate", "runs/test", "--output", output]);
        expect_code(&mut evaluate, 0);
    }
    let ended = run.set("training.steps=30").launch(&[], 0);
    ended.assert_said("resuming from the checkpoint of step 20 of 30");
}

#[test]
fn a_stop_is_for_the_training_and_its_logs_stay_in_sight() {
    let run = fake_run(1)
        .set("training.steps=100000")
        .with("FAKE_STEP_MS", "5")
        .with("FAKE_LINE_MS", "50");
    let training = run.start(&[]);
    run.wait_for_step(10);
    let translating = run.spawn(translate(&run, "anna", 60));
    wait_until_it_works(&run);
    assert_eq!(run_folder(&run).newest_attempt(), 1, "`tandem logs` shows the training");
    run.stop(0);
    training.wait(75);
    let ended = translating.wait(0);
    assert_eq!(ended.stdout, lines("anna", 60).to_uppercase());
}

#[test]
fn a_translate_that_is_stopped_says_so() {
    let run = fake_run(1).with("FAKE_LINE_MS", "50");
    run.launch(&[], 0);
    let translating = run.spawn(translate(&run, "anna", 1000));
    wait_until_it_works(&run);
    translating.signal("TERM");
    let ended = translating.wait(75);
    ended.assert_said("stopped; nothing was written");
    assert_eq!(ended.stdout, "");
}
