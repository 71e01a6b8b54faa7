//! Where nobody reads, the disk is full or the terminal goes away.

use std::fs::File;
use std::io::{BufRead, BufReader, pipe};
use std::process::{Command, Stdio};

use tandem_tests::live::{eventually, send};

use crate::support::{Bench, Ended};

/// One of each verb that prints.
const VERBS: [&[&str]; 9] = [
    &["plan", "run.yaml"],
    &["plan", "run.yaml", "--json"],
    &["doctor", "run.yaml"],
    &["slurm", "run.yaml", "--print"],
    &["score", "pairs.tsv", "pairs.tsv"],
    &["status", "runs/test"],
    &["logs", "runs/test"],
    &["translate", "runs/test", "--input", "pairs.tsv"],
    &["export", "runs/test"],
];

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

#[test]
fn a_verb_that_cannot_print_says_so_or_ends_quietly() {
    let bench = Bench::new(1);
    bench.launch().assert_code(0);
    for words in VERBS {
        let plain = Ended::new(bench.tandem(words).output().unwrap());
        let tandem = |change: &dyn Fn(&mut Command)| {
            let mut command = bench.tandem(words);
            change(&mut command);
            let ended = Ended::new(command.output().unwrap());
            assert!(!ended.said.contains("panicked"), "{words:?}: {}", ended.said);
            ended
        };
        // As with `| head -1`.
        let closed = tandem(&|command| {
            let (reader, writer) = pipe().unwrap();
            drop(reader);
            command.stdout(writer);
        });
        assert_eq!((closed.code, &closed.said), (plain.code, &plain.said), "{words:?}");
        let lost = tandem(&|command| {
            command.stdout(full());
        });
        assert_eq!(lost.code, Some(1), "{words:?}: {}", lost.said);
        lost.assert_said("error: cannot write to standard output: No space left on device");
        let silent = tandem(&|command| {
            command.stderr(full());
        });
        assert_eq!((silent.code, &silent.printed), (plain.code, &plain.printed), "{words:?}");
    }
    for words in [&["stop", "runs/test"][..], &["plan", "nowhere.yaml"], &["launch", "run.yaml"]] {
        let plain = Ended::new(bench.tandem(words).output().unwrap());
        let silent = Ended::new(bench.tandem(words).stderr(full()).output().unwrap());
        assert_eq!(silent.code, plain.code, "{words:?}");
    }
}

/// A run that is launched by `program` in the launcher's place, and its end by SIGHUP or not.
fn hang_up(program: &str, survives: bool) {
    let bench = Bench::new(1).with("FAKE_STEPS", "100000");
    let live = bench.start_by(&[program]);
    bench.wait_for_step(3);
    live.signal("HUP");
    if survives {
        let step = bench.state()["step"].as_u64().unwrap();
        bench.wait_for_step(step + 50);
        live.signal("TERM");
    }
    live.wait().assert_code(75);
}

#[test]
fn a_hangup_is_a_stop_unless_it_is_ignored() {
    hang_up("env", false);
    hang_up("nohup", true);
}

#[test]
fn what_is_printed_before_the_reader_goes_is_whole() {
    let bench = Bench::new(1).with("FAKE_STEPS", "100000");
    let live = bench.start();
    bench.wait_for_step(3);
    let mut logs = bench.tandem(&["logs", "runs/test", "--follow"]);
    let mut logs = logs.stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(logs.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "[0] rank 0 of 1\n");
    send(logs.id(), "TERM");
    logs.wait().unwrap();
    live.signal("TERM");
    live.wait().assert_code(75);
    eventually("the workers end", || bench.live().is_empty());
}
