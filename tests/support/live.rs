//! A run while it is launched: its processes, its events, and what it leaves.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::launch::Launch;
use crate::refusal::obey_modes;
use crate::{Ended, Tiny, expect_code, processes, program, python};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// A run over tiny BERTs, launched with the real programs.
pub struct Run {
    tiny: Arc<Tiny>,
    config: PathBuf,
    folder: PathBuf,
    settings: Vec<String>,
    variables: Vec<(String, String)>,
}

impl Run {
    /// A run that has not been launched; `settings` are for all its launches.
    pub fn new(tiny: &Arc<Tiny>, name: &str, workers: usize, settings: &[&str]) -> Self {
        Self::of(tiny, tiny.ab_net(name, workers, 0.1), name, settings)
    }

    /// The run of this file, which has not been launched; `folder` is beside the tiny texts.
    pub fn of(tiny: &Arc<Tiny>, config: PathBuf, folder: &str, settings: &[&str]) -> Self {
        let folder = tiny.path(folder);
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        Self { tiny: Arc::clone(tiny), config, folder, settings, variables: Vec::new() }
    }

    /// The same run with another setting for all further launches.
    #[must_use]
    pub fn set(mut self, setting: &str) -> Self {
        self.settings.push(setting.into());
        self
    }

    /// The same run with this in the environment of all further programs.
    #[must_use]
    pub fn with(mut self, variable: &str, value: &str) -> Self {
        self.variables.push((variable.into(), value.into()));
        self
    }

    /// The run's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A path beside the run.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.tiny.path(name)
    }

    /// Launches it with these settings besides, and leaves it running.
    ///
    /// # Panics
    /// If the launcher does not start.
    pub fn start(&self, settings: &[&str]) -> Launch {
        self.start_with(settings, |_| {})
    }

    /// The same, with the launcher's command changed before.
    ///
    /// # Panics
    /// If the launcher does not start.
    pub fn start_with(&self, settings: &[&str], change: impl FnOnce(&mut Command)) -> Launch {
        let mut command = self.command("launch", settings);
        change(&mut command);
        self.spawn(command)
    }

    /// Starts a program that works on the run.
    ///
    /// # Panics
    /// If it does not start.
    pub fn spawn(&self, mut command: Command) -> Launch {
        let prepare = || {
            // A file that may grow no further is to be an error, as on a full disk, and no signal.
            // SAFETY: async-signal-safe, and the numbers are what it takes.
            unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
            Ok(())
        };
        // SAFETY: `prepare` allocates nothing and takes no lock.
        unsafe { command.pre_exec(prepare) };
        obey_modes(&mut command);
        Launch::spawn(command, &self.folder)
    }

    /// Launches it with these settings besides, and waits for its end, which must have this code.
    ///
    /// # Panics
    /// If it ends otherwise.
    pub fn launch(&self, settings: &[&str], code: i32) -> Ended {
        self.start(settings).wait(code)
    }

    /// `tandem` with these words, run beside the run.
    ///
    /// # Panics
    /// As [`program`].
    pub fn tandem(&self, words: &[&str]) -> Command {
        let mut command = program("tandem");
        command.args(words).current_dir(self.beside(""));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// `tandem stop`, which must end with this code.
    ///
    /// # Panics
    /// If it ends otherwise.
    pub fn stop(&self, code: i32) -> Ended {
        expect_code(self.tandem(&["stop"]).arg(&self.folder), code)
    }

    /// `tandem VERB` with its config and these settings.
    ///
    /// # Panics
    /// As [`program`].
    pub fn command(&self, verb: &str, settings: &[&str]) -> Command {
        let mut command = self.tandem(&[verb]);
        command.arg(&self.config);
        for setting in self.settings.iter().map(String::as_str).chain(settings.iter().copied()) {
            command.args(["--set", setting]);
        }
        command
    }

    /// What happened to the run, oldest first, as far as it is of this name.
    pub fn events(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.join("events.jsonl")).unwrap_or_default();
        // A line may be half written: the last one, or where a launcher was killed.
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.filter(|event| event["event"] == name).collect()
    }

    /// The steps of the events of this name.
    pub fn steps(&self, name: &str) -> Vec<u64> {
        self.events(name).iter().filter_map(|event| event["step"].as_u64()).collect()
    }

    /// Its state.json; null if there is none.
    pub fn state(&self) -> Value {
        state(&self.folder)
    }

    /// Waits until all workers of the newest attempt are there and have trained past `step`.
    ///
    /// # Panics
    /// If that takes more than a few minutes.
    pub fn wait_for_step(&self, step: u64) {
        eventually("the workers train", || {
            let ranks =
                self.events("attempt").pop().map(|event| event["topology"]["ranks"].as_u64());
            self.state()["step"].as_u64() >= Some(step)
                && Some(Some(self.workers().len() as u64)) >= ranks
        });
    }

    /// Waits until this attempt has published the checkpoint of `step` or a later one.
    ///
    /// # Panics
    /// If that attempt fails before, or if it takes more than a few minutes.
    pub fn wait_for_checkpoint(&self, attempt: u64, step: u64) {
        let is_published = || {
            let published = self.events("published");
            published.iter().any(|event| {
                event["attempt"] == attempt && event["step"].as_u64().is_some_and(|s| s >= step)
            })
        };
        let has_failed = || self.events("failure").iter().any(|event| event["attempt"] == attempt);
        eventually("a checkpoint is published", || {
            let published = is_published();
            assert!(published || !has_failed(), "attempt {attempt}: {:#?}", self.events("failure"));
            published
        });
    }

    /// The step of the newest checkpoint, damaged or not.
    ///
    /// # Panics
    /// If there is none.
    pub fn newest(&self) -> u64 {
        self.checkpoints().pop().expect("a checkpoint")
    }

    /// The steps of all checkpoints, oldest first.
    pub fn checkpoints(&self) -> Vec<u64> {
        let entries = std::fs::read_dir(self.folder.join("checkpoints")).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let step = |name: String| name.strip_prefix("step-")?.parse().ok();
        let mut steps: Vec<u64> = names.filter_map(step).collect();
        steps.sort_unstable();
        steps
    }

    /// The folder of the checkpoint of `step`.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.folder.join(format!("checkpoints/step-{step:08}"))
    }

    /// The weights of its finished model.
    ///
    /// # Panics
    /// If there are none.
    pub fn exported(&self) -> Vec<u8> {
        std::fs::read(self.folder.join("export/adapters.safetensors")).expect("an export")
    }

    /// The step that a link names.
    pub fn linked(&self, link: &str) -> Option<u64> {
        let target = std::fs::read_link(self.folder.join("checkpoints").join(link)).ok()?;
        target.to_str()?.strip_prefix("step-")?.parse().ok()
    }

    /// Its workers that are alive.
    pub fn workers(&self) -> Vec<u32> {
        processes::of_run("tandem-worker", &self.folder)
    }

    /// What started them, if that is mpirun.
    pub fn engines(&self) -> Vec<u32> {
        processes::of_run("mpirun", &self.folder)
    }

    /// The run's processes besides the launcher: workers, and mpirun.
    pub fn processes(&self) -> Vec<u32> {
        [self.workers(), self.engines()].concat()
    }

    /// # Panics
    /// If a process of the run is left.
    pub fn assert_no_process(&self) {
        let left = self.processes();
        assert!(left.is_empty(), "processes {left:?} of {} are left", self.folder.display());
    }

    /// The process of a rank in an attempt; waits until there is one.
    pub fn rank(&self, attempt: u64, rank: usize) -> u32 {
        let wanted = |pid: &u32| {
            processes::variable(*pid, "TANDEM_ATTEMPT") == Some(attempt)
                && processes::variable(*pid, "OMPI_COMM_WORLD_RANK").unwrap_or(0) == rank as u64
        };
        let mut found = None;
        eventually("the rank is there", || {
            found = self.workers().into_iter().find(wanted);
            found.is_some()
        });
        found.expect("it is there")
    }

    /// All points that TensorBoard's own reader finds: step and value by tag.
    ///
    /// # Panics
    /// If the reader fails.
    pub fn curves(&self) -> BTreeMap<String, Vec<(u64, Value)>> {
        let points = python::read("read_tensorboard.py", self.folder.join("tensorboard"));
        serde_json::from_value(points).expect("points by tag")
    }
}

