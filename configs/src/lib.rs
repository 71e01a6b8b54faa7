//! What a run is: one YAML file, typed, validated, and resolved into a list of parameters.
//!
//! - [`RunConfig`] is the schema; each section is a file of its own: [`run`], [`data`], [`model`]
//!   (with [`transformer`] and [`soft_labels`]), [`training`], [`decoding`], [`evaluation`],
//!   [`checkpoints`], [`cluster`].
//! - [`load()`] reads and validates a YAML file: `yaml` gives a tree with places, `overrides`
//!   changes it, `shape` compares it with the [`schema`] of the types, `paths` expands `~` and
//!   variables, `resolve` makes paths absolute, `inputs` and `checks` find what does not go together, in those `sections` that fit
//!   the schema. All of it becomes [`Problems`], each with its place.
//! - [`bases`] finds the pre-trained BERTs that a run names; [`bert`] and [`gpt2`] read a pre-trained
//!   folder's shape without loading its weights, [`family`] has the kinds of BERT that there are, [`tokenizer`] what it says of its text.
//! - [`parameters`] lists every tensor of a model: name, shape, trained or frozen, initial value;
//!   [`estimate`] tells from it what memory and disk a run needs, [`reduction`] how many buffers of
//!   gradients.

pub mod bases;
pub mod bert;
pub mod checkpoints;
mod checks;
pub mod cluster;
pub mod data;
pub mod decoding;
pub mod estimate;
pub mod evaluation;
pub mod family;
pub mod gpt2;
mod inputs;
pub mod load;
pub mod model;
mod overrides;
pub mod parameters;
mod paths;
pub mod problem;
pub mod reduction;
mod resolve;
pub mod run;
pub mod schema;
mod sections;
mod shape;
pub mod soft_labels;
pub mod tokenizer;
pub mod training;
pub mod transformer;
mod yaml;

pub use load::{check_overrides, load, load_to_use, load_trained, read};
pub use problem::{Kind, Place, Problem, Problems};
pub use run::RunConfig;
