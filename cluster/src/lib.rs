//!
//! - [`control`]: what workers and the coordinator tell each other.
//! - [`store`]: checkpoints that are either complete and verified, or do not exist.
//! - [`process`]: process groups and their end.

pub mod control;
pub mod process;
pub mod store;
