//! How checks report what they find.

use crate::load::problem::{Problem, ProblemKind};
use crate::load::yaml::Node;

/// Collects problems and finds the places of their keys.
pub(super) struct Report<'a> {
    /// The file's tree.
    pub root: &'a Node,
    /// What has been found.
    pub problems: &'a mut Vec<Problem>,
}

impl Report<'_> {
    /// Keys that do not go together.
    pub(super) fn conflict(&mut self, path: &str, message: String) {
        self.add(ProblemKind::Conflict, path, message);
    }

    /// A file that is not there.
    pub(super) fn missing(&mut self, path: &str, message: String) {
        self.add(ProblemKind::MissingInput, path, message);
    }

    fn add(&mut self, kind: ProblemKind, path: &str, message: String) {
        let place = self.root.place_of(path);
        self.problems.push(Problem { kind, place, path: path.to_owned(), message });
    }
}
