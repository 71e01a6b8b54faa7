//! The job of Slurm's in which the launcher runs: when it ends, why, and how the run goes on.

mod ending;
pub mod script;

pub use ending::{Ending, Next};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use tandem_cluster::process::say;
use tandem_cluster::run_folder::RunFolder;
use tandem_cluster::slurm::{Cause, Job, Output, Record};
use tandem_config::cluster::{Continuation, Slurm};

use crate::coordinator::journal::{Stage, State, Status, now, read_state};
use crate::exit::Exit;
use crate::interrupts::Interrupts;
use crate::takeover::Before;

/// How often signals are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How often Slurm is asked for the job's end, which may be moved.
const ASK: Duration = Duration::from_secs(15);
/// How long the first task of a step may take to take the run folder's lock.
const FIRST_TASK: Duration = Duration::from_secs(60);
/// For so long the lock may be free between two holders.
const BETWEEN_HOLDERS: Duration = Duration::from_secs(5);

/// Watches the job; the run stops in time, and goes on in another job.
pub struct Watch {
    job: Job,
    interrupts: Interrupts,
    closed: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Watch {
    /// Starts to watch the job in which this process runs; none outside of Slurm.
    pub fn start(run: &RunFolder, settings: &Slurm, interrupts: &Interrupts) -> Option<Self> {
        let job = Job::this()?;
        let closed = Arc::new(AtomicBool::new(false));
        let watcher = Watcher {
            job: job.clone(),
            restarts: Job::restarts(),
            run: run.clone(),
            settings: settings.clone(),
            interrupts: interrupts.clone(),
            closed: Arc::clone(&closed),
        };
        watcher.forget_the_superfluous();
        let thread = thread::Builder::new().name("slurm".into()).spawn(move || watcher.run());
        match thread {
            Ok(thread) => Some(Self { job, interrupts: interrupts.clone(), closed, thread }),
            Err(error) => {
                say(format_args!("warning: the job's end is not watched: {error}"));
                None
            }
        }
    }

    /// Does what is left to do when the run has ended: a run that is done, or cannot go on, needs
    /// no further job.
    pub fn finish(self, exit: Exit) {
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
}

impl Watcher {
    /// Waits for the job's end, or for a signal that tells of it.
    fn run(&self) {
        let margin = Duration::from_secs_f64(self.settings.margin);
        let mut asked: Option<Instant> = None;
        let mut end: Option<SystemTime> = None;
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
            if asked.is_none_or(|asked| asked.elapsed() > ASK) {
                let is_first = asked.replace(Instant::now()).is_none();
                match self.job.record() {
                    // With a GraceTime its signals do not reach the batch script before it is over.
                    Ok(record) if record.preempted => return self.begin(Some(Cause::Preemption)),
                    Ok(record) => {
                        end = record.end;
                        output.get_or_insert(record.output);
                    }
                    Err(error) if is_first => say(format_args!(
                        "warning: Slurm does not say when job {} ends: {error}",
                        self.job.id
                    )),
                    // The last answer holds until there is another one.
                    Err(_) => {}
                }
            }
            let left = end.map(|end| end.duration_since(SystemTime::now()).unwrap_or_default());
            if left.is_some_and(|left| left <= margin) {
                return self.begin(Some(Cause::TimeLimit));
            }
            thread::sleep(LOOK);
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

    /// Why there was a warning: `sbatch --signal` tells of the time limit, Slurm itself of
    /// preemption.
    fn warned(&self) -> Cause {
        match self.job.record() {
            Ok(Record { preempted: true, .. }) => Cause::Preemption,
            _ => Cause::TimeLimit,
        }
    }

    /// The job is about to end: says so, sees to it that the run goes on, asks it to stop.
    fn begin(&self, cause: Option<Cause>) {
        let latest = self.run.store().newest().ok().flatten();
        let next = cause
            .map_or(Next::Nothing { reason: "Slurm does not say why".into() }, |cause| {
                self.next(cause, latest)
            });
        let job = self.job.id.clone();
        let ending = Ending { job, restarts: self.restarts, cause, next, latest, time: now() };
        say(format_args!("{ending}"));
        self.interrupts.end(ending);
    }

    fn next(&self, cause: Cause, latest: Option<u64>) -> Next {
        let nothing = |reason: &str| Next::Nothing { reason: reason.into() };
        if cause == Cause::Cancel {
            return nothing("it was cancelled");
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
        let state = read_state(&self.run).unwrap_or_default();
        if is_fruitless(&state, latest) {
            return nothing("the job before it brought no checkpoint, either");
        }
        if self.settings.continuation == Continuation::Requeue && record.may_requeue {
            return Next::Requeue;
        }
        match self.job.chain(&record, &self.run.job_script()) {
            Ok(job) => Next::Chained { job },
            Err(error) => nothing(&error.to_string()),
        }
    }

    /// A job that was to follow an earlier start of this one has nothing to do: Slurm started this
    /// one again.
    fn forget_the_superfluous(&self) {
        let state = read_state(&self.run).unwrap_or_default();
        let Some(last) = state.job_endings.last() else { return };
        if let Next::Chained { job } = &last.next
            && last.job == self.job.id
            && let Err(error) = (Job { id: job.clone() }).cancel()
        {
            say(format_args!("warning: {error}"));
        }
    }
}

/// How an earlier start of this job ended, if its launcher could not say, or did not know: its node was
/// lost.
pub fn ending_without_words(state: &State, before: Before) -> Option<Ending> {
    let (job, restarts) = (Job::this()?, Job::restarts().checked_sub(1)?);
    let was_told = |last: &Ending| last.job == job.id && last.restarts == restarts;
    let was_running = state.status == Status::Running || before == Before::CutOff;
    if !was_running || state.job_endings.last().is_some_and(was_told) {
        return None;
    }
    let (cause, next) = (Some(Cause::NodeFailure), Next::BySlurm);
    Some(Ending { job: job.id, restarts, cause, next, latest: state.latest, time: now() })
}

/// Whether two jobs in a row ended without a new checkpoint: a third would, too.
fn is_fruitless(state: &State, latest: Option<u64>) -> bool {
    let last = state.job_endings.last();
    state.stage == Stage::Train
        && last
            .is_some_and(|last| last.latest == latest && !matches!(last.next, Next::Nothing { .. }))
}

/// A task of a step that is not the first one, as with one task for each node: the first one
/// launches, and this one stays until that is done. (Slurm may end a step whose tasks end at
/// different times.)
pub fn follow(run: &RunFolder, interrupts: &Interrupts) -> Exit {
    let started = Instant::now();
    let mut held: Option<Instant> = None;
    loop {
        if run.holder().is_some() {
            held = Some(Instant::now());
        }
        let over = match held {
            Some(held) => held.elapsed() > BETWEEN_HOLDERS,
            None => started.elapsed() > FIRST_TASK,
        };
        if over || interrupts.kill_requested() {
            return Exit::Done;
        }
        thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(latest: Option<u64>, next: Next) -> State {
        let (job, cause) = ("7".into(), Some(Cause::TimeLimit));
        let ending = Ending { job, restarts: 0, cause, next, latest, time: 0.0 };
        State { job_endings: vec![ending], ..State::default() }
    }

    #[test]
    fn a_second_job_without_a_checkpoint_is_the_last() {
        let chained = || Next::Chained { job: "8".into() };
        assert!(!is_fruitless(&State::default(), None), "the first job");
        assert!(is_fruitless(&state(None, chained()), None));
        assert!(is_fruitless(&state(Some(50), Next::Requeue), Some(50)));
        assert!(!is_fruitless(&state(Some(50), chained()), Some(60)), "there is progress");
        let by_hand = Next::Nothing { reason: "never".into() };
        assert!(!is_fruitless(&state(Some(50), by_hand), Some(50)), "somebody launched it again");
        let teaching = State { stage: Stage::Data, ..state(None, chained()) };
        assert!(!is_fruitless(&teaching, None), "a teacher's work is in no checkpoint");
    }
}
