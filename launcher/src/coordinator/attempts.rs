//! Attempts: groups of workers of a run, and what follows from the end of each.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tandem_cluster::topology::{Topology, TopologyError};

use super::group::{End, GroupError};
use super::restarts::{Decision, Restarts};
use super::{Coordinator, Halt};
use crate::journal::failure::Failure;
use crate::journal::{Stage, Status};
use crate::terminal::exit::Exit;

impl Coordinator {
    /// Gives a new group of workers its number.
    pub(super) fn begin_attempt(&mut self, verb: &str) -> Result<u64, Halt> {
        let attempt = self.run.begin_attempt()?;
        self.journal.state.attempt = attempt;
        self.journal.state.status = Status::Running;
        self.journal.state.ranks.clear();
        let topology = serde_json::to_value(&self.workers.topology)?;
        self.journal.event("attempt", json!({ "verb": verb, "topology": topology }));
        self.journal.save();
        Ok(attempt)
    }

    /// What follows from the end of a group: whether its work is done, or is tried again.
    pub(super) fn handle(
        &mut self,
        end: Result<End, GroupError>,
        restarts: &mut Restarts,
    ) -> Result<bool, Halt> {
        match end? {
            End::Done => Ok(true),
            End::Stopped => {
                self.say_stopped();
                Err(Halt::Exit(Exit::Stopped))
            }
            End::StopOverdue => {
                let seconds = self.config.cluster.deadlines.stop;
                self.progress.say(&format!(
                    "error: the workers did not stop within {seconds} s (cluster.deadlines.stop) \
                     and were killed; {}",
                    self.way_on()
                ));
                Err(Halt::Exit(Exit::Deadline))
            }
            End::Interrupted => {
                self.progress.say(&format!("killed; {}", self.way_on()));
                Err(Halt::Exit(Exit::Interrupted))
            }
            End::Failed(failure) => self.failed(failure, restarts).map(|()| false),
        }
    }

    fn say_stopped(&mut self) {
        let words = match self.run.store().newest().ok().flatten() {
            _ if self.journal.state.stage == Stage::Data => {
                "stopped; the same command resumes with what is not translated".to_owned()
            }
            Some(step) => format!(
                "stopped with a checkpoint at step {step}; the same command resumes from there"
            ),
            None => "stopped before the first checkpoint; the same command starts again".into(),
        };
        self.progress.say(&words);
    }

    fn failed(&mut self, failure: Failure, restarts: &mut Restarts) -> Result<(), Halt> {
        let decision = match self.workers.interrupts.stop_requested() {
            true => {
                let reason = "a stop was asked for".into();
                Decision::GiveUp { exit: Exit::Failed, reason }
            }
            false => restarts.after(&failure),
        };
        let next = match &decision {
            Decision::Again { left } => format!("starting again ({left} more restarts)"),
            Decision::GiveUp { reason, .. } => format!("{reason}; {}", self.way_on()),
        };
        self.progress.say(&failure.report(&next));
        let details = serde_json::to_value(&failure)?;
        self.journal.event("failure", json!({ "failure": details, "next": next }));
        self.journal.state.failure = Some(failure);
        self.journal.state.ledger.fail(Instant::now());
        match decision {
            Decision::Again { .. } => {
                self.journal.state.restarts += 1;
                self.journal.save();
                self.look_around()
            }
            Decision::GiveUp { exit, .. } => Err(Halt::Exit(exit)),
        }
    }

    /// Finds the topology again, with as many workers as fit now; waits for hosts that the run needs.
    fn look_around(&mut self) -> Result<(), Halt> {
        let patience = Duration::from_secs_f64(self.config.cluster.deadlines.hosts);
        let started = Instant::now();
        let mut has_said = false;
        let error = loop {
            match Topology::find_again(&self.config.cluster) {
                Ok(found) => {
                    self.move_to(found);
                    return Ok(());
                }
                Err(TopologyError::Silent { names, why }) if started.elapsed() < patience => {
                    if !has_said {
                        self.progress.say(&format!(
                            "waiting for {}, at most {} s (cluster.deadlines.hosts): {why}",
                            names.join(", "),
                            patience.as_secs()
                        ));
                        has_said = true;
                    }
                    if self.workers.interrupts.stop_requested() {
                        self.say_stopped();
                        return Err(Halt::Exit(Exit::Stopped));
                    }
                    thread::sleep(Duration::from_secs(1));
                }
                Err(error) => break error.to_string(),
            }
        };
        self.progress.say(&format!("error: {error}; {}", self.way_on()));
        Err(Halt::Exit(Exit::Failed))
    }

    fn move_to(&mut self, found: Topology) {
        let (ranks, before) = (found.ranks, self.workers.topology.ranks);
        if found.hosts != self.workers.topology.hosts {
            let plural = if ranks == 1 { "" } else { "s" };
            let instead = match ranks == before {
                true => String::new(),
                false => format!(" instead of {before},"),
            };
            let hosts = found.hosts_in_words();
            self.progress.say(&format!("resuming with {ranks} worker{plural}{instead} on {hosts}"));
        }
        self.workers.topology = found;
    }

    pub(super) fn way_on(&self) -> String {
        if self.journal.state.stage == Stage::Data {
            return "the same command resumes with what is not translated".into();
        }
        match self.run.store().newest().ok().flatten() {
            Some(step) => format!("the same command resumes from step {step}"),
            None => "there is no checkpoint yet".into(),
        }
    }
}
