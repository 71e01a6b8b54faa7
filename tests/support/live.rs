//! A run while it is launched: its processes, its events, and what it leaves.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::refusal::obey_modes;
use crate::{Tiny, processes, program, python};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// A run over tiny BERTs, launched with the real programs.
pub struct Run {
    tiny: Arc<Tiny>,
    config: PathBuf,
    folder: PathBuf,
    settings: Vec<String>,
}

impl Run {
    /// A run that has not been launched; `settings` are for all its launches.
    pub fn new(tiny: &Arc<Tiny>, name: &str, workers: usize, settings: &[&str]) -> Self {
        Self::of(tiny, tiny.ab_net(name, workers, 0.1), name, settings)
    }

    /// The run `name` of this file, which has not been launched.
    pub fn of(tiny: &Arc<Tiny>, config: PathBuf, name: &str, settings: &[&str]) -> Self {
        let folder = tiny.path(name);
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        Self { tiny: Arc::clone(tiny), config, folder, settings }
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
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let prepare = || {
            // A file that may grow no further is to be an error, as on a full disk, and no signal.
            // SAFETY: async-signal-safe, and the numbers are what it takes.
            unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
            Ok(())
        };
        // SAFETY: `prepare` allocates nothing and takes no lock.
        unsafe { command.pre_exec(prepare) };
        obey_modes(&mut command);
        Launch { child: command.spawn().expect("tandem launch") }
    }

    /// Launches it with these settings besides, and waits for its end, which must have this code.
    ///
    /// # Panics
    /// If it ends otherwise.
    pub fn launch(&self, settings: &[&str], code: i32) -> Ended {
        self.start(settings).wait(code)
    }

    /// `tandem VERB` with its config and these settings.
    pub fn command(&self, verb: &str, settings: &[&str]) -> Command {
        let mut command = program("tandem");
        command.arg(verb).arg(&self.config);
        for setting in self.settings.iter().map(String::as_str).chain(settings.iter().copied()) {
            command.args(["--set", setting]);
        }
        command
    }

    /// What happened to the run, oldest first, as far as it is of this name.
    pub fn events(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.join("events.jsonl")).unwrap_or_default();
        // The last line may be half written.
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.filter(|event| event["event"] == name).collect()
    }

    /// The steps of the events of this name.
    pub fn steps(&self, name: &str) -> Vec<u64> {
        self.events(name).iter().filter_map(|event| event["step"].as_u64()).collect()
    }

    /// Waits until this attempt has published the checkpoint of `step` or a later one.
    ///
    /// # Panics
    /// If another attempt begins before, or if it takes more than a few minutes.
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

    /// The step that a link names.
    pub fn linked(&self, link: &str) -> Option<u64> {
        let target = std::fs::read_link(self.folder.join("checkpoints").join(link)).ok()?;
        target.to_str()?.strip_prefix("step-")?.parse().ok()
    }

    /// The run's processes besides the launcher: workers, and mpirun.
    pub fn processes(&self) -> Vec<u32> {
        let mut found = processes::of_run("tandem-worker", &self.folder);
        found.extend(processes::of_run("mpirun", &self.folder));
        found
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
            let workers = processes::of_run("tandem-worker", &self.folder);
            found = workers.into_iter().find(wanted);
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

/// A launcher that is running.
pub struct Launch {
    child: Child,
}

impl Launch {
    /// Sends the launcher a signal.
    pub fn signal(&self, signal: &str) {
        send(self.child.id(), signal);
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Waits for its end, which must have this code.
    ///
    /// # Panics
    /// If it ends otherwise.
    pub fn wait(self, code: i32) -> Ended {
        self.wait_for_one_of(&[code])
    }

    /// Waits for its end, which must have one of these codes.
    ///
    /// # Panics
    /// If it ends otherwise.
    pub fn wait_for_one_of(self, codes: &[i32]) -> Ended {
        let ended = self.end();
        let expected = ended.code.is_some_and(|code| codes.contains(&code));
        assert!(expected, "{:?}\n{}", ended.code, ended.said);
        ended
    }

    /// Kills it.
    pub fn kill(self) -> Ended {
        self.signal("KILL");
        self.end()
    }

    fn end(self) -> Ended {
        let Output { status, stdout, stderr } = self.child.wait_with_output().expect("an end");
        let said = String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr);
        Ended { code: status.code(), said: said.into_owned() }
    }
}

/// How a launcher ended.
pub struct Ended {
    /// Its exit code; none if it was killed.
    pub code: Option<i32>,
    /// All that it said.
    pub said: String,
}

impl Ended {
    /// # Panics
    /// If it did not say this.
    pub fn assert_said(&self, words: &str) {
        assert!(self.said.contains(words), "`{words}` is not in\n{}", self.said);
    }
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
