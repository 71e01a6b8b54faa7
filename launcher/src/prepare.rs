//! From a config to a run folder that is ready, or to the reason why it is not.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;
use tandem_cluster::run_folder::RunFolder;
use tandem_config::RunConfig;

use crate::exit::Refused;

/// Keys that may change between two launches of one run: they do not change what is learnt.
const FREE_KEYS: [&str; 7] = [
    "run",
    "cluster",
    "checkpoints",
    "evaluation",
    "decoding",
    "training.steps",
    "training.log_every",
];

/// What a run leaves in its folder; `--restart` removes it.
const PRODUCTS: [&str; 14] = [
    "config.yaml",
    "state.json",
    "events.jsonl",
    "data.json",
    "report.md",
    "stop.request",
    "job.sh",
    "vocabulary",
    "checkpoints",
    "tensorboard",
    "distilled",
    "back_translated",
    "evaluation",
    "export",
];

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

/// The run folder that a person means: a path, or a name below `runs`.
///
/// # Errors
/// There is no such folder.
pub fn find(run: &Path) -> Result<RunFolder, Refused> {
    let candidates = [run.to_owned(), Path::new("runs").join(run)];
    let is_run = |path: &&PathBuf| path.join("config.yaml").is_file();
    match candidates.iter().find(is_run) {
        Some(path) => {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            Ok(RunFolder::new(path))
        }
        None => Err(Refused(format!("{} is no run folder: it has no config.yaml", run.display()))),
    }
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
    let touched = |path: &Path| fs::metadata(path.join("state.json")).ok()?.modified().ok();
    let newest = entries
        .filter_map(|entry| Some((touched(&entry.path())?, entry.path())))
        .max_by_key(|(touched, _)| *touched);
    match newest {
        Some((_, path)) => find(&path),
        None => Err(Refused("there is no run below `runs`; name its folder".into())),
    }
}

/// Writes the config into the run folder; of a run that exists it may change only what does not
/// change what is learnt.
///
/// # Errors
/// The first key that differs and may not, as a refusal; or where the file system refuses.
pub fn write_config(run: &RunFolder, config: &RunConfig) -> anyhow::Result<()> {
    let path = run.config();
    if path.exists() && run.state().exists() {
        let old = tandem_config::read(&path, &[]).map(|(config, _)| config);
        let old = old.map_err(|problems| Refused(problems.to_string()))?;
        let (old, new) = (serde_json::to_value(old)?, serde_json::to_value(config)?);
        if let Some((key, was, is)) = difference("", &old, &new) {
            let refusal = format!(
                "{} holds another run: `{key}` was {was} and is {is} now; give the new run \
                 another name with `--set run.name=...`, or start over with `--restart`",
                run.path().display()
            );
            return Err(Refused(refusal).into());
        }
    }
    let yaml = "# Resolved by `tandem launch`; every default is written out.\n".to_owned()
        + &config.to_yaml()?;
    run.replace(&path, &yaml).context("the run folder cannot be written")
}

/// The first key that differs and may not, with both values.
fn difference(path: &str, old: &Value, new: &Value) -> Option<(String, String, String)> {
    if FREE_KEYS.contains(&path) || old == new {
        return None;
    }
    match (old, new) {
        (Value::Object(before), Value::Object(after)) => {
            let keys = before.keys().chain(after.keys().filter(|key| !before.contains_key(*key)));
            keys.into_iter().find_map(|key| {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let of = |map: &serde_json::Map<String, Value>| {
                    map.get(key).cloned().unwrap_or(Value::Null)
                };
                difference(&below, &of(before), &of(after))
            })
        }
        _ => Some((path.to_owned(), old.to_string(), new.to_string())),
    }
}

/// Removes what an earlier run left in the folder; its logs stay.
///
/// # Errors
/// Where the file system refuses.
pub fn start_over(run: &RunFolder) -> anyhow::Result<()> {
    for name in PRODUCTS {
        let path = run.path().join(name);
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_key_that_may_not_change_is_named() {
        let old =
            json!({"seed": 1, "cluster": {"workers": 1}, "training": {"steps": 5, "clip": 1}});
        let free =
            json!({"seed": 1, "cluster": {"workers": 2}, "training": {"steps": 9, "clip": 1}});
        assert_eq!(difference("", &old, &free), None);
        let bound =
            json!({"seed": 1, "cluster": {"workers": 1}, "training": {"steps": 5, "clip": 2}});
        let (key, was, is) = difference("", &old, &bound).unwrap();
        assert_eq!((key.as_str(), was.as_str(), is.as_str()), ("training.clip", "1", "2"));
        let more =
            json!({"seed": 1, "cluster": {}, "training": {"steps": 5, "clip": 1, "x": true}});
        let (key, was, _) = difference("", &old, &more).unwrap();
        assert_eq!((key.as_str(), was.as_str()), ("training.x", "null"));
    }
}
