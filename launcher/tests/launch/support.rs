//! A run to launch, with a worker that trains nothing, and what can be done to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tandem_cluster::run::folder::RunFolder;
use tandem_config::parameters;
use tandem_config::pretrained::bert::{Bert, BertConfig};
use tandem_config::schema::model::Train;
use tandem_tests::live::{eventually, send};
use tandem_tests::processes;
use tandem_tests::refusal::{Refusal, refuse};
use tempfile::TempDir;

/// A run that has not been launched.
pub(crate) struct Bench {
    folder: TempDir,
    workers: usize,
    environment: Vec<(String, String)>,
    settings: Vec<String>,
    refusals: Vec<Refusal>,
}

impl Bench {
    pub(crate) fn new(workers: usize) -> Self {
        let folder = TempDir::new().unwrap();
        let bert = folder.path().join("bert");
        write_bert(&bert);
        let pairs: String = (0..7).map(|i| format!("ein Satz {i}\ta sentence {i}\n")).collect();
        fs::write(folder.path().join("pairs.tsv"), pairs).unwrap();
        let text = "{ tsv: { path: pairs.tsv, source: 1, target: 2 } }";
        let yaml = format!(
            "run: {{ name: test, folder: {folder} }}\n\
             data: {{ train: {text}, valid: {text}, test: {text} }}\n\
             model:\n\
             \x20 encoder: {{ bert: {{ pretrained: bert, adapters: {{ dim: 2 }} }} }}\n\
             \x20 decoder: {{ bert: {{ pretrained: bert, cross_attention: {{ heads: 1 }} }} }}\n\
             \x20 objective: {{ masked: {{}} }}\n\
             training:\n\
             \x20 steps: 20\n\
             \x20 max_tokens: 100\n\
             \x20 micro_batches: 2\n\
             \x20 optimizer: {{ adam: {{}} }}\n\
             \x20 schedule: {{ constant: {{ rate: 0.001 }} }}\n\
             checkpoints: {{ every: 5, keep_last: 3, average: 2 }}\n\
             cluster:\n\
             \x20 device: cpu\n\
             \x20 workers: {workers}\n\
             \x20 deadlines: {{ start: 60.0, step: 60.0, stop: 30.0 }}\n",
            folder = folder.path().join("runs").display()
        );
        fs::write(folder.path().join("run.yaml"), yaml).unwrap();
        Self {
            folder,
            workers,
            environment: Vec::new(),
            settings: Vec::new(),
            refusals: Vec::new(),
        }
    }

    pub(crate) fn with(mut self, variable: &str, value: &str) -> Self {
        self.environment.push((variable.into(), value.into()));
        self
    }

    pub(crate) fn set(mut self, setting: &str) -> Self {
        self.settings.push(setting.into());
        self
    }

    /// On a system that refuses this.
    pub(crate) fn refusing(mut self, refusals: &[Refusal]) -> Self {
        self.refusals.extend(refusals);
        self
    }

    pub(crate) fn run(&self) -> RunFolder {
        RunFolder::new(self.folder.path().join("runs/test"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn tandem(&self, arguments: &[&str]) -> Command {
        let program = Path::new(env!("CARGO_BIN_EXE_tandem"));
        let worker = program.with_file_name("examples").join("fake_worker");
        assert!(worker.is_file(), "{} is built by `cargo test`", worker.display());
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("TANDEM_WORKER", worker)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        refuse(&mut command, &self.refusals);
        command
    }

    fn launch_command(&self) -> Command {
        let mut command = self.tandem(&["launch", "run.yaml"]);
        if let Some((_, steps)) = self.environment.iter().rfind(|(name, _)| name == "FAKE_STEPS") {
            command.args(["--set", &format!("training.steps={steps}")]);
        }
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        command
    }

    /// Launches and waits for the end.
    pub(crate) fn launch(&self) -> Ended {
        Ended::new(self.launch_command().output().unwrap())
    }

    /// Launches and leaves it running.
    pub(crate) fn start(&self) -> Live {
        Live { child: self.launch_command().spawn().unwrap() }
    }

    /// The same, with another program that becomes the launcher.
    pub(crate) fn start_by(&self, program: &[&str]) -> Live {
        let launch = self.launch_command();
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).arg(launch.get_program()).args(launch.get_args());
        command.envs(launch.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Live { child: command.spawn().unwrap() }
    }

    pub(crate) fn state(&self) -> Value {
        let text = fs::read_to_string(self.run().state()).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    pub(crate) fn events(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.run().events()).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .filter(|event: &Value| event["event"] == name)
            .collect()
    }

    /// Waits until every worker of the newest attempt has connected and is past `step`.
    pub(crate) fn wait_for_step(&self, step: u64) {
        eventually("the workers train", || {
            self.state()["step"].as_u64() >= Some(step) && self.live().len() >= self.workers
        });
    }

    /// The workers that are alive: exactly those of this run folder.
    pub(crate) fn live(&self) -> Vec<u32> {
        processes::of_run("fake_worker", self.run().path())
    }

    /// mpirun's processes of this run.
    pub(crate) fn engines(&self) -> Vec<u32> {
        processes::of_run("mpirun", self.run().path())
    }
}

/// A launcher that is running.
pub(crate) struct Live {
    child: Child,
}

impl Live {
    pub(crate) fn signal(&self, signal: &str) {
        send(self.child.id(), signal);
    }

    pub(crate) fn wait(self) -> Ended {
        Ended::new(self.child.wait_with_output().unwrap())
    }
}

/// What a launcher left.
#[derive(Debug)]
pub(crate) struct Ended {
    pub code: Option<i32>,
    pub said: String,
    pub printed: String,
}

impl Ended {
    pub(crate) fn new(output: Output) -> Self {
        Self {
            code: output.status.code(),
            said: String::from_utf8(output.stderr).unwrap(),
            printed: String::from_utf8(output.stdout).unwrap(),
        }
    }

    pub(crate) fn assert_code(&self, code: i32) {
        assert_eq!(self.code, Some(code), "{}", self.said);
    }

    pub(crate) fn assert_said(&self, words: &str) {
        assert!(self.said.contains(words), "`{words}` is not in\n{}", self.said);
    }
}

/// A BERT folder of the smallest size, with weights of nothing.
fn write_bert(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let config = serde_json::json!({
        "vocab_size": 8, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1,
        "intermediate_size": 4, "hidden_act": "gelu", "max_position_embeddings": 16,
        "type_vocab_size": 2,
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"];
    fs::write(folder.join("vocab.txt"), words.join("\n") + "\n").unwrap();
    let config: BertConfig = serde_json::from_value(config).unwrap();
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for parameter in parameters::mlm(&Bert::new(config), Train::Scratch) {
        let start = end;
        end += parameter.count() * 4;
        let name = parameter.name.trim_start_matches("encoder.").to_owned();
        let record = serde_json::json!({
            "dtype": "F32", "shape": parameter.shape, "data_offsets": [start, end],
        });
        header.insert(name, record);
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + end, 0);
    fs::write(folder.join("model.safetensors"), bytes).unwrap();
}
