//! From a config to a run folder that is ready to train, or to an error.

pub(crate) mod changes;
pub(crate) mod dependency;
pub(crate) mod distillation;
pub(crate) mod hub;
pub(crate) mod plan;
pub(crate) mod worker;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tandem_cluster::process::say;
use tandem_cluster::run::atomic;
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::store::{Checkpoint, StoreError};
use tandem_config::RunConfig;
use tandem_config::pretrained::hub::names_model;
use tandem_config::schema::model::Objective;

use crate::prepare::changes::Change;
use crate::terminal::exit::Refused;

/// Loads a config whose every problem would be printed.
///
/// # Errors
/// All mistakes in the config.
pub(crate) fn load(path: &Path, overrides: &[String]) -> Result<RunConfig, Refused> {
    let mut config = tandem_config::load(path, overrides)
        .map_err(|problems| Refused(format!("the config is invalid\n{problems}")))?;
    let folder = std::path::absolute(&config.run.folder);
    config.run.folder = folder.unwrap_or(config.run.folder);
    Ok(config)
}

/// Loads the config of a trained run for translating or evaluating. Overrides may change the decoding, the
/// hardware and the places of BERTs, which are identified by their hashes. The hardware is otherwise chosen
/// for this machine, and the training data may be gone.
///
/// # Errors
/// Mistakes in the config, overrides of other keys, or a BERT that cannot be fetched from the hub.
pub(crate) fn load_to_use(run: &RunFolder, overrides: &[String]) -> anyhow::Result<RunConfig> {
    let mut here = Vec::new();
    for text in overrides {
        let key = text.split_once('=').map_or(text.as_str(), |(key, _)| key);
        let is_base = names_model(key);
        if !is_base && !key.starts_with("decoding.") && !key.starts_with("cluster.") {
            return Err(Refused(format!(
                "--set {text}: only keys of decoding and cluster, and the place of a BERT \
                 (model...pretrained), can be changed here"
            ))
            .into());
        }
        here.push(if is_base { with_absolute_path(text) } else { text.clone() });
    }
    let mut config = tandem_config::load_to_use(&run.config(), &here)
        .map_err(|problems| Refused(format!("the run's config cannot be used here\n{problems}")))?;
    hub::resolve(&mut config, &mut |text| say(format_args!("{text}")))?;
    Ok(config)
}

/// Checks that a trained model can translate new text.
///
/// # Errors
/// Its objective is another, or its decoding takes lengths from references.
pub(crate) fn refuse_without_translations(config: &RunConfig) -> Result<(), Refused> {
    let message = match config.model.objective {
        Objective::Mlm(_) => "a run with the mlm objective cannot translate",
        _ if config.decoding.needs_references() => {
            "decoding.mask_predict.lengths must be `predicted` to translate: there are no references to \
             take lengths from"
        }
        _ => return Ok(()),
    };
    Err(Refused(message.into()))
}

/// The checkpoint of a run or an exported folder by its name.
///
/// # Errors
/// No such checkpoint, or a damaged one.
pub(crate) fn model(run: &RunFolder, checkpoint: &str) -> anyhow::Result<Checkpoint> {
    run.model(checkpoint).map_err(|error| match error {
        StoreError::Absent { .. } => Refused(error.to_string()).into(),
        error => error.into(),
    })
}

/// Makes the folder in an override absolute: it is relative to the working directory, not to the run's
/// folder.
fn with_absolute_path(text: &str) -> String {
    let Some((key, value)) = text.split_once('=') else { return text.into() };
    match std::path::absolute(value) {
        Ok(path) if path.is_dir() => format!("{key}={}", path.display()),
        _ => text.into(),
    }
}

