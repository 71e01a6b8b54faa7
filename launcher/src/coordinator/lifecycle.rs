//! A run's life: what other runs make for it, attempts at training, then the finished model's
//! average, scores and export.

use std::time::{Duration, Instant};

use serde_json::json;
use tandem_cluster::run::store::Checkpoint;
use tandem_cluster::slurm::Job;
use tandem_config::schema::model::Objective;

use super::dependency;
use super::evaluation::Collector;
use super::finish;
use super::gaps::{self, Gap};
use super::group::End;
use super::restarts::Restarts;
use super::stragglers::Stragglers;
use super::summary;
use super::training::Training;
use super::{Coordinator, Halt};
use crate::journal::ledger::Activity;
use crate::journal::{Attempt, Stage, Status};
use crate::prepare::worker::Work;
use crate::report;
use crate::tensorboard::Writer;
use crate::terminal::exit::Exit;
use tandem_cluster::error::with_causes;

/// How long Slurm may take to say why it ends a job.
const SLURM: Duration = Duration::from_secs(20);

impl Coordinator {
    /// Runs to the end, or as far as it goes.
    ///
    /// # Errors
    /// What is wrong with the launcher's own machine or folder; workers' failures are reported
    /// and become the exit.
    pub(crate) fn run(mut self) -> anyhow::Result<Exit> {
        let activity = match self.journal.state.attempts.is_empty() {
            true => Activity::Start,
            false => Activity::Restart,
        };
        self.journal.state.ledger.open(activity, Instant::now());
        let ended = dependency::provide(&mut self)
            .and_then(|()| self.train())
            .and_then(|()| self.complete());
        let exit = match ended {
            Ok(()) => Exit::Done,
            Err(Halt::Exit(exit)) => exit,
            Err(Halt::Error(error)) => {
                self.close(
                    Status::Failed,
                    "error",
                    json!({ "message": with_causes(error.as_ref()) }),
                );
                return Err(error);
            }
        };
        let status = match exit {
            Exit::Done => Status::Done,
            Exit::Stopped => Status::Stopped,
            _ => Status::Failed,
        };
        self.close(status, "exit", json!({ "code": exit.code() }));
        self.write_report();
        Ok(exit)
    }

    /// Writes the report; a report that cannot be written is only a warning.
    fn write_report(&mut self) {
        if self.journal.state.attempts.is_empty() {
            return;
        }
        let input =
            summary::of(&self.run, &self.config, &self.workers.topology, &self.journal.state);
        match report::write(&self.run, &input) {
            Ok(path) if self.journal.state.status == Status::Done => {
                self.progress.say(&format!("report: {}", path.display()));
            }
            // Why the run ended otherwise has been printed already, and stays the last line.
            Ok(_) => {}
            Err(error) => self.progress.say(&format!("warning: no report was written: {error}")),
        }
    }

    fn close(&mut self, status: Status, event: &str, details: serde_json::Value) {
        // Before anything is written: if the job is killed meanwhile, its next start finds a run that
        // was lost, and says so.
        let patience = if Job::this().is_some() { SLURM } else { Duration::ZERO };
        let ending = self.workers.interrupts.ending_within(patience);
        // It has been heeded, or came too late; there may be none.
        let _ = std::fs::remove_file(self.run.stop_request());
        match status {
            Status::Failed => self.journal.state.ledger.fail(Instant::now()),
            _ => self.journal.state.ledger.save(Instant::now()),
        }
        self.journal.state.status = status;
        if let Some(ending) = ending {
            self.journal.state.add_ending(ending);
        }
        self.journal.event(event, details);
        self.journal.save();
        if let Some(warning) = self.journal.warning() {
            self.progress.say(&format!("warning: {warning}"));
        }
    }

