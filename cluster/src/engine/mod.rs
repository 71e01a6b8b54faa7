//! What starts a group of workers, and ends it.

mod mpirun;
mod solo;
mod srun;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::process;
use crate::topology::{EngineKind, Topology};

/// How long an engine may take to clear up before it is killed.
const CLEAR_UP_DEADLINE: Duration = Duration::from_secs(2);
/// How long the kernel may take to end killed processes.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// How often a process is polled while waiting for its end.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Why workers could not be started.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine's log cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The engine's program cannot be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },
}

/// What every worker of a group runs.
#[derive(Debug, Clone)]
pub struct Job {
    /// The worker program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Environment variables that it gets in addition to the launcher's own.
    pub environment: Vec<(String, String)>,
}

/// The command line that starts a job's workers.
pub fn command_line(topology: &Topology, job: &Job) -> Vec<String> {
    match topology.engine {
        EngineKind::Solo => solo::command_line(job),
        EngineKind::Mpirun => mpirun::command_line(topology, job),
        EngineKind::Srun => srun::command_line(topology, job),
    }
}

/// Starts a job's workers; what the engine prints goes to `log`.
///
/// The workers die with the calling thread, which must live as long as the group.
///
/// # Errors
/// The log cannot be written or the program cannot be started.
pub fn start(topology: &Topology, job: &Job, log: &Path) -> Result<Group, EngineError> {
    let log_error = |source| EngineError::Log { path: log.to_owned(), source };
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).map_err(log_error)?;
    }
    let output = File::create(log).map_err(log_error)?;
    let line = command_line(topology, job);
    let mut command = Command::new(&line[0]);
    match topology.engine {
        EngineKind::Solo => {}
        EngineKind::Mpirun => mpirun::prepare(&mut command, topology),
        EngineKind::Srun => srun::prepare(&mut command),
    }
    command
        .args(&line[1..])
        .envs(job.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(output.try_clone().map_err(log_error)?)
        .stderr(output);
    process::lead_group_until_parent_dies(&mut command);
    let child = command
        .spawn()
        .map_err(|source| EngineError::Start { program: line[0].clone(), source })?;
    Ok(Group { child, engine: topology.engine, ended: None })
}

/// A worker process, known well enough never to kill another by mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pid: u32,
    start_time: u64,
}

impl Process {
    /// The process `pid` of this machine, if it exists.
    pub fn find(pid: u32) -> Option<Self> {
        Some(Self { pid, start_time: process::start_time(pid)? })
    }

    fn is_alive(&self) -> bool {
        process::start_time(self.pid) == Some(self.start_time) && !process::is_zombie(self.pid)
    }
}

/// A group of workers that was started, with the engine that started it.
#[derive(Debug)]
pub struct Group {
    child: Child,
    engine: EngineKind,
    ended: Option<ExitStatus>,
}

impl Group {
    /// How the engine has ended, if it has.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn poll(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }

    /// Ends whatever is left of the group: `workers`, as far as they run on this machine, and the
    /// engine with what it started. Waits until all of it is gone; how the engine has ended.
    pub fn end(&mut self, workers: &[Process]) -> Option<ExitStatus> {
        for worker in workers.iter().filter(|worker| worker.is_alive()) {
            process::kill(worker.pid);
        }
        let leader = self.child.id();
        let polled = self.poll();
        if self.engine != EngineKind::Solo && matches!(polled, Ok(None)) {
            // It cleans up after itself and ends workers that have not connected yet.
            process::terminate(leader);
            self.wait(CLEAR_UP_DEADLINE);
        }
        process::kill_group(leader);
        self.wait(KILL_DEADLINE);
        let deadline = Instant::now() + KILL_DEADLINE;
        while (process::group_exists(leader) || workers.iter().any(Process::is_alive))
            && Instant::now() < deadline
        {
            std::thread::sleep(POLL_INTERVAL);
        }
        self.ended
    }

    /// Waits for the engine's own end.
    pub fn wait(&mut self, longest: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + longest;
        while matches!(self.poll(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(POLL_INTERVAL);
        }
        self.ended
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if matches!(self.poll(), Ok(None)) {
            self.end(&[]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Device, Share};
    use tempfile::TempDir;

    fn topology(ranks: usize, engine: EngineKind) -> Topology {
        let hosts = vec![Share { host: process::host_name(), ranks }];
        Topology { ranks, device: Device::Cpu, workers_per_gpu: 1, threads: 1, engine, hosts }
    }

    fn shell(script: &str) -> Job {
        let arguments = vec!["-c".into(), script.into()];
        let environment = vec![("GREETING".into(), "hello".into())];
        Job { program: "/bin/sh".into(), arguments, environment }
    }

    #[test]
    fn solo_starts_one_process_and_keeps_what_it_says() {
        let folder = TempDir::new().unwrap();
        let log = folder.path().join("logs/engine.log");
        let job = shell("echo $GREETING; echo oops >&2; exit 7");
        let mut group = start(&topology(1, EngineKind::Solo), &job, &log).unwrap();
        let status = group.wait(Duration::from_secs(10)).unwrap();
        assert_eq!(status.code(), Some(7));
        assert_eq!(fs::read_to_string(log).unwrap(), "hello\noops\n");
    }

    #[test]
    fn mpirun_starts_as_many_as_asked_for() {
        let folder = TempDir::new().unwrap();
        let log = folder.path().join("engine.log");
        let job = shell("echo $GREETING $OMPI_COMM_WORLD_RANK of $OMPI_COMM_WORLD_SIZE");
        let mut group = start(&topology(3, EngineKind::Mpirun), &job, &log).unwrap();
        let status = group.wait(Duration::from_secs(60)).unwrap();
        let text = fs::read_to_string(log).unwrap();
        assert!(status.success(), "{text}");
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort();
        assert_eq!(lines, ["hello 0 of 3", "hello 1 of 3", "hello 2 of 3"]);
    }

    #[test]
    fn nothing_is_left_of_an_ended_group() {
        for (ranks, engine) in [(1, EngineKind::Solo), (2, EngineKind::Mpirun)] {
            let folder = TempDir::new().unwrap();
            let log = folder.path().join("engine.log");
            let job = shell("echo $$; trap '' TERM; while true; do sleep 1; done");
            let mut group = start(&topology(ranks, engine), &job, &log).unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            let pids = loop {
                assert!(Instant::now() < deadline, "the workers did not start");
                let text = fs::read_to_string(&log).unwrap();
                let pids: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
                if pids.len() == ranks {
                    break pids;
                }
                std::thread::sleep(POLL_INTERVAL);
            };
            let workers: Vec<Process> = pids.iter().filter_map(|pid| Process::find(*pid)).collect();
            assert_eq!(workers.len(), ranks);
            assert!(group.end(&workers).is_some());
            assert!(!workers.iter().any(Process::is_alive));
        }
    }
}
