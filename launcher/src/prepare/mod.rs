//! From a config to a run folder that is ready, or to the reason why it is not.

pub mod changes;
pub mod distillation;
pub mod hub;
pub mod plan;
pub mod worker;

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

use crate::prepare::changes::Change;
use crate::terminal::exit::Refused;

/// Loads a config whose every problem would be printed.
///
/// # Errors
/// The config's problems, as a refusal.
pub fn load(path: &Path, overrides: &[String]) -> Result<RunConfig, Refused> {
    let mut config = tandem_config::load(path, overrides)
        .map_err(|problems| Refused(format!("the config does not work\n{problems}")))?;
    let folder = std::path::absolute(&config.run.folder);
    config.run.folder = folder.unwrap_or(config.run.folder);
    Ok(config)
}

/// Loads the config of a run that is to be used, with other ways to translate. What computes is this
/// machine's or the overrides' business, and the texts that it was trained on may be gone. The BERTs may
/// lie elsewhere: they are known by their hashes.
///
/// # Errors
/// The config's problems, or a change of anything but these, as a refusal; or a BERT of the hub that is
/// neither here nor to be had.
pub fn load_to_use(run: &RunFolder, overrides: &[String]) -> anyhow::Result<RunConfig> {
    let mut here = Vec::new();
    for text in overrides {
        let key = text.split_once('=').map_or(text.as_str(), |(key, _)| key);
        let is_base = names_model(key);
        if !is_base && !key.starts_with("decoding.") && !key.starts_with("cluster.") {
            return Err(Refused(format!(
                "--set {text}: only keys of decoding and cluster, and where a BERT lies \
                 (model...pretrained), can be changed here"
            ))
            .into());
        }
        here.push(if is_base { from_here(text) } else { text.clone() });
    }
    let mut config = tandem_config::load_to_use(&run.config(), &here)
        .map_err(|problems| Refused(format!("the run's config does not work here\n{problems}")))?;
    hub::resolve(&mut config, &mut |text| say(format_args!("{text}")))?;
    Ok(config)
}

/// A trained model of a run, or of an exported folder, by its checkpoint's name.
///
/// # Errors
/// No such checkpoint, as a refusal; or a damaged one.
pub fn model(run: &RunFolder, checkpoint: &str) -> anyhow::Result<Checkpoint> {
    run.model(checkpoint).map_err(|error| match error {
        StoreError::Absent { .. } => Refused(error.to_string()).into(),
        error => error.into(),
    })
}

/// A folder is meant from where the command is given, not from the run's folder.
fn from_here(text: &str) -> String {
    let Some((key, value)) = text.split_once('=') else { return text.into() };
    match std::path::absolute(value) {
        Ok(path) if path.is_dir() => format!("{key}={}", path.display()),
        _ => text.into(),
    }
}

/// The run folder that a person means: a path, or a name below `runs`.
///
/// # Errors
/// There is no such folder, or it may not be read.
pub fn find(run: &Path) -> Result<RunFolder, Refused> {
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
    Err(Refused(format!("{} is no run folder: it has no config.yaml", run.display())))
}

/// The run that a person means, or else the one below `runs` that was worked on last.
///
/// # Errors
/// There is no such folder, or no run at all.
pub fn find_or_newest(run: Option<&Path>) -> Result<RunFolder, Refused> {
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
        None => Err(Refused("there is no run below `runs`; name its folder".into())),
    }
}

/// The config of the last launch of the run in a folder, whose inputs may be gone.
///
/// # Errors
/// A config.yaml that cannot be read.
pub fn launched(run: &RunFolder) -> Result<RunConfig, Refused> {
    let read = tandem_config::read(&run.config(), &[]);
    read.map(|(config, _)| config).map_err(|problems| Refused(problems.to_string()))
}

/// Checks that of a run that was trained only such keys are changed as do not change what is learnt.
/// Before the first checkpoint nothing is: then what is there of the old config goes. Answers what
/// people should know of it.
///
/// # Errors
/// The first key that differs and may not, as a refusal; or a file system that refuses.
pub fn check(run: &RunFolder, config: &RunConfig) -> anyhow::Result<Option<String>> {
    if !run.config().exists() || !run.state().exists() {
        return Ok(None);
    }
    // Of a finished run the checkpoints may have been removed, and the model is still there.
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

/// Writes the config into the run folder.
///
/// # Errors
/// Where the file system refuses.
pub fn write_config(run: &RunFolder, config: &RunConfig) -> anyhow::Result<()> {
    let yaml = "# Resolved by `tandem launch`; every default is written out.\n".to_owned()
        + &config.to_yaml()?;
    atomic::write(&run.config(), &yaml).context("the run folder cannot be written")
}

/// Removes what an earlier run left in the folder; its logs stay.
///
/// # Errors
/// Where the file system refuses.
pub fn start_over(run: &RunFolder) -> anyhow::Result<()> {
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
