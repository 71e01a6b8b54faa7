//! Collective operations, and the all-reduce of gradients.

pub mod buckets;
pub mod collective;
mod communication;
pub mod mpi;
pub mod nccl;
pub mod reducer;
pub mod shards;
pub mod solo;
pub mod tree;

pub use collective::{Collective, CollectiveError, Message};
pub use reducer::Reducer;
