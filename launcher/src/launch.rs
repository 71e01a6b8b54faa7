//! Launches or resumes a run.

use std::path::PathBuf;
use std::time::Duration;

use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::topology::Topology;
use tandem_config::RunConfig;

use crate::coordinator::group::Workers;
use crate::coordinator::{Coordinator, Launch};
use crate::doctor::refuse_low_limits;
use crate::journal::{Journal, Stage, Status};
use crate::prepare;
use crate::prepare::hub;
use crate::prepare::plan::Plan;
use crate::prepare::worker;
use crate::slurm::job;
use crate::slurm::takeover;
use crate::terminal::exit::{Exit, Refused};
use crate::terminal::interrupts::Interrupts;
use crate::terminal::progress::Progress;

/// Trains, evaluates and exports the model of a config, or resumes an interrupted run.
///
/// # Errors
/// Whatever keeps the run from starting.
pub(crate) fn launch(
    config: RunConfig,
    restart: bool,
    program: PathBuf,
    interrupts: Interrupts,
) -> anyhow::Result<Exit> {
    let topology = place(&config)?;
    launch_on(config, topology, restart, program, interrupts)
}

/// The topology of a run on the hosts that are available now.
///
/// # Errors
/// Settings that contradict each other or the hosts.
pub(crate) fn place(config: &RunConfig) -> Result<Topology, Refused> {
    Topology::find_now(&config.cluster).map_err(|error| Refused(error.to_string()))
}

/// Like [`launch`], on a given topology.
///
/// # Errors
/// Whatever keeps the run from starting.
pub(crate) fn launch_on(
    mut config: RunConfig,
    topology: Topology,
    restart: bool,
    program: PathBuf,
    interrupts: Interrupts,
) -> anyhow::Result<Exit> {
    refuse_low_limits(&topology)?;
    worker::check_gpus(&program, &topology)?;
    let mut progress = Progress::default();

    let run = RunFolder::new(config.run.path());
    let patience = Duration::from_secs_f64(config.cluster.deadlines.hosts);
    let (lock, before) = takeover::take(&run, patience, &interrupts, &mut progress)?;
    let interrupts = interrupts.or_request(lock.stop_request());
    if restart {
        prepare::start_over(&run)?;
    }
    hub::resolve(&mut config, &mut |text| progress.say(text))?;
    if let Some(note) = prepare::check(&run, &config)? {
        progress.say(&format!("note: {note}"));
    }

    let mut journal = Journal::open(run.clone())?;
    let more = config.training.steps > journal.state.steps;
    if journal.state.stage == Stage::Finished && journal.state.status == Status::Done && !more {
        progress.say(&format!(
            "{} has finished; train longer with `--set training.steps=...`, or start over with \
             `--restart`",
            run.path().display()
        ));
        return Ok(Exit::Done);
    }
    // Only now: the config of a finished run must stay the one that its scores were computed with.
    prepare::write_config(&run, &config)?;
    if let Some(ending) = job::ending_without_words(&journal.state, before) {
        progress.say(&ending.to_string());
        journal.state.add_ending(ending);
    }
    if more {
        journal.state.stage = Stage::Train;
    }
    let plan = Plan::new(&config, topology.clone(), program.clone())?;
    progress.say(&plan.to_string());
    let (deadlines, preflight) = (config.cluster.deadlines.clone(), config.cluster.preflight);
    let memory_per_rank = plan.size.memory_per_rank;
    let workers = Workers { program, topology, deadlines, interrupts, preflight, memory_per_rank };
    let launch: Launch = |config, program, interrupts| launch(config, false, program, interrupts);
    Coordinator { run, config, workers, progress, journal, launch }.run()
}
