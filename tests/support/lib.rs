//! What the tests of the real programs share: the programs, tiny texts, tiny runs.

pub mod chaos;
pub mod fault;
pub mod hosts;
pub mod launch;
pub mod live;
pub mod poison;
pub mod processes;
pub mod python;
pub mod refusal;
pub mod seeded;
pub mod trace;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde_json::Value;
use tempfile::TempDir;

const GERMAN: [&str; 10] =
    ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"];
const ENGLISH: [&str; 10] =
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];

/// A program of this workspace, beside the test's own.
///
/// # Panics
/// If `cargo build` with the same profile has not made it.
pub fn program(name: &str) -> Command {
    let test = std::env::current_exe().expect("a test knows its own path");
    let folder = test.ancestors().nth(2).expect("tests lie in target/PROFILE/deps");
    let path = folder.join(name);
    assert!(path.is_file(), "{} is missing: run `cargo build --release`", path.display());
    let mut command = Command::new(path);
    command.env("OMP_NUM_THREADS", "1");
    command
}

/// `tandem-worker` on so many ranks, without a launcher.
///
/// # Panics
/// As [`program`].
pub fn mpirun(ranks: usize) -> Command {
    let mut command = program("tandem-worker");
    command.env("TANDEM_WORLD_SIZE", ranks.to_string());
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    let ranks = ranks.to_string();
    let words = ["mpirun", "-n", &ranks, "--oversubscribe", "--bind-to", "none"];
    run_by(&mut command, &[&words[..], &["-x", "TANDEM_WORLD_SIZE"]].concat());
    command
}

/// Has a command run by another one, whose words come before its own; of what else was set, its
/// environment and its folder stay.
pub fn run_by(command: &mut Command, words: &[&str]) {
    let mut outer = Command::new(words[0]);
    outer.args(&words[1..]).arg(command.get_program()).args(command.get_args());
    outer.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = command.get_current_dir() {
        outer.current_dir(folder);
    }
    *command = outer;
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; none if it was killed.
    pub code: Option<i32>,
    /// All that it wrote to standard output.
    pub stdout: String,
    /// All that it wrote to standard error.
    pub stderr: String,
}

impl Ended {
    /// Runs a command to its end.
    ///
    /// # Panics
    /// If it does not start.
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        Self { code: output.status.code(), stdout, stderr }
    }

    /// What it printed.
    ///
    /// # Panics
    /// If that is no JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// # Panics
    /// If this is not in what it wrote to standard error.
    pub fn assert_said(&self, words: &str) {
        assert!(self.stderr.contains(words), "`{words}` is not in\n{}", self.stderr);
    }

    /// The first line about an error.
    ///
    /// # Panics
    /// If there is none.
    pub fn first_error(&self) -> &str {
        let line = self.stderr.lines().find(|line| line.starts_with("error: "));
        line.unwrap_or_else(|| panic!("there is no error in\n{}", self.stderr))
    }

    /// Its last report of an error is short and the last that it said, and the first line has these words.
    ///
    /// # Panics
    /// If that is not so; the message names the `fault`.
    pub fn assert_cause(&self, fault: &str, words: &[&str]) {
        let lines: Vec<&str> = self.stderr.lines().collect();
        let first = lines.iter().rposition(|line| line.starts_with("error: "));
        let first = first.unwrap_or_else(|| panic!("{fault}: no error in\n{}", self.stderr));
        let report = &lines[first..];
        assert!(report.len() <= 15, "{fault}: {} lines\n{}", report.len(), self.stderr);
        for words in words {
            assert!(report[0].contains(words), "{fault}: `{words}` is not in\n{}", self.stderr);
        }
    }
}

/// Runs a command to its end, which must have this exit code.
///
/// # Panics
/// If it ends otherwise; the message has all that it said.
pub fn expect_code(command: &mut Command, code: i32) -> Ended {
    let ended = Ended::of(command);
    let Ended { stdout, stderr, .. } = &ended;
    assert_eq!(ended.code, Some(code), "{command:?}\n{stdout}\n{stderr}");
    ended
}

/// Copies the files of a folder into one that is made.
///
/// # Panics
/// If that fails.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

/// A folder with tiny texts and a tiny BERT for each side, pre-trained for a few steps.
pub struct Tiny {
    folder: TempDir,
}

impl Tiny {
    /// Writes the texts alone.
    ///
    /// # Panics
    /// If that fails.
    pub fn texts() -> Self {
        let tiny = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        tiny.write_texts();
        tiny
    }

    /// Writes the texts, and pre-trains both BERTs with the real programs.
    ///
    /// # Panics
    /// If anything fails.
    pub fn new() -> Self {
        let tiny = Self::texts();
        for side in ["de", "en"] {
            tiny.pre_train(side, 32);
        }
        tiny
    }

