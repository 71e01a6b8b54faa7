//! `tandem`: the launcher's verbs, and the coordinator of a run.
//!
//! - [`commands`]: a file for each verb.
//! - [`launch`]: a run from wherever it stands to its end. [`coordinator`]: its workers, stage by stage.
//!   [`journal`]: what is recorded of it. [`slurm`]: the batch job around it.
//! - [`prepare`]: from a config to a run folder that is ready; the plan; the worker program.
//! - [`metrics`]: what Prometheus scrapes.
//! - [`serve`]: translations over HTTP.
//! - [`doctor`]: what keeps a machine, or a run on it, from working.
//! - [`export`]: the model as a folder that transformers loads.
//! - [`report`]: the finished run for people; [`tensorboard`]: its curves; [`score`]: BLEU and chrF.
//! - [`corpora`] prepares the paper's corpora, [`reproduce`] makes its tables.
//! - [`terminal`]: what is printed, signals, exit codes.

// They panic where nobody reads or the disk is full: see `terminal::output`, and `process::say`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod commands;
mod coordinator;
mod corpora;
mod doctor;
mod export;
mod journal;
mod launch;
mod metrics;
mod prepare;
mod report;
mod reproduce;
mod score;
mod serve;
mod slurm;
pub mod tensorboard;
mod terminal;
