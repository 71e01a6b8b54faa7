//! A worker that trains nothing, for the launcher's tests: it speaks the control channel, writes
//! checkpoints and translations, and fails as `FAKE_FAULT` says.
//!
//! `FAKE_FAULT` is `kind:rank:step`, or several of them with commas between; `kind` is `die`,
//! `error`, `panic`, `memory`, `batch`, `exit`, `starve`, `hang` or `stopped`. With a `!` behind it a fault strikes each time, otherwise
//! once in a run. `FAKE_STEP_MS` is how long a step takes, `FAKE_START_MS` how long it loads before,
//! `FAKE_LINE_MS` how long a line takes to translate.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::exit;
use std::time::Duration;

use tandem_cluster::run::chunks::Cut;
use tandem_cluster::run::control::{Invitation, Phase, Report, Session};
use tandem_cluster::run::evaluation::EvaluationFolder;
use tandem_cluster::run::exit::Exit;
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::records::{
    EvaluationSums, Memory, TrainingMetrics, Translation, TranslationSums,
};
use tandem_cluster::run::store::{ADAPTERS, Checkpoint, OPTIMIZER, TRAINER};
use tandem_cluster::run::task::{Input, Task};

const PATIENCE: Duration = Duration::from_secs(10);

struct Worker {
    rank: usize,
    world_size: usize,
    attempt: u64,
    run: RunFolder,
    session: Session,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).map(PathBuf::from)
    };
    let run = RunFolder::new(option("--run").ok_or("--run is missing")?);
    let rank = number("OMPI_COMM_WORLD_RANK", number("SLURM_PROCID", 0)) as usize;
    let invitation = Invitation::from_env()?.ok_or("there is no launcher")?;
    let Invitation { attempt, world_size, .. } = invitation;
    fs::write(run.rank_log(attempt, rank), format!("rank {rank} of {world_size}\n"))?;
    let session = Session::start(&invitation, rank, "cpu")?;
    let worker = Worker { rank, world_size, attempt, run, session };
    let end = match arguments.first().map(String::as_str) {
        Some("train") => worker.train(option("--resume"))?,
        Some("evaluate") => {
            let checkpoint = Checkpoint::verify(&option("--checkpoint").ok_or("no checkpoint")?)?;
            let output = option("--output").ok_or("no output")?;
            worker.fault(0)?;
            worker.evaluate("test", checkpoint.step(), &EvaluationFolder::new(output))?;
            Exit::Done
        }
        Some("translate") => worker.translate(&option("--task").ok_or("no task")?)?,
        other => return Err(format!("unknown verb {other:?}").into()),
    };
    worker.session.goodbye(end);
    exit(end.code().into())
}

impl Worker {
    fn train(&self, resume: Option<PathBuf>) -> Result<Exit, Box<dyn Error>> {
        let config: serde_yaml::Value = serde_yaml::from_reader(File::open(self.run.config())?)?;
        let steps = config["training"]["steps"].as_u64().ok_or("no number of steps")?;
        let first = match resume {
            Some(folder) => Checkpoint::verify(&folder)?.step() + 1,
            None => 1,
        };
        std::thread::sleep(Duration::from_millis(number("FAKE_START_MS", 0)));
        self.identify();
        self.session.report(Report::Plan { trained: 3, frozen: 7 });
        if std::env::args().any(|argument| argument == "--evaluate-first") {
            self.evaluate("valid", first - 1, &self.run.evaluation("valid", first - 1))?;
        }
        for step in first..=steps {
            self.session.phase(Phase::Train, step);
            self.meet(step)?;
            self.fault(step)?;
            std::thread::sleep(Duration::from_millis(number("FAKE_STEP_MS", 5)));
            if self.rank == 0 {
                let loss = 1.0 / step as f64;
                let tokens_per_second = 1000.0;
                let metrics =
                    TrainingMetrics { steps, loss, tokens_per_second, ..Default::default() };
                self.session.report(Report::Metrics { step, metrics });
            }
            if step % 10 == 0 {
                self.tell_pace(step);
            }
            let stop = self.agree_to_stop(step)?;
            if step % 5 == 0 || step == steps || stop {
                self.save(step)?;
            }
            if step % 10 == 0 {
                self.evaluate("valid", step, &self.run.evaluation("valid", step))?;
            }
            if stop && step < steps {
                return Ok(Exit::Stopped);
            }
        }
        Ok(Exit::Done)
    }

