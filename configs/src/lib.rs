//! What a run is: one YAML file, typed, validated, and resolved into a list of parameters.
//!
//! - [`RunConfig`] is the schema; each section is a file of its own: [`run`], [`data`], [`model`],
//!   [`training`], [`decoding`], [`evaluation`], [`checkpoints`], [`cluster`].
//! - [`bases`] finds the pre-trained BERTs that a run names; [`bert`] reads a pre-trained folder's shape without loading its weights.
//! - [`parameters`] lists every tensor of a model: name, shape, trained or frozen, initial value.

pub mod bases;
pub mod bert;
pub mod checkpoints;
pub mod cluster;
pub mod data;
pub mod decoding;
pub mod evaluation;
pub mod model;
pub mod parameters;
pub mod run;
pub mod training;

pub use run::RunConfig;
