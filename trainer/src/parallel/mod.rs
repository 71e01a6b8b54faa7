//! Operations in which every rank takes part, and the reduction of gradients.

pub mod collective;
pub mod mpi;
pub mod reducer;
pub mod solo;

pub use collective::{Collective, CollectiveError, Message};
pub use reducer::Reducer;