    /// Trains until every checkpoint that the finished model needs is there, in as many attempts as that
    /// takes.
    fn train(&mut self) -> Result<(), Halt> {
        let mut restarts = Restarts::new(self.config.cluster.max_restarts);
        let mut filled = None;
        loop {
            let resume = match self.journal.state.stage {
                Stage::Train => self.resume_point()?,
                Stage::Evaluate => match self.gap(&mut filled)? {
                    Some(gap) => gap.resume,
                    None => return Ok(()),
                },
                Stage::Data | Stage::Finished => return Ok(()),
            };
            let step = resume.as_ref().map(Checkpoint::step);
            let mut writer = Writer::open(&self.run.tensorboard(), step);
            if step.is_none() {
                writer.config(&self.config.to_yaml().unwrap_or_default());
            }
            if self.journal.state.restarts > 0 {
                writer.restarts(step.unwrap_or(0) + 1, self.journal.state.restarts);
            }
            self.journal.state.rewind(step.unwrap_or(0));
            self.journal.state.steps = self.config.training.steps;
            self.progress.restart();
            let attempt = self.begin_attempt("train")?;
            let work = Work::Train {
                resume: resume.map(|found| found.folder().to_owned()),
                evaluate_first: step.is_some_and(|step| self.lacks_evaluation(step)),
            };
            let mut training = Training {
                run: &self.run,
                config: &self.config,
                attempt,
                ranks: self.workers.topology.ranks,
                journal: &mut self.journal,
                writer: &mut writer,
                progress: &mut self.progress,
                restarts: &mut restarts,
                collector: Collector::default(),
                stragglers: Stragglers::new(self.workers.topology.ranks),
                started: None,
                saved: step.unwrap_or(0),
            };
            let ended = self.workers.run(&self.run, attempt, &work, &mut training);
            let seconds = training.started.map_or(0.0, |started| started.elapsed().as_secs_f64());
            writer.flush();
            self.journal.state.training_seconds += seconds;
            let (from, to) = (step.unwrap_or(0), self.journal.state.step);
            let end = match &ended {
                Ok(End::Done) => "finished".to_owned(),
                Ok(End::Stopped) => "stopped with a checkpoint".to_owned(),
                Ok(End::StopOverdue) => "killed when it did not stop in time".to_owned(),
                Ok(End::Interrupted) => "killed by a second Ctrl-C".to_owned(),
                Ok(End::Failed(failure)) => failure.headline(),
                Err(error) => error.to_string(),
            };
            self.journal.state.attempts.push(Attempt { from, to, end });
            if self.handle(ended, &mut restarts)? {
                self.journal.state.stage = Stage::Evaluate;
                self.journal.state.ledger.save(Instant::now());
                self.journal.save();
            }
        }
    }

    /// Whether there is a checkpoint to resume from, or one that was damaged.
    pub(super) fn is_trained(&self) -> Result<bool, Halt> {
        Ok(!self.run.store().steps()?.is_empty())
    }

    /// A checkpoint that the finished model needs and that is not there; `filled` is the step of the
    /// one that was trained again before.
    fn gap(&mut self, filled: &mut Option<u64>) -> Result<Option<Gap>, Halt> {
        let wanted = match self.config.model.objective {
            Objective::Mlm(_) => vec![self.config.training.steps],
            Objective::Masked(_) | Objective::Autoregressive(_) | Objective::Ctc(_) => {
                self.config.checkpoints.averaged(self.config.training.steps)
            }
        };
        let found = gaps::first(&self.run.store(), &wanted, &self.journal.state.unsaved)?;
        for text in &found.left_out {
            self.progress.say(&format!("warning: {text}; the finished model does without it"));
        }
        let Some(gap) = found.gap else { return Ok(None) };
        if filled.replace(gap.step) == Some(gap.step) {
            self.progress.say(&format!("error: {} again; {}", gap.reason, self.way_on()));
            return Err(Halt::Exit(Exit::Failed));
        }
        let from = gap.resume.as_ref().map_or(0, Checkpoint::step);
        self.progress.say(&format!(
            "warning: {}; the finished model needs it, so that training continues from step {from}",
            gap.reason
        ));
        self.journal.event("gap", json!({ "step": gap.step, "reason": gap.reason }));
        self.journal.state.stage = Stage::Train;
        Ok(Some(gap))
    }

    /// Whether the model of `step` was to be scored, and the attempt ended before it was.
    fn lacks_evaluation(&self, step: u64) -> bool {
        let is_due = self.config.evaluation.is_due(step, self.config.training.steps);
        is_due && !self.journal.state.valid.contains_key(&step)
    }

    /// The newest good checkpoint; damaged ones are named.
    fn resume_point(&mut self) -> Result<Option<Checkpoint>, Halt> {
        let (found, damaged) = self.run.store().newest_good()?;
        for damaged in &damaged {
            self.progress.say(&format!("warning: {damaged}; it is passed over"));
            self.journal.event("damaged", json!({ "message": damaged.to_string() }));
        }
        match &found {
            Some(found) => {
                let (step, steps) = (found.step(), self.config.training.steps);
                self.progress
                    .say(&format!("resuming from the checkpoint of step {step} of {steps}"));
            }
            None if damaged.is_empty() => {}
            None => self.progress.say("no checkpoint is good: starting from the first step"),
        }
        Ok(found)
    }

    /// Averages, scores and exports the trained model.
    fn complete(&mut self) -> Result<(), Halt> {
        self.journal.state.ledger.turn(Activity::Evaluate, Instant::now());
        match self.config.model.objective {
            Objective::Mlm(_) => {
                let export = self.run.export();
                self.progress.say(&format!("the BERT is in {}", export.display()));
            }
            Objective::Masked(_) | Objective::Autoregressive(_) | Objective::Ctc(_) => {
                finish::complete(self)?;
            }
        }
        self.journal.state.stage = Stage::Finished;
        let curves = self.run.tensorboard();
        self.progress.say(&format!("curves: tensorboard --logdir {}", curves.display()));
        Ok(())
    }
}