/// Finds a run folder by its path or by its name in `runs`.
///
/// # Errors
/// No such folder, or one that cannot be read.
pub(crate) fn find(run: &Path) -> Result<RunFolder, Refused> {
    for path in [run.to_owned(), Path::new("runs").join(run)] {
        let path = std::path::absolute(&path).unwrap_or(path);
        match fs::metadata(RunFolder::new(path.clone()).config()) {
            Ok(found) if found.is_file() => return Ok(RunFolder::new(path)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Refused(format!("cannot read {}: {error}", path.display())));
            }
            _ => {}
        }
    }
    Err(Refused(format!("{} is not a run folder: it has no config.yaml", run.display())))
}

/// Finds a run folder, or by default the run in `runs` that was active last.
///
/// # Errors
/// No such folder, or no run at all.
pub(crate) fn find_or_newest(run: Option<&Path>) -> Result<RunFolder, Refused> {
    if let Some(run) = run {
        return find(run);
    }
    let entries = fs::read_dir("runs").into_iter().flatten().flatten();
    let touched =
        |path: &Path| fs::metadata(RunFolder::new(path.to_owned()).state()).ok()?.modified().ok();
    let newest = entries
        .filter_map(|entry| Some((touched(&entry.path())?, entry.path())))
        .max_by_key(|(touched, _)| *touched);
    match newest {
        Some((_, path)) => find(&path),
        None => Err(Refused("there is no run in `runs`; give a run's folder".into())),
    }
}

/// Reads the config of a run's last launch, whose inputs may be gone.
///
/// # Errors
/// A config.yaml that cannot be read.
pub(crate) fn launched(run: &RunFolder) -> Result<RunConfig, Refused> {
    let read = tandem_config::read(&run.config(), &[]);
    read.map(|(config, _)| config).map_err(|problems| Refused(problems.to_string()))
}

/// Checks that a config may resume the run in a folder: keys that change what is learnt must be the same.
/// If the run has no checkpoint yet, it is started over instead; then a note about that is returned.
///
/// # Errors
/// The first key that may not differ, or a file system error.
pub(crate) fn check(run: &RunFolder, config: &RunConfig) -> anyhow::Result<Option<String>> {
    if !run.config().exists() || !run.state().exists() {
        return Ok(None);
    }
    // The checkpoints of a finished run may have been removed, but its export is still there.
    let is_trained = run.export().exists() || !run.store().steps()?.is_empty();
    let old = match launched(run) {
        Ok(old) => old,
        Err(_) if !is_trained => {
            start_over(run)?;
            return Ok(Some("nothing was trained yet: starting over with this config".into()));
        }
        Err(refused) => return Err(refused.into()),
    };
    let Some(change) = changes::bound(&old, config) else { return Ok(None) };
    if !is_trained {
        let others_stay = changes::has_same_pairs(&old, config);
        remove(&run.products())?;
        if !others_stay {
            remove(&run.synthetic_data())?;
        }
        return Ok(Some(format!(
            "nothing was trained yet: starting over with this config ({change})"
        )));
    }
    let Change { key, was, is } = change;
    Err(Refused(format!(
        "{} holds another run: `{key}` was {was} and is {is} now; give the new run another name \
         with `--set run.name=...`, or start over with `--restart`",
        run.path().display()
    ))
    .into())
}

/// Writes the config to the run folder.
///
/// # Errors
/// A file system error.
pub(crate) fn write_config(run: &RunFolder, config: &RunConfig) -> anyhow::Result<()> {
    let yaml = "# Resolved by `tandem launch`; every default is written out.\n".to_owned()
        + &config.to_yaml()?;
    atomic::write(&run.config(), &yaml).context("the run folder cannot be written")
}

/// Removes everything that earlier launches wrote to the run folder, except logs.
///
/// # Errors
/// A file system error.
pub(crate) fn start_over(run: &RunFolder) -> anyhow::Result<()> {
    remove(&run.products())?;
    remove(&run.synthetic_data())
}

fn remove(paths: &[PathBuf]) -> anyhow::Result<()> {
    for path in paths {
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}
