//! What Slurm says of the job in which the launcher runs, and what it is asked to do with it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::ask;

/// Names the job that a chained one follows.
const CHAINED_VARIABLE: &str = "TANDEM_CHAINED_AFTER";

/// Why Slurm ends a job before it has ended itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Its time is up, or will be soon.
    TimeLimit,
    /// Another job took its nodes.
    Preemption,
    /// One of its nodes is gone.
    NodeFailure,
    /// Somebody put it back into the queue.
    Requeue,
    /// Somebody cancelled it.
    Cancel,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TimeLimit => "its time limit",
            Self::Preemption => "preemption",
            Self::NodeFailure => "the failure of a node",
            Self::Requeue => "scontrol requeue",
            Self::Cancel => "scancel",
        })
    }
}

/// A job, by its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its number; an array's elements have numbers of their own.
    pub id: String,
}

/// What the controller knows of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Its state, such as RUNNING.
    pub state: String,
    /// Why it is in this state.
    pub reason: String,
    /// When its time is up.
    pub end: Option<SystemTime>,
    /// Whether another job has taken its nodes.
    pub preempted: bool,
    /// How often it has been started again.
    pub restarts: u64,
    /// Whether Slurm may start it again.
    pub may_requeue: bool,
    /// Whether it has a batch script.
    pub is_batch: bool,
    /// Its nodes.
    pub nodes: String,
    /// What its batch script prints, and Slurm's own words.
    pub output: Output,
    /// What was asked for, as options of sbatch.
    pub options: Vec<String>,
}

/// The file that takes a job's standard error, and how long it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    path: PathBuf,
    length: u64,
}

impl Output {
    fn find(path: &str) -> Self {
        let length = std::fs::metadata(path).map_or(0, |found| found.len());
        Self { path: path.into(), length }
    }

