//! `~` and variables in paths, which mean what they mean to a shell.

use serde_json::Value;

use crate::problem::{Kind, Problem};
use crate::yaml::{Content, Node, join};

/// Whether a key holds a path, or the name of a model, which may be one.
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

/// Expands all paths of a run file; what cannot be expanded is added to `problems`.
pub fn expand_all(root: &mut Node, problems: &mut Vec<Problem>) {
    below(root, "", &|name| std::env::var(name).ok(), problems);
}

fn below(
    node: &mut Node,
    key: &str,
    variable: &dyn Fn(&str) -> Option<String>,
    problems: &mut Vec<Problem>,
) {
    match &mut node.content {
        Content::Map(entries) => {
            for entry in entries {
                below(&mut entry.value, &join(key, &entry.key), variable, problems);
            }
        }
        Content::Scalar { value: Value::String(path), .. } if is_path(key) => {
            match expand(path, variable) {
                Ok(expanded) => *path = expanded,
                Err(message) => {
                    let (place, path) = (node.place, key.to_owned());
                    problems.push(Problem { kind: Kind::Conflict, place, path, message });
                }
            }
        }
        Content::Scalar { .. } | Content::List(_) => {}
    }
}

/// A path with `~` at its beginning and `$NAME` or `${NAME}` anywhere replaced.
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
            // No variable has such a name.
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
