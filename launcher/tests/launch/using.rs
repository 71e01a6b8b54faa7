//! Using a model beside its training: the run is only read, and nobody meets anybody else's files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tandem_tests::live::{eventually, send};
use tandem_tests::processes;

use crate::support::{Bench, Ended};

/// Lines that tell whose they are.
fn lines(name: &str, count: usize) -> String {
    (0..count).map(|line| format!("{name} {line}\n")).collect()
}

fn translate(bench: &Bench, name: &str, count: usize) -> Command {
    fs::create_dir_all(bench.path("tmp")).unwrap();
    let input = bench.path(&format!("{name}.txt"));
    fs::write(&input, lines(name, count)).unwrap();
    let input = input.to_str().unwrap();
    let words = ["translate", "runs/test", "--checkpoint", "latest", "--input", input];
    let mut command = bench.tandem(&words);
    command.env("TMPDIR", bench.path("tmp"));
    command
}

/// The scratch folder of a translate.
fn scratch(bench: &Bench) -> Option<PathBuf> {
    fs::read_dir(bench.path("tmp")).unwrap().flatten().next().map(|entry| entry.path())
}

fn wait_until_it_works(bench: &Bench) {
    eventually("it translates", || {
        scratch(bench).is_some_and(|scratch| scratch.join("task/chunks").is_dir())
    });
}

fn start(mut command: Command) -> Child {
    command.spawn().unwrap()
}

fn wait(child: Child) -> Ended {
    Ended::new(child.wait_with_output().unwrap())
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
    let bench = Bench::new(1).with("FAKE_LINE_MS", "2");
    bench.launch().assert_code(0);
    let before = tree(bench.run().path());
    let names = ["anna", "bert", "carl", "dora"];
    let started = names.map(|name| {
        let inner = translate(&bench, name, 40);
        let mut command = Command::new("unshare");
        // Each is the process number 1 of a container of its own.
        command.args(["-p", "-f", "--mount-proc"]).arg(inner.get_program()).args(inner.get_args());
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(inner.get_current_dir().unwrap());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        (name, start(command))
    });
    for (name, child) in started {
        let ended = wait(child);
        if ended.said.contains("unshare failed") {
            return;
        }
        ended.assert_code(0);
        assert_eq!(ended.printed, lines(name, 40).to_uppercase());
    }
    assert_eq!(tree(bench.run().path()), before, "the run is only read");
    assert_eq!(scratch(&bench), None, "it goes with its owner");
}

#[test]
fn a_killed_translate_is_swept_up_after() {
    let bench = Bench::new(1).with("FAKE_LINE_MS", "100");
    bench.launch().assert_code(0);
    let child = start(translate(&bench, "anna", 1000));
    wait_until_it_works(&bench);
    send(child.id(), "KILL");
    wait(child);
    let left = scratch(&bench).expect("nobody was there to remove it");
    eventually("its worker ends", || processes::of_run("fake_worker", &left).is_empty());
    // As if it had been a while ago.
    let hour = std::time::Duration::from_secs(3600);
    let old = std::time::SystemTime::now() - hour;
    fs::File::open(&left).unwrap().set_modified(old).unwrap();
    wait(start(translate(&bench, "bert", 2))).assert_code(0);
    assert_eq!(scratch(&bench), None);
}

#[test]
fn a_stale_request_stops_nobody() {
    let bench = Bench::new(1);
    bench.launch().assert_code(0);
    for stale in ["stop\n", "", "0123456789abcdef0123456789abcdef\n"] {
        fs::write(bench.run().stop_request(), stale).unwrap();
        let ended = wait(start(translate(&bench, "anna", 3)));
        ended.assert_code(0);
        assert_eq!(ended.printed, lines("anna", 3).to_uppercase());
        let output = bench.path("scores");
        let output = output.to_str().unwrap();
        let mut evaluate = bench.tandem(&["evaluate", "runs/test", "--output", output]);
        Ended::new(evaluate.output().unwrap()).assert_code(0);
    }
    let ended = bench.with("FAKE_STEPS", "30").launch();
    ended.assert_code(0);
    ended.assert_said("resuming from the checkpoint of step 20 of 30");
}

#[test]
fn a_stop_is_for_the_training_and_its_logs_stay_in_sight() {
    let bench = Bench::new(1)
        .with("FAKE_STEPS", "100000")
        .with("FAKE_STEP_MS", "5")
        .with("FAKE_LINE_MS", "50");
    let training = bench.start();
    bench.wait_for_step(10);
    let translating = start(translate(&bench, "anna", 60));
    wait_until_it_works(&bench);
    assert_eq!(bench.run().newest_attempt(), 1, "`tandem logs` shows the training");
    Ended::new(bench.tandem(&["stop", "runs/test"]).output().unwrap()).assert_code(0);
    training.wait().assert_code(75);
    let ended = wait(translating);
    ended.assert_code(0);
    assert_eq!(ended.printed, lines("anna", 60).to_uppercase());
}

#[test]
fn a_translate_that_is_stopped_says_so() {
    let bench = Bench::new(1).with("FAKE_LINE_MS", "50");
    bench.launch().assert_code(0);
    let child = start(translate(&bench, "anna", 1000));
    wait_until_it_works(&bench);
    send(child.id(), "TERM");
    let ended = wait(child);
    ended.assert_code(75);
    ended.assert_said("stopped; nothing was written");
    assert_eq!(ended.printed, "");
}