    /// What has come since.
    fn news(&self) -> String {
        let mut bytes = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.length))?;
            file.read_to_end(&mut bytes)
        });
        read.map(|_| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

impl Job {
    /// The job in which this process runs.
    pub fn this() -> Option<Self> {
        std::env::var("SLURM_JOB_ID").ok().map(|id| Self { id })
    }

    /// How often Slurm has started this job again, as its own variable says.
    pub fn restarts() -> u64 {
        let count = std::env::var("SLURM_RESTART_COUNT").ok();
        count.and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    /// What the controller knows of it.
    ///
    /// # Errors
    /// It does not answer, or does not know the job.
    pub fn record(&self) -> io::Result<Record> {
        // Seconds since 1970, whatever the time zone.
        let mut command = Command::new("scontrol");
        command.args(["show", "job", "--oneliner", &self.id]).env("SLURM_TIME_FORMAT", "%s");
        Ok(Record::read(&ask(&mut command)?))
    }

    /// Why Slurm asks this process to end. `restarts` is what the job's own variable said, and
    /// `output` what its output was before.
    ///
    /// # Errors
    /// The controller does not answer.
    pub fn cause(&self, restarts: u64, output: &Output) -> io::Result<Cause> {
        if let Some(cause) = last_words(&self.id, &output.news()) {
            return Ok(cause);
        }
        let record = self.record()?;
        let nodes = || {
            let mut command = Command::new("sinfo");
            command.args(["--noheader", "--Node", "--format=%T", "--nodes", &record.nodes]);
            ask(&mut command).unwrap_or_default()
        };
        Ok(record.cause(restarts, nodes))
    }

    /// Has another job with the same batch script start when this one has ended; its number. What
    /// sbatch's command line asked for besides the script is asked for again.
    ///
    /// # Errors
    /// There is no batch script, or Slurm refuses.
    pub fn chain(&self, record: &Record, script: &Path) -> io::Result<String> {
        let to_file = ["write", "batch_script", &self.id];
        ask(Command::new("scontrol").args(to_file).arg(script))?;
        let mut command = Command::new("sbatch");
        command.args(["--parsable", "--open-mode=append"]).args(&record.options);
        command.arg(format!("--dependency=afterany:{}", self.id));
        if let Ok(element) = std::env::var("SLURM_ARRAY_TASK_ID") {
            command.arg(format!("--array={element}"));
        }
        // What this job's variables say is true of this job alone.
        without_job(&mut command);
        command.env(CHAINED_VARIABLE, &self.id).arg(script);
        let answer = ask(&mut command)?;
        // `number;cluster` where there are several clusters.
        Ok(answer.trim().split(';').next().unwrap_or_default().to_owned())
    }

    /// Puts this job back into the queue, which ends this process.
    ///
    /// # Errors
    /// Slurm refuses.
    pub fn requeue(&self) -> io::Result<()> {
        ask(Command::new("scontrol").args(["requeue", &self.id])).map(drop)
    }

    /// Takes it out of the queue.
    ///
    /// # Errors
    /// Slurm refuses.
    pub fn cancel(&self) -> io::Result<()> {
        ask(Command::new("scancel").arg(&self.id)).map(drop)
    }

    /// Whether this job goes on with what another one or an earlier start of it has begun.
    pub fn continues() -> bool {
        Self::restarts() > 0 || std::env::var_os(CHAINED_VARIABLE).is_some()
    }
}

/// Keeps what Slurm says of this job from programs for which it is not meant: it would take the
/// place of their own options.
pub(crate) fn without_job(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let is_of_job = name.starts_with("SLURM_") || name.starts_with("SRUN_");
        if is_of_job && name != "SLURM_CONF" {
            command.env_remove(&*name);
        }
    }
}

/// What Slurm's daemon on the first node writes into a job's output before it ends the job. Of
/// preemption nothing else tells that can be told from `scontrol requeue`.
fn last_words(job: &str, output: &str) -> Option<Cause> {
    let about = format!("*** JOB {job} ON ");
    let line = output.lines().rev().find(|line| line.contains(&about))?;
    let cause = line.split_once(" DUE TO ")?.1;
    let known = [
        ("TIME LIMIT", Cause::TimeLimit),
        ("PREEMPTION", Cause::Preemption),
        ("NODE", Cause::NodeFailure),
        ("JOB REQUEUE", Cause::Requeue),
    ];
    known.into_iter().find(|(word, _)| cause.starts_with(word)).map(|(_, cause)| cause)
}

/// What a job asked for, by its record.
fn options<'a>(field: impl Fn(&str) -> &'a str) -> Vec<String> {
    let mut options = Vec::new();
    let mut add = |name: &str, value: &str| {
        if !matches!(value, "" | "0" | "(null)" | "UNLIMITED") {
            options.push(format!("--{name}={value}"));
        }
    };
    for (name, key) in [
        ("partition", "Partition"),
        ("account", "Account"),
        ("qos", "QOS"),
        ("time", "TimeLimit"),
        ("nodes", "NumNodes"),
        ("ntasks", "NumTasks"),
        ("cpus-per-task", "CPUs/Task"),
        ("mem", "MinMemoryNode"),
        ("mem-per-cpu", "MinMemoryCPU"),
    ] {
        add(name, field(key));
    }
    let per_node = field("NtasksPerN:B:S:C").split(':').next().unwrap_or_default();
    add("ntasks-per-node", per_node);
    add("gres", field("TresPerNode").trim_start_matches("gres:"));
    add("gpus-per-task", field("TresPerTask").trim_start_matches("gres:gpu:"));
    add("gpus", field("TresPerJob").trim_start_matches("gres:gpu:"));
    for (name, key) in [("output", "StdOut"), ("error", "StdErr")] {
        let id = field("JobId");
        // A name of this job's own becomes one of the next job's.
        add(name, &field(key).replace(&format!("-{id}."), "-%j."));
    }
    if field("OverSubscribe") == "NO" {
        options.push("--exclusive".into());
    }
    options
}

impl Record {
    fn read(line: &str) -> Self {
        let field = |name: &str| {
            let mut fields = line.split(' ').filter_map(|field| field.split_once('='));
            fields.find(|(key, _)| *key == name).map(|(_, value)| value).unwrap_or_default()
        };
        let time = |name: &str| {
            let seconds: u64 = field(name).parse().ok()?;
            Some(UNIX_EPOCH + Duration::from_secs(seconds))
        };
        Self {
            state: field("JobState").into(),
            reason: field("Reason").into(),
            end: time("EndTime").filter(|_| field("TimeLimit") != "UNLIMITED"),
            preempted: !matches!(field("PreemptTime"), "" | "None"),
            restarts: field("Restarts").parse().unwrap_or(0),
            may_requeue: field("Requeue") == "1",
            is_batch: field("BatchFlag") == "1",
            nodes: field("NodeList").into(),
            output: Output::find(field("StdErr")),
            options: options(field),
        }
    }

