//!
//! - [`control`]: what workers and the coordinator tell each other.
//! - [`store`]: checkpoints that are either complete and verified, or do not exist.
//! - [`task`]: what a group of workers translates; [`shards`]: what they have made of it.
//! - [`made`]: training data that a teacher made.
//! - [`run_folder`]: where everything lies, and who may write to it.
//! - [`room`]: the hosts that there are; [`slurm`]: what Slurm gives and says.
//! - [`topology`]: how many ranks, on what, where.
//! - [`engine`]: what starts them, and ends them.
//! - [`libraries`]: what the worker program finds of the libraries that it needs;
//!   [`gpu_report`]: what it finds out about a GPU.
//! - [`network`]: the way to other hosts.
//! - [`process`]: process groups and their end.
//! - [`temporary`]: files and folders that go with their owner, and files replaced in one step.
//! - [`words`]: errors, put into words.

pub mod control;
pub mod engine;
pub mod gpu_report;
pub mod libraries;
pub mod made;
pub mod network;
pub mod process;
pub mod room;
pub mod run_folder;
pub mod shards;
pub mod slurm;
pub mod store;
pub mod task;
pub mod temporary;
pub mod topology;
pub mod words;
