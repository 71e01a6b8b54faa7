//! Trains the runs that a run needs first: those of its teachers, and the one whose weights it starts
//! from. Each is a run of its own, which is launched as any other and resumes if it was interrupted.

use std::thread;
use std::time::Duration;

use serde_json::json;
use tandem_cluster::run::folder::RunFolderError;

use super::{Coordinator, Halt, teacher};
use crate::journal::{Needed, Stage};
use crate::prepare::dependency::{Dependency, INIT};
use crate::prepare::distillation::{SOFT_LABELS, soft_labels_teacher};
use crate::terminal::exit::Exit;

/// How often a run that another launcher trains is looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Makes all that the training needs from other runs, as far as it is not there yet.
pub(super) fn provide(coordinator: &mut Coordinator) -> Result<(), Halt> {
    if !matches!(coordinator.journal.state.stage, Stage::Train | Stage::Data) {
        return Ok(());
    }
    coordinator.journal.state.needed = None;
    // Weights that were trained already have started, and have learnt from this very BERT.
    if !coordinator.is_trained()?
        && let Some(init) = Dependency::of_init(&coordinator.config)?
    {
        trained(coordinator, INIT, init)?;
    }
    if let Some(teacher) = soft_labels_teacher(&coordinator.config)?
        && !(coordinator.is_trained()? && teacher.run.export().exists())
    {
        trained(coordinator, SOFT_LABELS, teacher)?;
    }
    teacher::teach(coordinator)?;
    coordinator.journal.state.stage = Stage::Train;
    Ok(())
}

/// The run, with the config that it was trained with; it is trained now if need be. `key` is the config's.
pub(super) fn trained(
    coordinator: &mut Coordinator,
    key: &str,
    dependency: Dependency,
) -> Result<Dependency, Halt> {
    let run = dependency.run.path().to_owned();
    if !dependency.is_missing() {
        return Ok(Dependency::find(&run)?);
    }
    coordinator.progress.say(&format!("{key}: training {} first", run.display()));
    coordinator.journal.event("needed", json!({ "key": key, "run": run }));
    coordinator.journal.state.needed = Some(Needed { key: key.into(), run: run.clone() });
    coordinator.journal.save();
    train(coordinator, key, &dependency)?;
    coordinator.journal.state.needed = None;
    coordinator.journal.save();
    Ok(Dependency::find(&run)?)
}

/// Launches a run. If another launcher is training it, such as that of another student, this waits, and
/// then finds it finished or goes on with it.
fn train(coordinator: &mut Coordinator, key: &str, dependency: &Dependency) -> Result<(), Halt> {
    let mut waits = false;
    loop {
        let (program, interrupts) =
            (coordinator.workers.program.clone(), coordinator.workers.interrupts.clone());
        let error = match (coordinator.launch)(dependency.config.clone(), program, interrupts) {
            Ok(Exit::Done) => return Ok(()),
            Ok(exit) => return Err(Halt::Exit(exit)),
            Err(error) => error,
        };
        let Some(RunFolderError::Locked { path, holder }) = error.downcast_ref() else {
            return Err(error.into());
        };
        if coordinator.workers.interrupts.stop_requested() {
            return Err(Halt::Exit(Exit::Stopped));
        }
        if !std::mem::replace(&mut waits, true) {
            let run = path.display();
            coordinator.progress.say(&format!("{key}: waiting for {holder}, which trains {run}"));
        }
        thread::sleep(POLL_INTERVAL);
    }
}