    /// Why the job is being ended; `nodes` answers the state of each of its nodes. scancel leaves
    /// no trace of its own.
    fn cause(&self, restarts: u64, nodes: impl FnOnce() -> String) -> Cause {
        let is_down = |state: &str| state.trim().starts_with("down");
        if self.preempted {
            Cause::Preemption
        } else if self.reason == "TimeLimit" || self.state == "TIMEOUT" {
            Cause::TimeLimit
        } else if self.state == "NODE_FAIL" || nodes().lines().any(is_down) {
            Cause::NodeFailure
        } else if self.restarts > restarts {
            Cause::Requeue
        } else {
            Cause::Cancel
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: &str = "JobId=7 JobName=a b JobState=RUNNING Reason=None Requeue=1 Restarts=0 \
                           BatchFlag=1 TimeLimit=01:00:00 EndTime=1700003600 PreemptTime=None \
                           NodeList=n[1-2] Command=/x y";

    #[test]
    fn a_record_is_read() {
        let record = Record::read(RUNNING);
        assert!(record.may_requeue && record.is_batch && !record.preempted);
        assert_eq!((record.restarts, record.nodes.as_str()), (0, "n[1-2]"));
        assert_eq!(record.end, Some(UNIX_EPOCH + Duration::from_secs(1_700_003_600)));
        let unlimited = RUNNING.replace("TimeLimit=01:00:00", "TimeLimit=UNLIMITED");
        assert_eq!(Record::read(&unlimited).end, None);
    }

    #[test]
    fn the_next_job_is_asked_for_the_same() {
        let asked = |line: &str| Record::read(line).options.join(" ");
        assert_eq!(
            asked(
                "JobId=7 Account=(null) QOS=high TimeLimit=00:05:00 Partition=main NumNodes=2-2 \
                 NumTasks=8 CPUs/Task=1 NtasksPerN:B:S:C=4:0:*:* MinMemoryNode=0 OverSubscribe=OK \
                 StdOut=/tmp/slurm-7.out TresPerNode=gres:gpu:a100:4"
            ),
            "--partition=main --qos=high --time=00:05:00 --nodes=2-2 --ntasks=8 --cpus-per-task=1 \
             --ntasks-per-node=4 --gres=gpu:a100:4 --output=/tmp/slurm-%j.out"
        );
        assert_eq!(
            asked(
                "JobId=7 TimeLimit=UNLIMITED NumNodes=1 NtasksPerN:B:S:C=0:0:*:* \
                 MinMemoryNode=100M OverSubscribe=NO TresPerTask=gres:gpu:1"
            ),
            "--nodes=1 --mem=100M --gpus-per-task=1 --exclusive"
        );
    }

    #[test]
    fn slurm_says_why_in_the_output() {
        let words = |cause: &str| {
            let line = format!("slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT now{cause} ***");
            last_words("7", &format!("step 1\n{line}\nstep 2\n"))
        };
        assert_eq!(words(" DUE TO TIME LIMIT"), Some(Cause::TimeLimit));
        assert_eq!(words(" DUE TO PREEMPTION"), Some(Cause::Preemption));
        assert_eq!(words(" DUE TO NODE FAILURE, SEE SLURMCTLD LOG"), Some(Cause::NodeFailure));
        assert_eq!(words(" DUE TO JOB REQUEUE"), Some(Cause::Requeue));
        assert_eq!(words(""), None);
        assert_eq!(last_words("8", "*** JOB 7 ON n1 CANCELLED AT x DUE TO PREEMPTION ***"), None);
    }

    #[test]
    fn only_new_words_count() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "before\n").unwrap();
        let output = Output::find(&file.path().to_string_lossy());
        assert_eq!(output.news(), "");
        std::fs::write(file.path(), "before\nafter\n").unwrap();
        assert_eq!(output.news(), "after\n");
        assert_eq!(Output::find("/nowhere").news(), "");
    }

    #[test]
    fn causes_are_told_apart() {
        let cause = |from: &str, to: &str, nodes: &str| {
            assert!(from.is_empty() || RUNNING.contains(from));
            Record::read(&RUNNING.replace(from, to)).cause(0, || nodes.into())
        };
        let up = "mixed\nallocated\n";
        assert_eq!(cause("", "", up), Cause::Cancel);
        assert_eq!(cause("Reason=None", "Reason=TimeLimit", up), Cause::TimeLimit);
        assert_eq!(cause("PreemptTime=None", "PreemptTime=1700000000", up), Cause::Preemption);
        assert_eq!(cause("Restarts=0", "Restarts=1", up), Cause::Requeue);
        assert_eq!(cause("Restarts=0", "Restarts=1", "down*\nidle\n"), Cause::NodeFailure);
        assert_eq!(cause("JobState=RUNNING", "JobState=NODE_FAIL", up), Cause::NodeFailure);
    }
}
