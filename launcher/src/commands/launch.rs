//! `tandem launch`: a run, from its config to its report.

use std::path::PathBuf;

use tandem_cluster::run_folder::RunFolder;
use tandem_cluster::topology::{Machine, Topology};

use crate::coordinator::journal::{Journal, Stage, Status};
use crate::coordinator::life::Coordinator;
use crate::exit::{Exit, Refused};
use crate::interrupts::Interrupts;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::{hub, prepare, worker};

/// Train, evaluate and export what a config describes; goes on where an earlier launch ended.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's config, e.g. configs/demo.yaml.
    config: PathBuf,
    /// Change a key of the config: path.to.key=value.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Remove what an earlier launch of this run has made, and start over.
    #[arg(long)]
    restart: bool,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// Whatever keeps the run from starting.
    pub fn run(self) -> anyhow::Result<Exit> {
        let mut config = prepare::load(&self.config, &self.overrides)?;
        let topology = Topology::find(&config.cluster, &Machine::this())
            .map_err(|error| Refused(error.to_string()))?;
        let program = worker::find()?;
        let interrupts = Interrupts::catch()?;
        let mut progress = Progress::default();

        let run = RunFolder::new(config.run.path());
        let _lock = run.lock()?;
        if self.restart {
            prepare::start_over(&run)?;
        }
        hub::resolve(&mut config, &mut |text| progress.say(text))?;
        prepare::write_config(&run, &config)?;
        // An old request is not meant for this launch.
        let _ = std::fs::remove_file(run.stop_request());

        let mut journal = Journal::open(run.clone());
        let more = config.training.steps > journal.state.steps;
        if journal.state.stage == Stage::Finished && journal.state.status == Status::Done && !more {
            progress.say(&format!(
                "{} has finished; train longer with `--set training.steps=...`, or start over \
                 with `--restart`",
                run.path().display()
            ));
            return Ok(Exit::Done);
        }
        if more {
            journal.state.stage = Stage::Train;
        }
        progress.say(&Plan::new(&config, topology.clone(), program.clone())?.to_string());
        Coordinator { run, config, topology, program, interrupts, progress, journal }.run()
    }
}
