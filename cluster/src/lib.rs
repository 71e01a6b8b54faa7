//!
//! - [`control`]: what workers and the coordinator tell each other.
//! - [`store`]: checkpoints that are either complete and verified, or do not exist.
//! - [`run_folder`]: where everything lies, and who may write to it.
//! - [`topology`]: how many ranks, on what.
//! - [`engine`]: what starts them, and ends them.
//! - [`process`]: process groups and their end.

pub mod control;
pub mod engine;
pub mod process;
pub mod run_folder;
pub mod store;
pub mod topology;
