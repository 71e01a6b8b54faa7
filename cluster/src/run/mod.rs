//! A run as launcher and worker share it.
//!
//! - [`folder`]: where everything lies, and the lock that decides who may write there.
//! - [`control`]: the messages between workers and coordinator.
//! - [`store`]: checkpoints, either complete and verified or not there.
//! - [`task`]: what a group of workers translates; [`shards`]: files of finished work;
//!   [`synthetic`]: training data that a teacher made.
//! - [`gpu_report`], [`libraries`]: what the worker program reports about a machine.
//! - [`temporary`]: files replaced in one step, and scratch folders that go with their owner.

pub mod control;
pub mod folder;
pub mod gpu_report;
pub mod libraries;
pub mod shards;
pub mod store;
pub mod synthetic;
pub mod task;
pub mod temporary;