    /// What this rank is; `FAKE_OTHER` is `rank:fact`: that rank is something else.
    fn identify(&self) {
        let mut facts = BTreeMap::new();
        let other = std::env::var("FAKE_OTHER").unwrap_or_default();
        for fact in ["encoder BERT (SHA-256)", "tandem-worker version"] {
            let differs = other == format!("{}:{fact}", self.rank);
            facts.insert(fact.to_owned(), if differs { "1b" } else { "0a" }.to_owned());
        }
        self.session.report(Report::Identity { facts });
    }

    /// As every tenth step; `FAKE_SLOW` is the rank that takes a quarter longer.
    fn tell_pace(&self, step: u64) {
        let slow = number("FAKE_SLOW", u64::MAX) == self.rank as u64;
        let compute = if slow { 1.25 } else { 1.0 };
        let memory = Memory { resident: 1 << 30, gpu: None };
        self.session.report(Report::Pace { step, data: 0.0, compute, memory });
    }

    fn save(&self, step: u64) -> Result<(), Box<dyn Error>> {
        self.session.phase(Phase::Save, step);
        if self.rank > 0 {
            return Ok(());
        }
        let draft = self.run.store().draft(step, self.attempt)?;
        let header = r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let mut tensors = (header.len() as u64).to_le_bytes().to_vec();
        tensors.extend(header.as_bytes());
        tensors.extend((step as f32).to_le_bytes());
        fs::write(draft.path(ADAPTERS), &tensors)?;
        fs::write(draft.path(OPTIMIZER), &tensors)?;
        fs::write(draft.path(TRAINER), format!("{{\"step\":{step}}}"))?;
        draft.seal(vec![("encoder".into(), "e".into()), ("decoder".into(), "d".into())])?;
        self.session.report(Report::CheckpointWritten { step });
        // So that tests know what was published when a later step fails.
        self.session.wait_delivered(PATIENCE)?;
        Ok(())
    }

    fn evaluate(
        &self,
        split: &str,
        step: u64,
        output: &EvaluationFolder,
    ) -> Result<(), Box<dyn Error>> {
        self.session.phase(Phase::Evaluate, step);
        fs::create_dir_all(output.path())?;
        let part = output.part(self.rank);
        let mut lines = String::new();
        let mut sentences = 0;
        for index in (self.rank..7).step_by(self.world_size) {
            let text = format!("this is the sentence of number {index}");
            let line = serde_json::to_string(&Translation {
                index,
                source: text.clone(),
                reference: text.clone(),
                hypothesis: text.clone(),
                reference_tokens: text.clone(),
                hypothesis_tokens: text,
                length: 7,
                reference_length: 7,
                passes: 1,
                rows: 1,
            })?;
            lines += &format!("{line}\n");
            sentences += 1;
        }
        fs::write(&part, lines)?;
        let translation =
            TranslationSums { sentences, passes: sentences, rows: sentences, ..Default::default() };
        let sums = EvaluationSums {
            loss: 2.0 * sentences as f64,
            denominator: sentences as f64,
            sentences: sentences as f64,
            translation: Some(translation),
            ..Default::default()
        };
        let (rank, split) = (self.rank, split.into());
        self.session.report(Report::Evaluated { step, split, rank, part, sums });
        Ok(())
    }

    /// Each line is a chunk, and its translation is it in capitals.
    fn translate(&self, folder: &Path) -> Result<Exit, Box<dyn Error>> {
        self.session.phase(Phase::Translate, 0);
        let task = Task::read(folder)?;
        let Input::Lines(path) = &task.input else { return Err("no lines".into()) };
        let text = fs::read_to_string(path)?;
        let count = text.lines().count();
        let cut = Cut { chunks: count, items: count };
        for (index, line) in text.lines().enumerate().skip(self.rank).step_by(self.world_size) {
            let item = serde_json::to_string(&Translation {
                index,
                source: line.into(),
                hypothesis: line.to_uppercase(),
                ..Translation::default()
            })?;
            task.chunks(folder).write(index, cut, &(item + "\n"))?;
            std::thread::sleep(Duration::from_millis(number("FAKE_LINE_MS", 0)));
            if self.session.stop_requested() {
                return Ok(Exit::Stopped);
            }
        }
        Ok(Exit::Done)
    }