    /// Those that tests share, made anew when no test holds them any more.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Tiny>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let tiny = Arc::new(Self::new());
            *shared = Arc::downgrade(&tiny);
            tiny
        })
    }

    /// Pre-trains the BERT `bert-{side}` on `mono.{side}`.
    ///
    /// # Panics
    /// If that fails.
    pub fn pre_train(&self, side: &str, positions: usize) {
        let config = format!(
            "run: {{ name: bert-{side}, folder: {runs} }}
data: {{ train: {{ lines: {{ path: mono.{side} }} }}, valid: {{ lines: {{ path: mono.{side} }} }}, max_length: 24 }}
model:
  encoder:
    bert:
      train: scratch
      new: {{ layers: 2, hidden: 32, heads: 2, feed_forward: 64, positions: {positions}, \
             vocabulary: {{ learn: {{ size: 110, lowercase: false }} }} }}
  objective: {{ mlm: {{}} }}
training: {{ steps: 6, max_tokens: 256, micro_batches: 1, schedule: {{ constant: {{ rate: 0.01 }} }} }}
evaluation: {{ every: 6, metric: loss }}
cluster: {{ engine: solo, workers: 1, device: cpu }}
",
            runs = self.path("").display()
        );
        let path = self.write(&format!("bert-{side}.yaml"), &config);
        expect_code(program("tandem").arg("launch").arg(path), 0);
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// The config of an AB-Net run over the two BERTs.
    pub fn ab_net(&self, name: &str, workers: usize, dropout: f64) -> PathBuf {
        let encoder = format!(
            "{{ bert: {{ pretrained: ./bert-de/export, adapters: {{ dim: 16 }}, \
             dropout: {dropout} }} }}"
        );
        let decoder = format!(
            "{{ bert: {{ pretrained: ./bert-en/export, dropout: {dropout}, \
             cross_attention: {{ heads: 2, dropout: {dropout} }} }} }}"
        );
        let objective = "{ masked: { length_classes: 40 } }";
        self.translation(name, workers, &encoder, &decoder, objective)
    }

    /// The config of a run with this model.
    pub fn translation(
        &self,
        name: &str,
        workers: usize,
        encoder: &str,
        decoder: &str,
        objective: &str,
    ) -> PathBuf {
        let config = format!(
            "run: {{ name: {name}, folder: {runs} }}
data:
  train: {{ tsv: {{ path: train.tsv, source: 1, target: 2 }} }}
  valid: {{ tsv: {{ path: valid.tsv, source: 1, target: 2 }} }}
  test: {{ tsv: {{ path: valid.tsv, source: 1, target: 2 }} }}
  max_length: 24
model:
  encoder: {encoder}
  decoder: {decoder}
  objective: {objective}
training: {{ steps: 12, max_tokens: 200, micro_batches: 2, log_every: 1, \
             schedule: {{ constant: {{ rate: 0.005 }} }} }}
evaluation: {{ every: 6, sentences: 8, latency_sentences: 2 }}
checkpoints: {{ every: 3, keep_last: 10, average: 2 }}
cluster: {{ workers: {workers}, threads: 1, device: cpu }}
",
            runs = self.path("").display()
        );
        self.write(&format!("{name}.yaml"), &config)
    }

    /// Numbers, spelt out in both languages.
    fn write_texts(&self) {
        let (mut train, mut valid) = (String::new(), String::new());
        let (mut de, mut en) = (String::new(), String::new());
        for number in 0..400u64 {
            let mut digits = number * 7919 + 13;
            let (mut german, mut english) = (Vec::new(), Vec::new());
            for _ in 0..2 + number % 6 {
                german.push(GERMAN[(digits % 10) as usize]);
                english.push(ENGLISH[(digits % 10) as usize]);
                digits /= 10;
            }
            let (german, english) = (german.join(" "), english.join(" "));
            let pairs = if number % 20 == 0 { &mut valid } else { &mut train };
            let _ = writeln!(pairs, "{german} .\t{english} .");
            let _ = writeln!(de, "{german} .");
            let _ = writeln!(en, "{english} .");
        }
        self.write("train.tsv", &train);
        self.write("valid.tsv", &valid);
        self.write("mono.de", &de);
        self.write("mono.en", &en);
    }
}

impl Default for Tiny {
    fn default() -> Self {
        Self::new()
    }
}

/// What `tandem translate` makes of lines.
///
/// # Panics
/// If it fails.
pub fn translate(run: &Path, lines: &str) -> Vec<String> {
    let mut command = program("tandem");
    command.arg("translate").arg(run).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("tandem translate");
    child.stdin.take().expect("stdin").write_all(lines.as_bytes()).expect("a pipe");
    let output = child.wait_with_output().expect("an end");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(str::to_owned).collect()
}

/// The bytes of a run's trained weights at a step.
///
/// # Panics
/// If there is no such checkpoint.
pub fn adapters(run: &Path, step: u64) -> Vec<u8> {
    let path = run.join(format!("checkpoints/step-{step:08}/adapters.safetensors"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The BLEU of a run's test, which its report must have as scores.json has it.
///
/// # Panics
/// If there are no scores, or the report has others.
pub fn assert_reported_scores(run: &Path, step: u64) -> f64 {
    let path = run.join(format!("evaluation/test-step-{step:08}/scores.json"));
    let read = |path: &Path| {
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let scores: Value = serde_json::from_str(&read(&path)).expect("JSON");
    let bleu = scores["scores"]["bleu_13a"]["score"].as_f64().unwrap_or_else(|| panic!("{scores}"));
    let report = read(&run.join("report.md"));
    assert!(report.contains(&format!("**BLEU {bleu:.2}** (sacreBLEU 13a)")), "{report}");
    bleu
}
