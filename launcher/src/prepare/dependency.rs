//! Runs that a run needs before its training: its teachers, and the run whose weights it starts from
//! (`model.init`). Each is named by its folder, or by its run file; the run of a run file is trained first.
//!
//! Here they are found and checked; [`crate::coordinator::dependency`] trains them.

use std::path::{Path, PathBuf};

use tandem_cluster::run::folder::RunFolder;
use tandem_config::RunConfig;
use tandem_config::composition::Composition;
use tandem_config::load_trained;
use tandem_config::parameters::{self, LENGTH_EMBEDDING, Parameter};

use crate::journal::{Stage, State, Status, read_state};
use crate::prepare::{self, changes, distillation};
use crate::terminal::exit::Refused;

/// The key of the run whose weights are where a model starts.
pub(crate) const INIT: &str = "model.init";

/// A run that another one needs, trained or not.
pub(crate) struct Dependency {
    pub(crate) run: RunFolder,
    pub(crate) config: RunConfig,
    /// Whether it was given as a run file, and is launched if it has not finished.
    pub(crate) is_run_file: bool,
}

impl Dependency {
    /// # Errors
    /// Mistakes in its config.
    pub(crate) fn find(path: &Path) -> Result<Self, Refused> {
        let is_run_file = !path.is_dir();
        let (run, config) = if is_run_file {
            let config = prepare::load(path, &[])?;
            (RunFolder::new(config.run.path()), config)
        } else {
            let run = RunFolder::new(path.to_owned());
            let config = load_trained(&run.config()).map_err(|error| Refused(error.to_string()))?;
            (run, config)
        };
        Ok(Self { run, config, is_run_file })
    }

    /// The run whose weights are where the model starts, if the config names one.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub(crate) fn of_init(config: &RunConfig) -> Result<Option<Self>, Refused> {
        config.model.init.as_deref().map(Self::find).transpose()
    }

    /// Whether it must be launched first: it has not finished, or with another config, which the launch
    /// judges. This takes no lock, so that it keeps no launcher out.
    pub(crate) fn is_missing(&self) -> bool {
        let is_done = |state: State| {
            state.stage == Stage::Finished
                && state.status == Status::Done
                && state.steps >= self.config.training.steps
        };
        let is_same = || {
            prepare::launched(&self.run)
                .is_ok_and(|launched| changes::bound(&launched, &self.config).is_none())
        };
        self.is_run_file && !(read_state(&self.run).is_some_and(is_done) && is_same())
    }
}

/// All runs that a run needs, each with the key that names it.
fn all(config: &RunConfig) -> Result<Vec<(String, Dependency)>, Refused> {
    let mut all = Vec::new();
    if let Some(init) = Dependency::of_init(config)? {
        check_init(config, &init)?;
        all.push((INIT.to_owned(), init));
    }
    if let Some(teacher) = distillation::soft_labels_teacher(config)? {
        all.push((distillation::SOFT_LABELS.to_owned(), teacher));
    }
    for job in distillation::jobs(config) {
        let teacher = Dependency::find(&job.teacher)?;
        job.decoding(&teacher)?;
        all.push((format!("{}.teacher", job.key), teacher));
    }
    Ok(all)
}

/// Whether all that another run trains has a place in the model. What is not on this machine yet, the
/// workers judge.
fn check_init(config: &RunConfig, init: &Dependency) -> Result<(), Refused> {
    let (Ok(own), Ok(other)) = (Composition::open(config), Composition::open(&init.config)) else {
        return Ok(());
    };
    let own = parameters::model(&own);
    let run = init.run.path().display();
    let theirs = parameters::model(&other);
    // A model that predicts no lengths can start from one that does.
    let needed = |theirs: &&Parameter| theirs.trained && theirs.name != LENGTH_EMBEDDING;
    for theirs in theirs.iter().filter(needed) {
        let name = &theirs.name;
        let Some(ours) = own.iter().find(|own| own.trained && own.name == *name) else {
            return Err(Refused(format!(
                "{INIT}: this model has no trained `{name}` as {run} has; it must be a run whose model \
                 is a part of this one"
            )));
        };
        if ours.shape != theirs.shape {
            return Err(Refused(format!(
                "{INIT}: `{name}` has the shape {:?} in {run} and {:?} in this model; it must be a run \
                 whose model is a part of this one",
                theirs.shape, ours.shape
            )));
        }
    }
    Ok(())
}

/// Checks all runs that a run needs, and those that they need, before anything starts.
///
/// # Errors
/// The first one that cannot do its job.
pub(crate) fn check(config: &RunConfig) -> Result<(), Refused> {
    fn check_below(config: &RunConfig, above: &mut Vec<PathBuf>) -> Result<(), Refused> {
        above.push(config.run.path());
        for (key, dependency) in all(config)? {
            let run = dependency.run.path();
            if above.iter().any(|above| above == run) {
                return Err(Refused(format!(
                    "{key}: {} would need itself first; it must be another run",
                    run.display()
                )));
            }
            if dependency.is_run_file {
                check_below(&dependency.config, above)?;
            }
        }
        above.pop();
        Ok(())
    }
    check_below(config, &mut Vec::new())
}

/// Notes on what a launch would do with the run that the model starts from.
pub(crate) fn note(config: &RunConfig) -> Option<String> {
    let init = Dependency::of_init(config).ok().flatten()?;
    let run = init.run.path().display();
    Some(match init.is_missing() {
        true => format!("{INIT}: {run} is trained first, then this model starts from its weights"),
        false => format!("{INIT}: this model starts from the weights of {run}"),
    })
}
