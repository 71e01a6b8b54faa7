//! What people type: the verbs, and the coordinator of a run.

pub mod report;
pub mod score;
pub mod tensorboard;
