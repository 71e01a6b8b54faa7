//! Where nobody reads, the disk is full or the terminal goes away.

use std::fs::File;
use std::io::{BufRead, BufReader, pipe};
use std::process::{Command, Stdio};

use tandem_tests::live::{eventually, send};
use tandem_tests::{Ended, run_by};

use crate::support::fake_run;

/// One of each verb that prints.
const VERBS: [&[&str]; 9] = [
    &["plan", "run.yaml"],
    &["plan", "run.yaml", "--json"],
    &["doctor", "run.yaml"],
    &["slurm", "run.yaml", "--print"],
    &["score", "valid.tsv", "valid.tsv"],
    &["status", "runs/test"],
    &["logs", "runs/test"],
    &["translate", "runs/test", "--input", "valid.tsv"],
    &["export", "runs/test"],
];

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

#[test]
fn a_verb_that_cannot_print_says_so_or_ends_quietly() {
    let run = fake_run(1);
    run.launch(&[], 0);
    for words in VERBS {
        let plain = Ended::of(&mut run.tandem(words));
        let tandem = |change: &dyn Fn(&mut Command)| {
            let mut command = run.tandem(words);
            change(&mut command);
            let ended = Ended::of(&mut command);
            assert!(!ended.stderr.contains("panicked"), "{words:?}: {}", ended.stderr);
            ended
        };
        // As with `| head -1`.
        let closed = tandem(&|command| {
            let (reader, writer) = pipe().unwrap();
            drop(reader);
            command.stdout(writer);
        });
        assert_eq!((closed.code, &closed.stderr), (plain.code, &plain.stderr), "{words:?}");
        let lost = tandem(&|command| {
            command.stdout(full());
        });
        assert_eq!(lost.code, Some(1), "{words:?}: {}", lost.stderr);
        lost.assert_said("error: cannot write to standard output: No space left on device");
        let silent = tandem(&|command| {
            command.stderr(full());
        });
        assert_eq!((silent.code, &silent.stdout), (plain.code, &plain.stdout), "{words:?}");
    }
    for words in [&["stop", "runs/test"][..], &["plan", "nowhere.yaml"], &["launch", "run.yaml"]] {
        let plain = Ended::of(&mut run.tandem(words));
        let silent = Ended::of(run.tandem(words).stderr(full()));
        assert_eq!(silent.code, plain.code, "{words:?}");
    }
}

/// A run that is launched by `program` in the launcher's place, and its end by SIGHUP or not.
fn hang_up(program: &[&str], survives: bool) {
    let run = fake_run(1).set("training.steps=100000");
    let launch = run.start_with(&[], |command| run_by(command, program));
    run.wait_for_step(3);
    launch.signal("HUP");
    if survives {
        let step = run.state()["step"].as_u64().unwrap();
        run.wait_for_step(step + 50);
        launch.signal("TERM");
    }
    launch.wait(75);
}

#[test]
fn a_hangup_is_a_stop_unless_it_is_ignored() {
    // These tests may themselves ignore it.
    hang_up(&["env", "--default-signal=HUP"], false);
    hang_up(&["nohup"], true);
}

#[test]
fn what_is_printed_before_the_reader_goes_is_whole() {
    let run = fake_run(1).set("training.steps=100000");
    let launch = run.start(&[]);
    run.wait_for_step(3);
    let mut logs = run.tandem(&["logs", "runs/test", "--follow"]);
    let mut logs = logs.stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(logs.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "[0] rank 0 of 1\n");
    send(logs.id(), "TERM");
    logs.wait().unwrap();
    launch.signal("TERM");
    launch.wait(75);
    eventually("the workers end", || run.workers().is_empty());
}
