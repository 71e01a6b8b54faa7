//! From a YAML file to a valid [`RunConfig`], or to all of its mistakes.

mod checks;
mod inputs;
mod labels;
mod overrides;
mod paths;
pub mod problem;
mod report;
mod resolve;
mod sections;
mod shape;
mod yaml;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::composition::{CompositionError, find, open_bert};
use crate::load::problem::{Place, Problem, ProblemKind, Problems};
use crate::load::resolve::resolve;
use crate::load::sections::is_own;
use crate::load::yaml::{Content, Node};
use crate::pretrained::bert::Bert;
use crate::pretrained::hub::locate;
use crate::schema::decoding::Decoding;
use crate::schema::json::schema;
use crate::schema::model::Encoder;
use crate::schema::run::{Run, RunConfig};

/// Loads and validates a run file; `overrides` are `path.to.key=value`.
///
/// Paths of data, vocabulary and BERTs are relative to the file and absolute in the result. BERTs
/// named by their name on the hub need not be on this machine yet.
///
/// # Errors
/// All mistakes, in the order of the file's lines.
pub fn load(path: &Path, overrides: &[String]) -> Result<RunConfig, Problems> {
    let (run, problems) = read(path, overrides)?;
    if problems.list.is_empty() { Ok(run) } else { Err(problems) }
}

/// Checks that overrides are `path.to.key=value` with YAML values, independently of any run.
///
/// # Errors
/// The overrides that are not.
pub fn check_overrides(overrides: &[String]) -> Result<(), Problems> {
    let mut list = Vec::new();
    overrides::apply(&mut Node::map(Place::Whole), overrides, &mut list);
    match list.is_empty() {
        true => Ok(()),
        false => Err(Problems { file: PathBuf::new(), overrides: overrides.to_owned(), list }),
    }
}

/// Reads a run file, and returns the config together with problems that would keep it from working here, such
/// as missing inputs.
///
/// # Errors
/// All mistakes in the keys and values.
pub fn read(path: &Path, overrides: &[String]) -> Result<(RunConfig, Problems), Problems> {
    read_without(&[], path, overrides)
}

/// Like [`read`], ignoring some sections of the file.
fn read_without(
    sections: &[&str],
    path: &Path,
    overrides: &[String],
) -> Result<(RunConfig, Problems), Problems> {
    let mut problems = Vec::new();
    let all = |mut list: Vec<Problem>| {
        list.sort_by_key(|problem| problem.place);
        Problems { file: path.to_owned(), overrides: overrides.to_owned(), list }
    };
    let root = match tree(path, sections, overrides, &mut problems) {
        Ok(root) => root,
        Err(problem) => {
            problems.push(*problem);
            return Err(all(problems));
        }
    };
    shape::compare(&root, schema(), &mut problems);
    let folder = path.parent().unwrap_or(Path::new(""));
    if !problems.is_empty() {
        if let Some((mended, foreign)) = sections::mend(&root, &problems)
            && let Ok((_, conflicts)) = checked(&mended, folder)
        {
            problems.extend(conflicts.into_iter().filter(|found| is_own(found, &foreign)));
        }
        return Err(all(problems));
    }
    match checked(&root, folder) {
        Ok((run, conflicts)) => Ok((run, all(conflicts))),
        Err(error) => Err(all(vec![whole(ProblemKind::Schema, error.to_string())])),
    }
}

/// The config of a tree that fits the schema, and all conflicts in it.
fn checked(root: &Node, folder: &Path) -> Result<(RunConfig, Vec<Problem>), serde_json::Error> {
    let mut problems = Vec::new();
    let mut root = root.clone();
    paths::expand_all(&mut root, &mut problems);
    paths::follow(&mut root, folder);
    let root = &root;
    let mut run: RunConfig = serde_json::from_value(root.to_value())?;
    if root.entry("decoding").is_none() {
        run.decoding = Decoding::of(&run.model.objective);
    }
    resolve(&mut run, folder);
    let mut report = report::Report { root, problems: &mut problems };
    let shapes = inputs::check(&run, &mut report);
    checks::check(&run, &shapes, &mut report);
    Ok((run, problems))
}

