//! What people type: the verbs, and the coordinator of a run.
//!
//! - [`commands`]: one file a verb, arguments and one call.
//! - [`prepare`] makes a run folder ready, [`changes`] tells one run from another, [`hub`] fetches the
//!   BERTs it names, [`plan`] says what would happen.
//! - [`launch`] takes a run from wherever it stands to its end; [`coordinator`]: its life.
//! - [`doctor`]: what keeps a machine, or a run on it, from working.
//! - [`score`] is BLEU and chrF, [`tensorboard`] the curves, [`report`] the finished run told to
//!   people, [`progress`] what they see meanwhile.
//! - [`recipes`] makes the paper's corpora ready, [`reproduce`] its tables. [`logs`] reads the ranks'
//!   logs as one.
//! - [`session`]: a group of workers that evaluates or translates with a trained model.
//! - [`worker`]: the worker program and its command lines. [`interrupts`]: signals. [`text`]: lines that
//!   people hand over, [`output`] what is printed. [`exit`]: how the launcher ends.

// They panic where nobody reads or the disk is full: see `output`, and `process::say`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod changes;
pub mod commands;
pub mod coordinator;
pub mod doctor;
pub mod exit;
pub mod hub;
pub mod interrupts;
pub mod job;
pub mod launch;
pub mod logs;
pub mod output;
pub mod plan;
pub mod prepare;
pub mod progress;
pub mod recipes;
pub mod report;
pub mod reproduce;
pub mod score;
pub mod session;
pub mod takeover;
pub mod tensorboard;
pub mod text;
pub mod worker;
