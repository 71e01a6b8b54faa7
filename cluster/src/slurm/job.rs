//! The Slurm job in which the launcher runs: what the controller reports about it, and requests to it.

use std::io;
use std::path::Path;
use std::process::Command;

use super::cause::{Cause, Output};
use super::record::Record;
use super::{ask, record};

/// Slurm's error for a job that it no longer knows.
pub const UNKNOWN_JOB: &str = "Invalid job id";
/// Names the job that a chained one follows.
const CHAINED_VARIABLE: &str = "TANDEM_CHAINED_AFTER";

/// A job, by its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its number; an array's elements have numbers of their own.
    pub id: String,
}

impl Job {
    /// The job in which this process runs.
    pub fn this() -> Option<Self> {
        std::env::var("SLURM_JOB_ID").ok().filter(|id| !id.is_empty()).map(|id| Self { id })
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
        command.args(["show", "job", &self.id]).env("SLURM_TIME_FORMAT", "%s");
        Ok(Record::read(&ask(&mut command)?))
    }

    /// Why Slurm asks this process to end. `restarts` is what the job's own variable said, and
    /// `output` what its output was before.
    ///
    /// # Errors
    /// The controller does not answer.
    pub fn cause(&self, restarts: u64, output: &Output) -> io::Result<Cause> {
        if let Some(cause) = cause_in_output(&self.id, &output.news()) {
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
    /// There is no batch script, the job asked for what another one cannot be asked for, or Slurm
    /// refuses.
    pub fn chain(&self, record: &Record, script: &Path) -> io::Result<String> {
        if let Some(reason) = &record.unchained {
            return Err(io::Error::other(reason.clone()));
        }
        // The launcher may not have come as far as making it.
        script.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        let to_file = ["write", "batch_script", &self.id];
        ask(Command::new("scontrol").args(to_file).arg(script))?;
        let mut command = Command::new("sbatch");
        command.args(["--parsable", "--open-mode=append"]).args(&record.options);
        let variable = |name: &str| std::env::var(name).ok();
        command.args(record::options_by_variables(&self.id, CHAINED_VARIABLE, variable));
        // The variables of this job are valid for this job only.
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

    /// Whether this job resumes what another job, or an earlier start of this one, has begun.
    pub fn continues() -> bool {
        Self::restarts() > 0 || std::env::var_os(CHAINED_VARIABLE).is_some()
    }
}

/// Keeps what Slurm says of this job from programs for which it is not meant: it would take the
/// place of their own options.
fn without_job(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let is_of_job = name.starts_with("SLURM_") || name.starts_with("SRUN_");
        if is_of_job && name != "SLURM_CONF" {
            command.env_remove(&*name);
        }
    }
}

/// The same, for a program that belongs to the job: which one that is stays said.
pub(crate) fn with_job_number_alone(command: &mut Command) {
    without_job(command);
    command.envs(Job::this().map(|job| ("SLURM_JOB_ID", job.id)));
}

/// What Slurm's daemon on the first node writes into a job's output before it ends the job. Of
/// preemption nothing else distinguishes it from `scontrol requeue`.
fn cause_in_output(job: &str, output: &str) -> Option<Cause> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slurm_says_why_in_the_output() {
        let words = |cause: &str| {
            let line = format!("slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT now{cause} ***");
            cause_in_output("7", &format!("step 1\n{line}\nstep 2\n"))
        };
        assert_eq!(words(" DUE TO TIME LIMIT"), Some(Cause::TimeLimit));
        assert_eq!(words(" DUE TO PREEMPTION"), Some(Cause::Preemption));
        assert_eq!(words(" DUE TO NODE FAILURE, SEE SLURMCTLD LOG"), Some(Cause::NodeFailure));
        assert_eq!(words(" DUE TO JOB REQUEUE"), Some(Cause::Requeue));
        assert_eq!(words(""), None);
        assert_eq!(
            cause_in_output("8", "*** JOB 7 ON n1 CANCELLED AT x DUE TO PREEMPTION ***"),
            None
        );
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
}
