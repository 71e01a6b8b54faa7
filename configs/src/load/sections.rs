//! Checks for conflicts in a run file when some of its sections do not fit the schema, so that all mistakes are
//! reported at once.
//!
//! A section that does not fit is replaced with that of `example.yaml`. Conflicts are then reported only if they
//! do not involve such a section.

use std::collections::BTreeSet;

use crate::load::problem::Problem;
use crate::load::yaml::{self, Content, Node};
use crate::schema::json::{Rule, schema};

/// The other sections that each section is checked against.
const COMPARED: [(&str, &[&str]); 8] = [
    ("run", &[]),
    ("data", &["model"]),
    ("model", &[]),
    ("training", &["data", "model", "cluster"]),
    ("decoding", &["model"]),
    ("evaluation", &["data", "model"]),
    ("checkpoints", &["training", "evaluation"]),
    ("cluster", &["training"]),
];

/// The file with invalid sections replaced by the example's, and the names of those; `None` if the file is not a
/// map.
pub(super) fn mend(root: &Node, problems: &[Problem]) -> Option<(Node, BTreeSet<String>)> {
    let Content::Map(entries) = &root.content else { return None };
    let example = yaml::parse(include_str!("../../example.yaml"), &mut Vec::new()).ok()??;
    let sections: Vec<&str> =
        Rule::of(schema()).properties().map(|(name, _)| name.as_str()).collect();
    let mut foreign: BTreeSet<String> =
        problems.iter().map(|problem| section(&problem.path).to_owned()).collect();
    if entries.iter().any(|entry| !sections.contains(&entry.key.as_str())) {
        // An unknown name may be a misspelt one of any missing section.
        let missing = sections.iter().filter(|name| root.entry(name).is_none());
        foreign.extend(missing.map(|name| (*name).to_owned()));
    }
    let of = |name: &&str| match foreign.contains(*name) {
        true => example.entry(name).cloned(),
        false => root.entry(name).cloned(),
    };
    let entries = sections.iter().filter_map(of).collect();
    Some((Node { place: root.place, content: Content::Map(entries) }, foreign))
}

/// Whether a problem does not involve any of the `foreign` sections.
pub(super) fn is_own(problem: &Problem, foreign: &BTreeSet<String>) -> bool {
    let own = section(&problem.path);
    let compared = COMPARED.iter().find(|(name, _)| *name == own).map_or(&[][..], |found| found.1);
    let named = |name: &String| problem.message.contains(&format!("{name}."));
    !foreign.contains(own)
        && !compared.iter().any(|name| foreign.contains(*name))
        && !foreign.iter().any(named)
}

fn section(path: &str) -> &str {
    path.split(['.', '[']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_that_is_checked_says_what_with() {
        let named: BTreeSet<&str> = COMPARED.iter().map(|(name, _)| *name).collect();
        let sections: BTreeSet<&str> =
            Rule::of(schema()).properties().map(|(name, _)| name.as_str()).collect();
        let rest: Vec<&&str> = sections.difference(&named).collect();
        assert_eq!(rest, [&"seed"]);
        assert!(named.is_subset(&sections));
    }
}
