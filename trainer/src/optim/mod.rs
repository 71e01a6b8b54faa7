//! Adam, learning rate schedules, and the runs of weights that an optimizer step updates one by one.

pub mod adam;
pub mod runs;
pub mod schedule;

pub use adam::Adam;
pub use runs::{Run, is_beside, runs};
pub use schedule::{learning_rate, share};
