//! The texts of a run: from files to batches.

pub mod batches;
pub mod cache;
pub mod corpus;
pub mod parallel;
pub mod random;
pub mod read;
pub mod report;
pub mod tokenizer;
pub mod wordpiece;
