//! Whatever goes wrong with the real workers, the first line of the report names the rank and the
//! cause, and the report is short and comes last.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tandem_tests::launch::Launch;
use tandem_tests::live::{Run, eventually, send};
use tandem_tests::{Ended, Tiny, copy_folder, expect_code, processes, program, trace};

/// Nothing is tried again, and no run here ends by itself.
const SETTINGS: [&str; 6] = [
    "training.steps=100000",
    "evaluation.every=0",
    "checkpoints.every=4",
    "cluster.max_restarts=0",
    "cluster.deadlines.start=20",
    "cluster.deadlines.step=4",
];

/// A run of two ranks, each of which sees files of its own under `/proc/self/cwd`, as if each were
/// on a host of its own.
struct Ranks {
    run: Run,
    worker: PathBuf,
}

impl Ranks {
    fn new(tiny: &Arc<Tiny>, name: &str) -> Self {
        let run = Run::new(tiny, name, 2, &SETTINGS);
        let worker = run.beside(&format!("{name}-worker"));
        let ranks = Self { run, worker };
        for rank in ["launcher", "0", "1"] {
            let folder = ranks.view(rank);
            std::fs::create_dir_all(&folder).expect("a folder");
            copy_folder(&tiny.path("bert-en/export"), &folder.join("bert"));
            std::fs::copy(tiny.path("train.tsv"), folder.join("train.tsv")).expect("a copy");
        }
        ranks.wrap("exec \"$worker\" \"$@\"");
        ranks
    }

    /// What a rank sees.
    fn view(&self, rank: &str) -> PathBuf {
        self.run.folder().with_extension(rank)
    }

    /// Has rank 1 started by these words of a shell, with its program in `worker`.
    fn wrap(&self, words: &str) {
        let worker = program("tandem-worker");
        let (worker, view) = (worker.get_program().to_string_lossy(), self.view("$rank"));
        let script = format!(
            "#!/bin/sh\nworker={worker}\nrank=${{OMPI_COMM_WORLD_RANK:-0}}\ncd {}\n\
             [ $rank = 1 ] || exec \"$worker\" \"$@\"\n{words}\n",
            view.display()
        );
        std::fs::write(&self.worker, script).expect("a script");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&self.worker, executable).expect("a script");
    }

    fn start(&self, settings: &[&str]) -> Launch {
        let own = [
            "model.decoder.bert.pretrained=/proc/self/cwd/bert",
            "data.train.tsv.path=/proc/self/cwd/train.tsv",
        ];
        self.run.start_with(&[&own, settings].concat(), |command| {
            command.env("TANDEM_WORKER", &self.worker).current_dir(self.view("launcher"));
        })
    }

    /// Does this to rank 1 when it has trained for a while.
    fn strike(&self, strike: impl FnOnce(u32)) -> Ended {
        let launch = self.start(&[]);
        let pid = self.run.rank(1, 1);
        self.run.wait_for_checkpoint(1, 4);
        strike(pid);
        launch.wait(1)
    }
}

/// Changes a file's bytes.
fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).expect("a file");
    change(&mut bytes);
    std::fs::write(path, bytes).expect("a file");
}

type Strike = fn(u32);
type Prepare = fn(&Ranks);

/// What strikes a rank that trains: the fault, the exit code, and what the first line says.
const STRIKES: [(&str, Strike, &[&str]); 4] = [
    (
        "out of memory, as the kernel ends a process",
        |pid| send(pid, "KILL"),
        &[
            "rank 1 on ",
            " died in phase ",
            "signal 9 (SIGKILL); the system does so when memory runs",
        ],
    ),
    (
        "a crash",
        |pid| send(pid, "ABRT"),
        &["rank 1 on ", " died in phase ", "ended by signal 6 (SIGABRT)"],
    ),
    (
        "a stopped process",
        |pid| send(pid, "STOP"),
        &["rank 1 on ", " hung in ", "no heartbeat for "],
    ),
    (
        "a data thread that hangs",
        |pid| drop(trace::hold(processes::thread(pid, "prefetch").expect("a data thread"))),
        &["rank 1 on ", " hung in phase data at step ", "no progress in phase data for "],
    ),
];

