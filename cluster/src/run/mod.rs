//! A run as launcher and worker share it.
//!
//! - [`folder`], [`evaluation`]: where everything lies, and the lock that decides who may write there.
//! - [`control`]: the messages between workers and coordinator; [`records`]: what they carry and what
//!   the run's files hold; [`exit`]: how either ends.
//! - [`store`]: checkpoints, either complete and verified or not there.
//! - [`task`]: what a group of workers translates; [`chunks`]: files of finished work;
//!   [`synthetic`]: training data that a teacher made.
//! - [`ngrams`]: the file of a language model.
//! - [`gpu_report`], [`libraries`]: what the worker program reports about a machine.
//! - [`atomic`]: files replaced in one step, and scratch folders that go with their owner;
//!   [`io_error`]: what the file system refused.

pub mod atomic;
pub mod chunks;
pub mod control;
pub mod evaluation;
pub mod exit;
pub mod folder;
pub mod gpu_report;
pub mod io_error;
pub mod libraries;
pub mod ngrams;
pub mod records;
pub mod store;
pub mod synthetic;
pub mod task;
