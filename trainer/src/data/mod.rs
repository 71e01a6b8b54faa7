//! The data of a run, from text files to batches.
//!
//! [`read`] reads records from files, [`tokenizer`] converts them to ids ([`wordpiece`] learns a vocabulary if
//! there is none), and [`build`] makes samples of them. [`corpus`] keeps the samples of a [`split`] in a
//! [`cache`], with a [`report`] on bad lines. [`batches`] orders the samples, [`corrupt`] chooses what is
//! predicted, [`example`] lays them out as rows, optionally with a teacher's [`soft_labels`], and [`prefetch`]
//! does this ahead of time. [`detokenize`] turns words back into readable text. All randomness is in
//! [`random`].

pub mod batches;
pub mod build;
pub mod cache;
pub mod corpus;
pub mod corrupt;
pub mod detokenize;
pub mod example;
mod form;
pub mod parallel;
pub mod prefetch;
pub mod random;
pub mod read;
pub mod report;
pub mod soft_labels;
pub mod split;
pub mod tokenizer;
pub mod wordpiece;
