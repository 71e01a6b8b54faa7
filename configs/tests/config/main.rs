//! Run files as people write them: every mistake is found, every file in `configs/` is right.

mod berts;
mod committed;
mod files;
mod mutations;
mod soft_labels;
mod support;
mod transformers;
