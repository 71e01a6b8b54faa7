//! Expands `~` and variables in paths, as a shell does, and finds paths that were moved together with a run.

use std::path::Path;

use serde_json::Value;

use crate::load::problem::{Problem, ProblemKind};
use crate::load::yaml::{Content, Node, join};
use crate::pretrained::hub::{hub_cache, names_model};
use crate::schema::run::names;

/// What the folder of a run, or of a model that was exported, has beside its config.
const MARKS: [&str; 3] = [names::STATE, names::CHECKPOINTS, names::WEIGHTS];

/// Whether a key's value is a path, or the name of a model, which may be a path.
fn is_path(key: &str) -> bool {
    let words: Vec<&str> = key.split('.').collect();
    matches!(
        words[..],
        ["run", "folder"]
            | ["cluster", "hostfile"]
            | ["data", "cache"]
            | ["data", _, "files", "source" | "target"]
            | ["data", "back_translation", "text"]
            | ["data", .., "path" | "teacher"]
            | ["model", "init"]
            | ["model", .., "vocabulary", "bert"]
            | ["model", .., "path" | "teacher" | "pretrained"]
    )
}

/// Expands all paths of a run file; those that cannot be expanded are added to `problems`.
pub(super) fn expand_all(root: &mut Node, problems: &mut Vec<Problem>) {
    let variable = |name: &str| std::env::var(name).ok();
    below(root, "", &mut |_, path| expand(path, &variable), problems);
}

/// Replaces paths in a run's config that no longer exist, if the run is now in the folder `now`: with the path
/// that has the same relative position to that folder as the old one had, or, for a model in the hub's cache,
/// with the same model in the current cache or its name on the hub.
///
/// An export inside its run's folder moves with it. Relative positions mean nothing for an export elsewhere, so
/// there only BERTs are replaced, because their hashes are checked.
pub(super) fn follow(root: &mut Node, now: &Path) {
    let text = |key: &str| Some(root.entry("run")?.value.entry(key)?.value.to_value());
    let then = match (text("folder"), text("name")) {
        (Some(Value::String(folder)), Some(Value::String(name))) => Path::new(&folder).join(name),
        _ => return,
    };
    let Ok(now) = std::path::absolute(now) else { return };
    // The run file of a run that was not launched says where the run will be, not where it was.
    let is_run = MARKS.iter().any(|mark| now.join(mark).exists());
    if !is_run || !then.is_absolute() {
        return;
    }
    let is_export = now.join(names::MANIFEST).is_file();
    let run = now.parent().filter(|run| is_export && run.join(names::STATE).is_file());
    let place = run.unwrap_or(&now);
    let mut moved = |key: &str, path: &str| {
        let may_be_another = is_export && run.is_none() && !names_model(key);
        let found = if may_be_another { None } else { found(Path::new(path), &then, place) };
        Ok(found.unwrap_or(path.into()))
    };
    below(root, "", &mut moved, &mut Vec::new());
}

fn found(path: &Path, then: &Path, now: &Path) -> Option<String> {
    if !path.is_absolute() || path.exists() {
        return None;
    }
    let pairs = then.ancestors().zip(now.ancestors());
    // A path with only the root in common was not moved together with the run.
    let beside = pairs.filter(|(then, _)| then.parent().is_some()).find_map(|(then, now)| {
        let path = now.join(path.strip_prefix(then).ok()?);
        path.exists().then_some(path)
    });
    let in_the_hub = || {
        let name =
            |place: &Path| Some(place.file_name()?.to_str()?.strip_prefix("models--")?.to_owned());
        let (model, name) = path.ancestors().find_map(|place| Some((place, name(place)?)))?;
        let here = hub_cache().join(path.strip_prefix(model.parent()?).ok()?);
        Some(if here.exists() { here } else { name.replace("--", "/").into() })
    };
    Some(beside.or_else(in_the_hub)?.to_string_lossy().into_owned())
}

fn below(
    node: &mut Node,
    key: &str,
    change: &mut dyn FnMut(&str, &str) -> Result<String, String>,
    problems: &mut Vec<Problem>,
) {
    match &mut node.content {
        Content::Map(entries) => {
            for entry in entries {
                below(&mut entry.value, &join(key, &entry.key), change, problems);
            }
        }
        Content::Scalar { value: Value::String(path), .. } if is_path(key) => {
            match change(key, path) {
                Ok(expanded) => *path = expanded,
                Err(message) => {
                    let (place, path) = (node.place, key.to_owned());
                    problems.push(Problem { kind: ProblemKind::Conflict, place, path, message });
                }
            }
        }
        Content::Scalar { .. } | Content::List(_) => {}
    }
}

