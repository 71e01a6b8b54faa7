//! `--set path.to.key=value`: overrides of a run file on the command line.

use crate::load::problem::{Place, Problem, ProblemKind};
use crate::load::yaml::{self, Content, Entry, Node};

/// Applies overrides in order, and adds their mistakes to `problems`.
pub(super) fn apply(root: &mut Node, overrides: &[String], problems: &mut Vec<Problem>) {
    for (index, text) in overrides.iter().enumerate() {
        let place = Place::Override(index);
        if let Err((path, message)) = apply_one(root, text, place, problems) {
            problems.push(Problem { kind: ProblemKind::Schema, place, path, message });
        }
    }
}

fn apply_one(
    root: &mut Node,
    text: &str,
    place: Place,
    problems: &mut Vec<Problem>,
) -> Result<(), (String, String)> {
    let usage = "must be path.to.key=value, such as training.steps=1000";
    let (path, value) = text.split_once('=').ok_or((String::new(), usage.to_owned()))?;
    if path.split('.').any(|key| key.is_empty() || key.trim() != key) {
        return Err((String::new(), usage.to_owned()));
    }
    let known = problems.len();
    let parsed = yaml::parse(value, problems);
    for problem in &mut problems[known..] {
        (problem.place, problem.path) = (place, yaml::join(path, &problem.path));
    }
    let mut value = match parsed {
        Ok(Some(node)) => node,
        Ok(None) => yaml::nothing(place),
        Err(problem) => return Err((path.to_owned(), problem.message)),
    };
    value.move_to(place);
    set(root, path, value, place)
}

/// Sets `path` to `value`, and creates missing maps above it.
fn set(root: &mut Node, path: &str, value: Node, place: Place) -> Result<(), (String, String)> {
    let mut node = root;
    let mut seen = String::new();
    for key in path.split('.') {
        if node.is_null() {
            *node = Node::map(place);
        }
        let Content::Map(entries) = &mut node.content else {
            let message = format!("`{seen}` is not a map, so it has no key `{key}`");
            return Err((path.to_owned(), message));
        };
        seen = yaml::join(&seen, key);
        let index = match entries.iter().position(|entry| entry.key == key) {
            Some(index) => index,
            None => {
                let value = yaml::nothing(place);
                entries.push(Entry { key: key.to_owned(), place, value });
                entries.len() - 1
            }
        };
        let entry = &mut entries[index];
        if seen == path {
            entry.place = place;
        }
        node = &mut entry.value;
    }
    *node = value;
    Ok(())
}
