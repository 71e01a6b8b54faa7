//! The Slurm job in which the launcher runs: when it ends, why, and what resumes the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tandem_cluster::process::say;
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::slurm::{Cause, Clock, Job, Output, Record, UNKNOWN_JOB};
use tandem_config::schema::cluster::{Continuation, Slurm};

use crate::journal::ending::{Ending, Next};
use crate::journal::{Journal, Stage, State, Status, now, read_state};
use crate::slurm::takeover::Before;
use crate::terminal::exit::{Exit, Refused};
use crate::terminal::interrupts::Interrupts;

/// How often signals are polled.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How often Slurm is asked for the end time of the job, which may change.
const SLURM_POLL_INTERVAL: Duration = Duration::from_secs(15);
/// After two jobs in a row with fewer steps than this, no third one is submitted.
const FEW_STEPS: u64 = 10;
/// How long the first task of a step may take to lock the run folder.
const FIRST_TASK_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the lock may be free between two holders.
const BETWEEN_HOLDERS: Duration = Duration::from_secs(5);

/// Watches the job, so that the run stops in time and another job resumes it.
pub(crate) struct Watch {
    job: Job,
    interrupts: Interrupts,
    closed: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Watch {
    /// Starts to watch the job in which this process runs; none outside Slurm.
    ///
    /// # Errors
    /// The job is so short that the run would stop before its first step.
    pub(crate) fn start(
        run: &RunFolder,
        settings: &Slurm,
        interrupts: &Interrupts,
    ) -> Result<Option<Self>, Refused> {
        let Some(job) = Job::this() else { return Ok(None) };
        let record = match job.record() {
            // The variables are left over from an earlier job.
            Ok(record) if record.is_over() => return Ok(None),
            Err(error) if error.to_string().contains(UNKNOWN_JOB) => return Ok(None),
            Ok(record) => Some(record),
            Err(error) => {
                let id = &job.id;
                say(format_args!("warning: Slurm does not say when job {id} ends: {error}"));
                None
            }
        };
        if let Some(record) = &record {
            if let Some(limit) = record.time_limit {
                let whose = format!("the time limit of job {}", job.id);
                if let Some(warning) = check_margin(settings, &whose, limit)? {
                    say(format_args!("warning: {warning}"));
                }
            }
            let chains = settings.continuation == Continuation::Chain && record.is_batch;
            if let Some(reason) = record.unchained.as_ref().filter(|_| chains) {
                let id = &job.id;
                say(format_args!("warning: no job will resume the run after job {id}: {reason}"));
            }
        }
        let before = read_state(run).unwrap_or_default();
        let closed = Arc::new(AtomicBool::new(false));
        let watcher = Watcher {
            job: job.clone(),
            restarts: Job::restarts(),
            run: run.clone(),
            settings: settings.clone(),
            interrupts: interrupts.clone(),
            closed: Arc::clone(&closed),
            clock: Clock::of_controller(),
            began: (before.attempt, run.store().newest().ok().flatten().unwrap_or(0)),
        };
        watcher.forget_the_superfluous(&before);
        let thread = thread::Builder::new().name("slurm".into()).spawn(move || watcher.run(record));
        Ok(match thread {
            Ok(thread) => Some(Self { job, interrupts: interrupts.clone(), closed, thread }),
            Err(error) => {
                say(format_args!("warning: the job's end is not watched: {error}"));
                None
            }
        })
    }

    /// Cleans up when the run has ended: a run that is finished, or that cannot be resumed, needs no
    /// further job.
    pub(crate) fn finish(self, exit: Exit) {
        self.closed.store(true, Ordering::SeqCst);
        // A thread that panics has ended the process.
        let _ = self.thread.join();
        let Some(ending) = self.interrupts.ending() else { return };
        let goes_on = !matches!(exit, Exit::Done | Exit::Usage | Exit::DoNotRetry);
        let done = match ending.next {
            Next::Chained { job } if !goes_on => Job { id: job }.cancel(),
            Next::Requeue if goes_on => self.job.requeue(),
            _ => Ok(()),
        };
        if let Err(error) = done {
            say(format_args!("warning: {error}"));
        }
    }
}

/// What the watching thread knows.
struct Watcher {
    job: Job,
    restarts: u64,
    run: RunFolder,
    settings: Slurm,
    interrupts: Interrupts,
    closed: Arc<AtomicBool>,
    clock: Clock,
    /// The attempt before the first one of this job, and the step from which that one resumes.
    began: (u64, u64),
}

impl Watcher {
    /// Waits for the end of the job, or for a signal that announces it; `record` is what Slurm has
    /// reported so far.
    fn run(&self, mut record: Option<Record>) {
        let margin = Duration::from_secs_f64(self.settings.margin);
        let mut asked = Instant::now();
        let mut end: Option<u64> = None;
        let mut output: Option<Output> = None;
        while !self.closed.load(Ordering::SeqCst) {
            if self.interrupts.was_terminated() {
                return self.begin(self.cause(&output.unwrap_or_default()));
            }
            if self.interrupts.was_warned() {
                return self.begin(Some(self.warned()));
            }
            if self.interrupts.stop_requested() {
                return;
            }
            if asked.elapsed() > SLURM_POLL_INTERVAL {
                asked = Instant::now();
                // The last answer is valid until there is another one.
                record = self.job.record().ok();
            }
            if let Some(record) = record.take() {
                // With a GraceTime its signals do not reach the batch script before it is over.
                if record.preempted {
                    return self.begin(Some(Cause::Preemption));
                }
                end = record.end;
                output.get_or_insert(record.output);
            }
            if end.is_some_and(|end| self.clock.until(end) <= margin) {
                return self.begin(Some(Cause::TimeLimit));
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    fn cause(&self, output: &Output) -> Option<Cause> {
        match self.job.cause(self.restarts, output) {
            Ok(cause) => Some(cause),
            Err(error) => {
                let id = &self.job.id;
                say(format_args!("warning: Slurm does not say why job {id} ends: {error}"));
                None
            }
        }
    }

    /// Why there was a warning: `sbatch --signal` announces the time limit, Slurm itself
    /// preemption.
    fn warned(&self) -> Cause {
        match self.job.record() {
            Ok(Record { preempted: true, .. }) => Cause::Preemption,
            _ => Cause::TimeLimit,
        }
    }

    /// The job is about to end: reports it, arranges for the run to be resumed, and asks it to stop.
    fn begin(&self, cause: Option<Cause>) {
        let latest = self.run.store().newest().ok().flatten();
        let state = read_state(&self.run).unwrap_or_default();
        let (attempt, from) = self.began;
        let is_from_before = state.attempt == attempt;
        let steps = if is_from_before { 0 } else { state.step.saturating_sub(from) };
        let next = match cause {
            Some(cause) => self.next(cause, &state, latest, steps),
            None => Next::Nothing { reason: "Slurm does not say why".into() },
        };
        let (job, restarts, steps) = (self.job.id.clone(), self.restarts, Some(steps));
        let ending = Ending { job, restarts, cause, next, latest, steps, time: now() };
        say(format_args!("{ending}"));
        self.interrupts.end(ending);
    }

    fn next(&self, cause: Cause, state: &State, latest: Option<u64>, steps: u64) -> Next {
        let nothing = |reason: &str| Next::Nothing { reason: reason.into() };
        match cause {
            Cause::Cancel => return nothing("it was cancelled"),
            Cause::Signal => return nothing("somebody stopped the launcher"),
            _ => {}
        }
        let record = match self.job.record() {
            Ok(record) => record,
            Err(error) => return nothing(&error.to_string()),
        };
        if cause == Cause::Requeue || record.restarts > self.restarts {
            return Next::BySlurm;
        }
        if self.settings.continuation == Continuation::Never {
            return nothing("cluster.slurm.continue is never");
        }
        if !record.is_batch {
            return nothing("it has no batch script");
        }
        if let Some(reason) = fruitless(state, latest, steps) {
            return Next::Nothing { reason };
        }
        if self.settings.continuation == Continuation::Requeue {
            return match record.may_requeue {
                true => Next::Requeue,
                false => nothing(
                    "cluster.slurm.continue is requeue, but the job may not be requeued; submit it \
                     with --requeue",
                ),
            };
        }
        match self.job.chain(&record, &self.run.job_script()) {
            Ok(job) => Next::Chained { job },
            Err(error) => nothing(&error.to_string()),
        }
    }

    /// A job that was to follow an earlier start of this one has nothing to do: Slurm started this
    /// one again.
    fn forget_the_superfluous(&self, state: &State) {
        let Some(last) = state.job_endings.last() else { return };
        if let Next::Chained { job } = &last.next
            && last.job == self.job.id
            && let Err(error) = (Job { id: job.clone() }).cancel()
        {
            say(format_args!("warning: {error}"));
        }
    }
}

/// The number of the job that waits in the queue to resume a run.
///
/// # Errors
/// Slurm does not say whether the job waits; the error names the job.
pub(crate) fn waiting(state: &State) -> Result<Option<String>, Refused> {
    let is_over = matches!(state.status, Status::Done | Status::Failed);
    let Some(last) = state.job_endings.last().filter(|_| !is_over) else { return Ok(None) };
    let id = match &last.next {
        Next::Chained { job } => job,
        Next::Requeue | Next::BySlurm => &last.job,
        Next::Nothing { .. } => return Ok(None),
    };
    let record = match (Job { id: id.clone() }).record() {
        Ok(record) => record,
        Err(error) if error.to_string().contains(UNKNOWN_JOB) => return Ok(None),
        Err(error) => {
            return Err(Refused(format!("Slurm does not say whether job {id} waits: {error}")));
        }
    };
    // The start that ended may not be back in the queue yet.
    let is_last_start = *id == last.job && record.restarts == last.restarts;
    let waits = match record.state.as_str() {
        "PENDING" | "CONFIGURING" | "REQUEUED" => true,
        "RUNNING" | "COMPLETING" => is_last_start,
        _ => false,
    };
    Ok(waits.then(|| id.clone()))
}

/// Cancels the job that waits to resume a run, and returns its number.
///
/// # Errors
/// Slurm does not say whether there is one, or does not cancel it.
pub(crate) fn cancel_waiting(run: &RunFolder) -> Result<Option<String>, Refused> {
    let Some(id) = waiting(&read_state(run).unwrap_or_default())? else { return Ok(None) };
    let cancelled = (Job { id: id.clone() }).cancel();
    cancelled.map_err(|error| Refused(format!("job {id} is not cancelled: {error}")))?;
    // Where it has started just now, its launcher writes the state.
    if let Ok(_lock) = run.lock()
        && let Ok(mut journal) = Journal::open(run.clone())
    {
        if let Some(last) = journal.state.job_endings.last_mut() {
            last.next = Next::Nothing { reason: format!("`tandem stop` cancelled job {id}") };
        }
        journal.state.status = Status::Stopped;
        journal.event("cancelled", serde_json::json!({ "job": id }));
        journal.save();
    }
    Ok(Some(id))
}

/// How an earlier start of this job ended, if its launcher could not report it because its node was
/// lost.
pub(crate) fn ending_without_words(state: &State, before: Before) -> Option<Ending> {
    let (job, restarts) = (Job::this()?, Job::restarts().checked_sub(1)?);
    let was_told = |last: &Ending| last.job == job.id && last.restarts == restarts;
    let was_running = state.status == Status::Running || before == Before::CutOff;
    if !was_running || state.job_endings.last().is_some_and(was_told) {
        return None;
    }
    let (cause, next) = (Some(Cause::NodeFailure), Next::BySlurm);
    let (latest, steps) = (state.latest, None);
    Some(Ending { job: job.id, restarts, cause, next, latest, steps, time: now() })
}

/// Why a third job would be useless after two in a row, of which this one has made so many steps.
fn fruitless(state: &State, latest: Option<u64>, steps: u64) -> Option<String> {
    let last = state.job_endings.last()?;
    if state.stage != Stage::Train || matches!(last.next, Next::Nothing { .. }) {
        return None;
    }
    if last.latest == latest {
        return Some("the job before it brought no checkpoint, either".into());
    }
    let before = last.steps.filter(|before| (*before).max(steps) < FEW_STEPS)?;
    Some(format!(
        "it made {steps} steps, and the job before it {before}: ask for more time, or lower \
         cluster.slurm.margin"
    ))
}

/// What is to be said of a job of which more than half is margin: many short ones would make the run.
/// `whose` says what the time is.
///
/// # Errors
/// All of it is margin: the run would stop before its first step.
pub(crate) fn check_margin(
    settings: &Slurm,
    whose: &str,
    time: Duration,
) -> Result<Option<String>, Refused> {
    let (margin, seconds) = (settings.margin, time.as_secs_f64());
    if margin >= seconds {
        return Err(Refused(format!(
            "cluster.slurm.margin is {margin} s, but {whose} is {seconds} s: the run would stop before \
             its first step; ask for more time, or lower cluster.slurm.margin"
        )));
    }
    let words = || {
        let left = seconds - margin;
        format!(
            "cluster.slurm.margin is {margin} s, and {whose} is {seconds} s: a job trains for {left} s at \
             most, and then another one has to wait in the queue; ask for more time, or lower \
             cluster.slurm.margin to what a checkpoint takes"
        )
    };
    Ok((margin > seconds / 2.0).then(words))
}

/// A task of a step that is not the first one, as with one task for each node: the first one
/// launches, and this one stays until that is done. (Slurm may end a step whose tasks end at
/// different times.)
pub(crate) fn follow(run: &RunFolder, interrupts: &Interrupts) -> Exit {
    let started = Instant::now();
    let mut held: Option<Instant> = None;
    loop {
        if run.holder().is_some() {
            held = Some(Instant::now());
        }
        let over = match held {
            Some(held) => held.elapsed() > BETWEEN_HOLDERS,
            None => started.elapsed() > FIRST_TASK_TIMEOUT,
        };
        if over || interrupts.kill_requested() {
            return Exit::Done;
        }
        thread::sleep(POLL_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(latest: Option<u64>, steps: Option<u64>, next: Next) -> State {
        let (job, cause) = ("7".into(), Some(Cause::TimeLimit));
        let ending = Ending { job, restarts: 0, cause, next, latest, steps, time: 0.0 };
        State { job_endings: vec![ending], ..State::default() }
    }

    #[test]
    fn a_second_job_without_a_checkpoint_is_the_last() {
        let chained = || Next::Chained { job: "8".into() };
        let is_fruitless = |state: &State, latest| fruitless(state, latest, 50).is_some();
        assert!(!is_fruitless(&State::default(), None), "the first job");
        assert!(is_fruitless(&state(None, None, chained()), None));
        assert!(is_fruitless(&state(Some(50), None, Next::Requeue), Some(50)));
        assert!(!is_fruitless(&state(Some(50), None, chained()), Some(60)), "there is progress");
        let by_hand = Next::Nothing { reason: "never".into() };
        let by_hand = state(Some(50), None, by_hand);
        assert!(!is_fruitless(&by_hand, Some(50)), "somebody launched it again");
        let teaching = State { stage: Stage::Data, ..state(None, None, chained()) };
        assert!(!is_fruitless(&teaching, None), "a teacher's work is in no checkpoint");
    }

    #[test]
    fn a_second_job_of_a_few_steps_is_the_last_whatever_its_checkpoint() {
        let after = |before, steps| {
            let chained = Next::Chained { job: "8".into() };
            fruitless(&state(Some(1), before, chained), Some(2), steps)
        };
        let reason = after(Some(1), 0).unwrap();
        assert!(reason.contains("made 0 steps, and the job before it 1"), "{reason}");
        assert!(reason.contains("cluster.slurm.margin"), "{reason}");
        assert_eq!(after(Some(1), FEW_STEPS), None);
        assert_eq!(after(Some(FEW_STEPS), 0), None);
        assert_eq!(after(None, 0), None, "it is not known of the job before");
    }

    #[test]
    fn a_job_is_longer_than_its_margin() {
        let settings = Slurm { margin: 120.0, ..Slurm::default() };
        let check = |seconds| check_margin(&settings, "--time", Duration::from_secs(seconds));
        assert_eq!(check(240).unwrap(), None);
        let warning = check(239).unwrap().unwrap();
        let words = "margin is 120 s, and --time is 239 s: a job trains for 119 s at most";
        assert!(warning.contains(words), "{warning}");
        let error = check(120).unwrap_err().to_string();
        assert!(error.starts_with("cluster.slurm.margin is 120 s, but --time is 120 s"), "{error}");
    }
}
