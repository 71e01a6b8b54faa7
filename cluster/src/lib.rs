//!
//! - [`control`]: what workers and the coordinator tell each other.
//! - [`process`]: process groups and their end.

pub mod control;
pub mod process;