/// The state.json of a run; null if there is none.
pub fn state(run: &Path) -> Value {
    let text = std::fs::read_to_string(run.join("state.json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

/// Sends a process a signal.
///
/// # Panics
/// If it is not there.
pub fn send(pid: u32, signal: &str) {
    assert!(try_send(pid, signal), "{pid} is not there");
}

/// Sends a process a signal; answers whether it is there.
///
/// # Panics
/// If there is no `kill`.
pub fn try_send(pid: u32, signal: &str) -> bool {
    let mut command = Command::new("kill");
    command.args([&format!("-{signal}"), &pid.to_string()]).stderr(Stdio::null());
    command.status().expect("kill").success()
}

/// How large files of a process may be from now on: as if the disk were full, or had space again.
/// Answers whether it is there.
///
/// # Panics
/// If there is no `prlimit`.
pub fn limit_files(pid: u32, bytes: Option<u64>) -> bool {
    let bytes = bytes.map_or("unlimited".into(), |bytes| bytes.to_string());
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string(), &format!("--fsize={bytes}:unlimited")]);
    command.stderr(Stdio::null()).status().expect("prlimit").success()
}

/// Waits until `fact` is true.
///
/// # Panics
/// If it has not become true within a few minutes.
pub fn eventually(what: &str, fact: impl FnMut() -> bool) {
    within(PATIENCE, what, fact);
}

/// Waits until `fact` is true.
///
/// # Panics
/// If it has not become true within `patience`.
pub fn within(patience: Duration, what: &str, mut fact: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !fact() {
        assert!(Instant::now() < deadline, "it never came true that {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
