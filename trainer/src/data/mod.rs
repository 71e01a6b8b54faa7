//! The texts of a run: from files to batches.

pub mod parallel;
pub mod random;
pub mod read;
pub mod tokenizer;
pub mod wordpiece;