/// Replaces `~` at the beginning of a path, and `$NAME` or `${NAME}` anywhere.
fn expand(path: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let value = |name: &str| {
        variable(name).filter(|value| !value.is_empty()).ok_or_else(|| {
            format!("`{path}` has the variable {name}, which is not set: set it, or write the path")
        })
    };
    let (mut expanded, mut rest) = (String::new(), path);
    if let Some(behind) = path.strip_prefix('~') {
        if !behind.is_empty() && !behind.starts_with('/') {
            return Err(format!(
                "`{path}` begins with somebody's home, which is not looked up: write the path"
            ));
        }
        (expanded, rest) = (value("HOME")?, behind);
    }
    while let Some((before, behind)) = rest.split_once('$') {
        expanded += before;
        let braced = behind.strip_prefix('{').and_then(|behind| behind.split_once('}'));
        let plain = || {
            let end = behind.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            behind.split_at(end.unwrap_or(behind.len()))
        };
        let (name, after) = braced.unwrap_or_else(plain);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            // Not the name of a variable.
            expanded.push('$');
            rest = behind;
        } else {
            expanded += &value(name)?;
            rest = after;
        }
    }
    Ok(expanded + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_expanded_as_by_a_shell() {
        let variable = |name: &str| {
            let known = [("HOME", "/home/anna"), ("SCRATCH", "/scratch"), ("EMPTY", "")];
            known.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into())
        };
        for (path, expanded) in [
            ("~", "/home/anna"),
            ("~/runs", "/home/anna/runs"),
            ("$SCRATCH/runs", "/scratch/runs"),
            ("/data/${SCRATCH}x/$HOME.", "/data//scratchx//home/anna."),
            ("runs/a~b", "runs/a~b"),
            ("costs/5$", "costs/5$"),
            ("costs/$5", "costs/$5"),
            ("/a b/c", "/a b/c"),
        ] {
            assert_eq!(expand(path, &variable).as_deref(), Ok(expanded), "{path}");
        }
        let error = expand("$WORK/runs", &variable).unwrap_err();
        assert!(error.contains("`$WORK/runs`") && error.contains("WORK, which is"), "{error}");
        assert!(expand("$EMPTY/runs", &variable).is_err());
        assert!(expand("~bert/runs", &variable).unwrap_err().contains("somebody's home"));
    }

    #[test]
    fn what_has_moved_with_a_run_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let now = folder.path().join("new/runs/a");
        for made in ["new/runs/a", "new/bert", "new/runs/teacher"] {
            std::fs::create_dir_all(folder.path().join(made)).unwrap();
        }
        let then = Path::new("/old/project/runs/a");
        let found = |path: &str| {
            let found = found(Path::new(path), then, &now)?;
            Some(found.strip_prefix(folder.path().to_str().unwrap())?.to_owned())
        };
        assert_eq!(found("/old/project/bert").as_deref(), Some("/new/bert"));
        assert_eq!(found("/old/project/runs/teacher").as_deref(), Some("/new/runs/teacher"));
        let cached = "/old/hub/models--tandem--no_such_bert/snapshots/0123";
        assert_eq!(
            super::found(Path::new(cached), then, &now).as_deref(),
            Some("tandem/no_such_bert")
        );
        for lost in ["/old/project/gone", "/elsewhere/bert", "name/on-the-hub", "/"] {
            assert_eq!(found(lost), None, "{lost}");
        }
    }

    #[test]
    fn an_export_takes_no_text_for_its_own_by_chance() {
        let folder = tempfile::tempdir().unwrap();
        let path = |path: &str| folder.path().join(path);
        for made in ["new/models/a", "new/bert", "new/runs/a/export"] {
            std::fs::create_dir_all(path(made)).unwrap();
        }
        for file in ["new/models/a/manifest.json", "new/valid.tsv", "new/runs/a/state.json"] {
            std::fs::write(path(file), "").unwrap();
        }
        for file in ["manifest.json", "adapters.safetensors"] {
            std::fs::write(path("new/runs/a/export").join(file), "").unwrap();
            std::fs::write(path("new/models/a").join(file), "").unwrap();
        }
        let config = "run: {folder: /old/runs, name: a}\n\
                      data: {valid: {tsv: {path: /old/valid.tsv}}}\n\
                      model: {encoder: {bert: {pretrained: /old/bert}}}\n";
        let followed = |now: &str| {
            let mut root = crate::load::yaml::parse(config, &mut Vec::new()).unwrap().unwrap();
            follow(&mut root, &path(now));
            let value = root.to_value();
            ["/data/valid/tsv/path", "/model/encoder/bert/pretrained"]
                .map(|key| value.pointer(key).unwrap().as_str().unwrap().starts_with("/old"))
        };
        assert_eq!(followed("new/models/a"), [true, false], "elsewhere");
        assert_eq!(followed("new/runs/a/export"), [false, false], "in its run");
    }

    #[test]
    fn text_that_is_no_path_is_left_alone() {
        for key in ["data.train.jsonl.source", "data.back_translation.tag", "run.name"] {
            assert!(!is_path(key), "{key}");
        }
        for key in [
            "data.train.jsonl.path",
            "data.test.files.target",
            "model.decoder.bert.pretrained",
            "model.encoder.bert.new.vocabulary.file.path",
            "model.objective.autoregressive.soft_labels.teacher",
        ] {
            assert!(is_path(key), "{key}");
        }
    }
}