/// What is wrong with rank 1, or with its host, from the start.
const STARTS: [(&str, Prepare, i32, &[&str]); 10] = [
    (
        "a BERT that is absent on one host",
        |ranks| std::fs::remove_dir_all(ranks.view("1").join("bert")).expect("a folder"),
        2,
        &["rank 1 on ", " failed in phase start ", "model.decoder.bert.pretrained: ", "/bert"],
    ),
    (
        "a BERT that is another on one host",
        |ranks| {
            let path = ranks.view("1").join("bert/model.safetensors");
            change(&path, |bytes| *bytes.last_mut().expect("a byte") ^= 1);
        },
        2,
        &["rank ", "its decoder BERT (SHA-256) is ", "all must be the same"],
    ),
    (
        "a BERT that was copied in part to one host",
        |ranks| {
            let path = ranks.view("1").join("bert/model.safetensors");
            change(&path, |bytes| bytes.truncate(bytes.len() - 4));
        },
        2,
        &["rank 1 on ", " failed in phase start ", "model.safetensors is not a safetensors file"],
    ),
    (
        "data that is absent on one host",
        |ranks| std::fs::remove_file(ranks.view("1").join("train.tsv")).expect("a file"),
        2,
        &["rank 1 on ", " failed in phase start ", "data.train.tsv.path: ", "train.tsv"],
    ),
    (
        "data that is other on one host",
        |ranks| change(&ranks.view("1").join("train.tsv"), |bytes| bytes.extend(b"eins\tone\n")),
        2,
        &["rank ", "its data.train (SHA-256) is ", "all must be the same"],
    ),
    (
        "another build of the program on one host",
        |ranks| {
            let other = ranks.view("1").join("worker");
            std::fs::copy(program("tandem-worker").get_program(), &other).expect("a copy");
            change(&other, |bytes| {
                let note = b"\x03\0\0\0GNU\0";
                let at = bytes.windows(note.len()).position(|found| found == note);
                bytes[at.expect("a build's hash") + note.len()] ^= 1;
            });
            ranks.wrap("exec ./worker \"$@\"");
        },
        2,
        &["rank ", "its tandem-worker build is ", "all must be the same"],
    ),
    (
        "a full disk on one host",
        // Nothing is ever free there.
        |ranks| ranks.wrap("TMPDIR=/proc exec \"$worker\" \"$@\""),
        2,
        &[
            "rank 1 on ",
            " failed in phase start ",
            "0 MiB are free for the temporary files in /proc",
        ],
    ),
    (
        "a library that is absent on one host",
        |ranks| ranks.wrap("echo 'libtorch_cpu.so: cannot open shared object file' >&2; exit 127"),
        1,
        &["rank 1 ", "exit code 127", "libtorch_cpu.so: cannot open shared object file"],
    ),
    (
        "a host on which no process gets on",
        |ranks| ranks.wrap("exec sleep 600"),
        1,
        &["rank 1 hung", "it did not connect within 20 s of its start (cluster.deadlines.start)"],
    ),
    (
        "a cache that cannot be written",
        |ranks| {
            std::fs::write(ranks.view("1").join("cache"), "").expect("a file");
        },
        1,
        &[
            "rank 1 on ",
            " failed in phase start ",
            "cannot write the cache ",
            "set data.cache to a",
        ],
    ),
];

#[test]
fn the_first_line_names_rank_and_cause() {
    let tiny = Arc::new(Tiny::new());
    for (index, (fault, strike, words)) in STRIKES.iter().enumerate() {
        let ranks = Ranks::new(&tiny, &format!("struck-{index}"));
        ranks.strike(strike).assert_cause(fault, words);
        eventually("all are gone", || ranks.run.processes().is_empty());
    }
    for (index, (fault, prepare, code, words)) in STARTS.iter().enumerate() {
        let ranks = Ranks::new(&tiny, &format!("started-{index}"));
        prepare(&ranks);
        let launch = ranks.start(&["data.cache=/proc/self/cwd/cache", "cluster.preflight=always"]);
        launch.wait(*code).assert_cause(fault, words);
        ranks.run.assert_no_process();
    }
}

/// Pairs of so many words on each side.
fn pairs(words: usize, count: usize) -> String {
    format!("{}.\t{}.\n", "eins ".repeat(words), "one ".repeat(words)).repeat(count)
}

#[test]
fn memory_that_does_not_suffice_ends_a_run_before_its_first_step() {
    const MOST_BYTES: usize = 1_500_000;
    let tiny = Arc::new(Tiny::texts());
    let library = tiny.path("memory.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("doubles/memory.c");
    let most = format!("-DMOST_BYTES={MOST_BYTES}");
    let mut cc = std::process::Command::new("cc");
    cc.args(["-O1", "-Wall", "-Wextra", "-fPIC", "-shared", &most]).arg(source);
    expect_code(cc.arg("-o").arg(&library).arg("-ldl"), 0);
    tiny.pre_train("de", 128);
    tiny.pre_train("en", 128);

    // Attention over 25 pairs of 120 words has weights of 2.9 MB, all else fits.
    let settings = [
        "training.max_tokens=3000",
        "data.max_length=124",
        "model.objective.masked.length_classes=130",
        "decoding.mask_predict.max_tokens=200",
        "cluster.max_restarts=0",
    ];
    let run = |name: &str, words: usize| {
        tiny.write("train.tsv", &(pairs(5, 300) + &pairs(words, 25)));
        let run = Run::new(&tiny, name, 1, &settings);
        run.with("LD_PRELOAD", &library.to_string_lossy()).set("cluster.engine=solo")
    };
    run("enough", 20).launch(&[], 0);
    let ended = run("too-little", 116).launch(&[], 1);
    let words =
        ["rank 0 on ", "failed in phase start", "memory seems to have run out", "max_tokens"];
    ended.assert_cause("too little memory", &words);
}