    /// Rank 0 decides for all, as a reduced flag would.
    fn agree_to_stop(&self, step: u64) -> Result<bool, Box<dyn Error>> {
        let mark = self.run.attempt_logs(self.attempt).join("stop");
        if self.rank == 0 && self.session.stop_requested() && !mark.exists() {
            fs::write(&mark, (step + 1).to_string())?;
        }
        Ok(fs::read_to_string(mark).ok().and_then(|at| at.parse().ok()) == Some(step))
    }

    /// Waits until every rank is at `step`, as in a collective.
    fn meet(&self, step: u64) -> Result<(), Box<dyn Error>> {
        let logs = self.run.attempt_logs(self.attempt);
        let place = |rank: usize| logs.join(format!("at-{rank}"));
        fs::write(logs.join(format!("next-{}", self.rank)), step.to_string())?;
        fs::rename(logs.join(format!("next-{}", self.rank)), place(self.rank))?;
        for rank in 0..self.world_size {
            let there = || fs::read_to_string(place(rank)).ok()?.parse::<u64>().ok();
            while there().is_none_or(|there| there < step) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// Fails here, if this is the place.
    fn fault(&self, step: u64) -> Result<(), Box<dyn Error>> {
        let faults = std::env::var("FAKE_FAULT").unwrap_or_default();
        for fault in faults.split(',').filter(|fault| !fault.is_empty()) {
            let (fault, always) = match fault.strip_suffix('!') {
                Some(fault) => (fault, true),
                None => (fault, false),
            };
            let words: Vec<&str> = fault.split(':').collect();
            let [kind, rank, at] = words[..] else { return Err("no such fault".into()) };
            if rank.parse() != Ok(self.rank) || at.parse() != Ok(step) {
                continue;
            }
            let mark = self.run.path().join(fault.replace(':', "-"));
            if always || !mark.exists() {
                fs::write(mark, "")?;
                self.strike(kind, step)?;
            }
        }
        Ok(())
    }

    /// Says why it cannot go on, and ends.
    fn fail(&self, message: &str, end: Exit) -> Result<(), Box<dyn Error>> {
        let (message, backtrace) = (message.to_owned(), String::new());
        self.session.report(Report::Failed { message, backtrace });
        self.session.wait_delivered(PATIENCE)?;
        exit(end.code().into())
    }

    fn strike(&self, kind: &str, step: u64) -> Result<(), Box<dyn Error>> {
        let log = self.run.rank_log(self.attempt, self.rank);
        let said = fs::read_to_string(&log)? + "about to fail\n";
        fs::write(&log, said)?;
        match kind {
            "die" => {
                // A report is preceded by a heartbeat, which tells the step.
                self.session.report(Report::Notice { text: "about to die".into() });
                self.session.wait_delivered(PATIENCE)?;
                std::process::abort()
            }
            "error" => {
                self.fail(&format!("batch {} is poisoned", std::process::id()), Exit::Failed)?;
            }
            "exit" => {
                self.session.clone().goodbye(Exit::DoNotRetry);
                exit(Exit::DoNotRetry.code().into())
            }
            "panic" => {
                self.fail("index 7 out of range\n(panicked at src/x.rs:1:2)", Exit::Panicked)?
            }
            "batch" => self.fail(
                "a token is no token\nin the micro-batch of the samples 3, 5",
                Exit::Failed,
            )?,
            "memory" => {
                self.session.report(Report::Notice { text: "about to die".into() });
                self.session.wait_delivered(PATIENCE)?;
                // As the system does when memory runs out.
                tandem_cluster::process::kill(std::process::id());
            }
            "stopped" => {
                self.session.report(Report::Notice { text: "about to be stopped".into() });
                self.session.wait_delivered(PATIENCE)?;
                let pid = std::process::id().to_string();
                std::process::Command::new("kill").args(["-STOP", &pid]).status()?;
            }
            // The data thread hangs.
            "starve" => {
                self.session.phase(Phase::Data, step);
                std::thread::sleep(PATIENCE * 100);
            }
            // Nothing gets on, but heartbeats do.
            "hang" => std::thread::sleep(PATIENCE * 100),
            _ => return Err("no such fault".into()),
        }
        Ok(())
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
