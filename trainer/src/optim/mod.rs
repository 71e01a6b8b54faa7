//! Adam, with state that can be saved, the learning rate of each step, and steps that are made block
//! by block.

pub mod adam;
pub mod runs;
pub mod schedule;

pub use adam::Adam;
pub use runs::{Run, runs};
pub use schedule::{learning_rate, share};
