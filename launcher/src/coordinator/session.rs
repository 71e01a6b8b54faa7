//! Groups of workers for a verb of its own: evaluating, translating or serving with a trained model.
//!
//! It works in a scratch folder, so that the run, which may be training or may be somebody else's,
//! is only read.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tandem_cluster::process::say;
use tandem_cluster::run::atomic::Scratch;
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::slurm::SlurmError;
use tandem_cluster::topology::Topology;
use tandem_config::RunConfig;
use tandem_config::schema::cluster::Preflight;

use crate::coordinator::evaluation::Part;
use crate::coordinator::finish::Parts;
use crate::coordinator::group::{End, Listener, Workers};
use crate::coordinator::restarts::{Decision, Restarts};
use crate::doctor::refuse_low_limits;
use crate::journal::failure::Failure;
use crate::prepare;
use crate::prepare::worker::{self, Work};
use crate::terminal::exit::{Exit, Refused};
use crate::terminal::interrupts::Interrupts;

const TASK: &str = "task";
const CACHE: &str = "cache";

/// What is needed to use a trained model.
pub(crate) struct Session {
    config: RunConfig,
    workers: Workers,
    scratch: Scratch,
}

impl Session {
    /// Gets ready to use the model of a run, without starting anything.
    ///
    /// # Errors
    /// No worker program, a topology that contradicts this machine, or no place for scratch.
    pub(crate) fn new(
        run: &RunFolder,
        config: RunConfig,
        interrupts: Interrupts,
    ) -> anyhow::Result<Self> {
        let note = |error: &SlurmError| say(format_args!("note: on this machine alone: {error}"));
        let topology = Topology::find_to_use(&config.cluster, note)
            .map_err(|error| Refused(error.to_string()))?;
        refuse_low_limits(&topology)?;
        let program = worker::find()?;
        worker::check_gpus(&program, &topology)?;
        // Workers on other hosts see what is shared, as the run is.
        let scratch = match topology.remote_host() {
            None => Scratch::new().context("cannot make a temporary folder (TMPDIR says where)")?,
            Some(_) => {
                Scratch::new_in(run.path()).context("the workers have no folder to share")?
            }
        };
        let deadlines = config.cluster.deadlines.clone();
        // Only training, in which all ranks wait for the slowest, is worth a preflight.
        let (preflight, memory_per_rank) = (Preflight::Never, 0);
        let workers =
            Workers { program, topology, deadlines, interrupts, preflight, memory_per_rank };
        Ok(Self { config, workers, scratch })
    }

    /// Where what the workers are to do may lie.
    pub(crate) fn task(&self) -> PathBuf {
        self.folder().join(TASK)
    }

    /// Where its config will be.
    pub(crate) fn config(&self) -> PathBuf {
        RunFolder::new(self.folder().to_owned()).config()
    }

    fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Has a group of workers do some work, whatever becomes of it.
    ///
    /// # Errors
    /// Workers that cannot be started.
    pub(crate) fn attempt(&self, work: &Work, listener: &mut dyn Listener) -> anyhow::Result<End> {
        let run = RunFolder::new(self.folder().to_owned());
        let mut config = self.config.clone();
        config.data.cache = Some(self.folder().join(CACHE));
        prepare::write_config(&run, &config)?;
        let attempt = run.begin_attempt()?;
        Ok(self.workers.run(&run, attempt, work, listener)?)
    }

    /// Leaves the logs where they are, to be looked into.
    pub(crate) fn keep_log(self, failure: &mut Failure) {
        for name in [TASK, CACHE] {
            let _ = std::fs::remove_dir_all(self.folder().join(name));
        }
        failure.log = self.scratch.keep(&failure.log);
    }

    /// How many ranks its groups have.
    pub(crate) fn ranks(&self) -> usize {
        self.workers.topology.ranks
    }

    /// Does the work once; the ranks' evaluated parts, or how it ended otherwise.
    ///
    /// # Errors
    /// Workers that cannot be started.
    pub(crate) fn work(self, work: &Work) -> anyhow::Result<Result<Done, Exit>> {
        let mut parts = Parts::default();
        let end = self.attempt(work, &mut parts)?;
        for notice in &parts.notices {
            say(format_args!("note: {notice}"));
        }
        Ok(match end {
            End::Done => Ok(Done { parts: parts.parts, _scratch: self.scratch }),
            End::Stopped => {
                say("stopped; nothing was written");
                Err(Exit::Stopped)
            }
            End::Interrupted => {
                say("killed; nothing was written");
                Err(Exit::Interrupted)
            }
            End::StopOverdue => {
                let seconds = self.config.cluster.deadlines.stop;
                say(format_args!(
                    "error: the workers did not stop within {seconds} s (cluster.deadlines.stop) \
                     and were killed; nothing was written"
                ));
                Err(Exit::Deadline)
            }
            End::Failed(mut failure) => {
                self.keep_log(&mut failure);
                // As in training, but nothing is tried again.
                let (exit, next) = match Restarts::new(0).after(&failure) {
                    Decision::GiveUp { exit: Exit::Usage, .. } => (Exit::Usage, "fix that first"),
                    _ => (Exit::Failed, "nothing was changed; try again"),
                };
                say(failure.report(next));
                Err(exit)
            }
        })
    }
}

/// What a session has done.
pub(crate) struct Done {
    /// The ranks' parts.
    pub parts: Vec<Part>,
    /// Where they lie.
    _scratch: Scratch,
}