/// Loads the run file of a trained model, whose training data may be gone.
///
/// # Errors
/// Like [`load`], except for missing inputs.
pub fn load_trained(path: &Path) -> Result<RunConfig, Problems> {
    usable(read(path, &[])?)
}

/// Loads the run file of a trained model for use, perhaps on another machine: its section `cluster` is ignored
/// except for overrides, and its training data may be gone.
///
/// # Errors
/// As [`load_trained`].
pub fn load_to_use(path: &Path, overrides: &[String]) -> Result<RunConfig, Problems> {
    usable(read_without(&["cluster"], path, overrides)?)
}

fn usable((run, problems): (RunConfig, Problems)) -> Result<RunConfig, Problems> {
    let problems = problems.of_using();
    if problems.list.is_empty() { Ok(run) } else { Err(problems) }
}

/// The folder of a run that is named by its folder or by its run file; none where that is no run file.
///
/// Only the place is read, so that a run file may name itself, which is refused elsewhere.
pub fn run_of(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        return Some(path.to_owned());
    }
    let mut root = tree(path, &[], &[], &mut Vec::new()).ok()?;
    paths::expand_all(&mut root, &mut Vec::new());
    let run: Run = serde_json::from_value(root.entry("run")?.value.to_value()).ok()?;
    std::path::absolute(run.path()).ok()
}

/// The BERT that labels a run's pairs, if any: where its run has not made it yet, the one that its run
/// starts from.
///
/// # Errors
/// A BERT that is not on this machine, or whose folder is unusable.
pub fn labelling_bert(run: &RunConfig) -> Result<Option<Bert>, CompositionError> {
    let Some(labels) = run.model.soft_labels() else { return Ok(None) };
    if locate(labels.bert()).is_none()
        && let Some(teacher) = &labels.teacher
        && let Ok((teacher, _)) = read(teacher, &[])
        && let Encoder::Bert(encoder) = &teacher.model.encoder
    {
        return open_bert(encoder).map(Some);
    }
    Ok(Some(Bert::open(&find(labels.bert())?)?))
}

impl RunConfig {
    /// The config as YAML, including defaults; [`load`] reads it back.
    ///
    /// # Errors
    /// Never for a config that was loaded.
    pub fn to_yaml(&self) -> Result<String, serde_yaml::Error> {
        // By way of JSON, where a choice is a one-key map instead of a YAML tag.
        let value =
            serde_json::to_value(self).map_err(<serde_yaml::Error as serde::ser::Error>::custom)?;
        serde_yaml::to_string(&value)
    }
}

/// The file's tree without some sections, with the overrides applied.
fn tree(
    path: &Path,
    without: &[&str],
    overrides: &[String],
    problems: &mut Vec<Problem>,
) -> Result<Node, Box<Problem>> {
    let unreadable = |message: String| Box::new(whole(ProblemKind::Unreadable, message));
    let bytes = std::fs::read(path).map_err(|error| {
        unreadable(match error.kind() {
            ErrorKind::NotFound => "there is no such file, give the path of a run's YAML".into(),
            _ => format!("cannot be read: {error}"),
        })
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        let column =
            1 + String::from_utf8_lossy(before).chars().rev().take_while(|&c| c != '\n').count();
        let mut problem = unreadable("not UTF-8, save the file as UTF-8".into());
        problem.place = Place::File { line, column };
        problem
    })?;
    let root = yaml::parse(&text, problems)?.filter(|root| !root.is_null());
    let mut root = root.ok_or_else(|| {
        unreadable("the file is empty, a run needs at least run, data, model and training".into())
    })?;
    if let Content::Map(entries) = &mut root.content {
        entries.retain(|entry| !without.contains(&&*entry.key));
    }
    overrides::apply(&mut root, overrides, problems);
    Ok(root)
}

fn whole(kind: ProblemKind, message: String) -> Problem {
    Problem { kind, place: Place::Whole, path: String::new(), message }
}
