//! Conflicts in a run file of which some sections do not fit the schema: the sections that do fit
//! are checked all the same, so that everything that is wrong is told at once.
//!
//! In the place of a section that does not fit stands the one of `example.yaml`. What is found
//! then is told only if no such section has a part in it.

use std::collections::BTreeSet;

use crate::load::problem::Problem;
use crate::load::yaml::{self, Content, Node};
use crate::schema::json::{Rule, schema};

/// What each section is compared with.
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

/// The file with sections that all fit, and which of them are the example's; none if the file is
/// no map of sections.
pub fn mend(root: &Node, problems: &[Problem]) -> Option<(Node, BTreeSet<String>)> {
    let Content::Map(entries) = &root.content else { return None };
    let example = yaml::parse(include_str!("../../example.yaml"), &mut Vec::new()).ok()??;
    let sections: Vec<&str> =
        Rule::of(schema()).properties().map(|(name, _)| name.as_str()).collect();
    let mut foreign: BTreeSet<String> =
        problems.iter().map(|problem| section(&problem.path).to_owned()).collect();
    if entries.iter().any(|entry| !sections.contains(&entry.key.as_str())) {
        // It may be the name of any that is not there.
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

/// Whether a problem has nothing to do with `foreign` sections.
pub fn is_own(problem: &Problem, foreign: &BTreeSet<String>) -> bool {
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
