//! One group of workers for a verb of its own: evaluating or translating with a trained model.

use std::path::PathBuf;

use tandem_cluster::run_folder::RunFolder;
use tandem_cluster::topology::Topology;
use tandem_config::RunConfig;

use crate::coordinator::evaluation::Part;
use crate::coordinator::finish::Parts;
use crate::coordinator::group::{self, End, Setting};
use crate::exit::{Exit, Refused};
use crate::interrupts::Interrupts;
use crate::worker::{self, Work};

/// What is needed to use a trained model.
pub struct Session {
    run: RunFolder,
    config: RunConfig,
    topology: Topology,
    program: PathBuf,
    interrupts: Interrupts,
}

impl Session {
    /// Gets ready, without starting anything.
    ///
    /// # Errors
    /// No worker program, or a topology that contradicts this machine.
    pub fn new(run: RunFolder, config: RunConfig, interrupts: Interrupts) -> anyhow::Result<Self> {
        let topology =
            Topology::find_now(&config.cluster).map_err(|error| Refused(error.to_string()))?;
        let program = worker::find()?;
        Ok(Self { run, config, topology, program, interrupts })
    }

    /// Does the work once; the ranks' evaluated parts, or how it ended otherwise.
    ///
    /// # Errors
    /// Workers that cannot be started.
    pub fn work(&self, work: &Work) -> anyhow::Result<Result<Vec<Part>, Exit>> {
        let generation = self.run.begin_attempt()?;
        let setting = Setting {
            run: &self.run,
            topology: &self.topology,
            deadlines: &self.config.cluster.deadlines,
            interrupts: &self.interrupts,
        };
        let job = work.job(&self.program, self.run.path(), &self.topology);
        let mut parts = Parts::default();
        let end = group::run(&setting, generation, job, &mut parts)?;
        for notice in &parts.notices {
            eprintln!("note: {notice}");
        }
        Ok(match end {
            End::Done => Ok(parts.parts),
            End::Stopped => Err(Exit::Stopped),
            End::Interrupted => Err(Exit::Interrupted),
            End::StopOverdue => Err(Exit::Deadline),
            End::Failed(failure) => {
                eprintln!("{}", failure.report("nothing was changed; try again"));
                Err(Exit::Failed)
            }
        })
    }
}
