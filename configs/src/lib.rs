//! What a run is: one YAML file, typed, validated, and resolved into a list of parameters.
//!
//! - [`schema`]: the types of a run file, a file for each section. [`RunConfig`] is the whole.
//! - [`mod@load`]: from a YAML file to a [`RunConfig`], or to all of its [`Problems`], each with its
//!   line. Every key is checked here.
//! - [`pretrained`]: the folders of pre-trained models that a run names, read without their weights.
//! - [`composition`]: the model of a run, opened: each side's network with its settings.
//! - [`parameters`]: every tensor of the model, and what the run needs of memory and disk.

pub mod composition;
pub mod load;
pub mod parameters;
pub mod pretrained;
pub mod schema;

pub use load::problem::{Place, Problem, ProblemKind, Problems};
pub use load::{check_overrides, load, load_to_use, load_trained, read, run_of};
pub use schema::run::RunConfig;
