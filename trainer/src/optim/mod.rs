//! Adam, with state that can be saved, and the learning rate of each step.

pub mod adam;
pub mod schedule;

pub use adam::Adam;
pub use schedule::{learning_rate, share};
