//! Problems in a run file, with their places.

use std::fmt;
use std::path::PathBuf;

use crate::pretrained::hub::names_model;

/// A place in the YAML file or in a `--set` on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The file as a whole.
    Whole,
    /// A position in the file; both numbers count from 1.
    File {
        /// The line.
        line: usize,
        /// The column, in characters.
        column: usize,
    },
    /// The override of this index.
    Override(usize),
}

/// The kind of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// The run file is missing, unreadable or not YAML.
    Unreadable,
    /// A key or value is not in the schema.
    Schema,
    /// Keys or BERTs contradict each other.
    Conflict,
    /// A file or folder that the config names does not exist; the config itself may be right.
    MissingInput,
}

/// A problem in a run file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What sort of problem it is.
    pub kind: ProblemKind,
    /// Where it stands.
    pub place: Place,
    /// The key, as in `training.schedule`; empty for the file as a whole.
    pub path: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// All problems of a run file, in the order of its lines; never empty as an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// The file.
    pub file: PathBuf,
    /// The overrides, as given on the command line.
    pub overrides: Vec<String>,
    /// The problems.
    pub list: Vec<Problem>,
}

impl Problems {
    /// Whether the config is valid and only files that it names are missing.
    pub fn only_missing_inputs(&self) -> bool {
        self.list.iter().all(|problem| problem.kind == ProblemKind::MissingInput)
    }

    /// Removes missing inputs that using a trained model does not need, that is all except its BERTs.
    #[must_use]
    pub fn of_using(mut self) -> Self {
        self.list.retain(|problem| {
            problem.kind != ProblemKind::MissingInput || names_model(&problem.path)
        });
        self
    }
}

impl fmt::Display for Problems {
    /// One line each, `file:line:column: path.to.key: what is wrong`.
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            match problem.place {
                Place::Whole => write!(out, "{}: ", self.file.display())?,
                Place::File { line, column } => {
                    write!(out, "{}:{line}:{column}: ", self.file.display())?;
                }
                Place::Override(index) => write!(out, "--set {}: ", self.overrides[index])?,
            }
            if !problem.path.is_empty() {
                write!(out, "{}: ", problem.path)?;
            }
            write!(out, "{}", problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
