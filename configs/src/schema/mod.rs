//! The types of a run file: a file for each section, of which [`run`] is the whole; [`json`] is the
//! JSON Schema that they define.

pub mod checkpoints;
pub mod cluster;
pub mod data;
pub mod decoding;
pub mod evaluation;
pub mod json;
pub mod model;
pub mod run;
pub mod soft_labels;
pub mod training;
pub mod transformer;
pub mod vocabulary;
