//! The data of a run, from text files to batches.
//!
//! [`read`] takes records out of files, [`tokenizer`] makes ids of them ([`wordpiece`] learns its
//! vocabulary where there is none), [`build`] makes samples of those, and [`corpus`] keeps those of a
//! [`split`] in a [`cache`] with a report on what was wrong. The hashes of texts are remembered in
//! `remembered.rs`, and what several ranks need, one of them makes (`turn.rs`). [`batches`] orders samples,
//! [`corrupt`] chooses what is predicted, [`example`] lays them out in rows, perhaps with a teacher's
//! [`soft_labels`], and [`prefetch`] does that ahead of time. [`detokenize`] makes readable text of words again.

pub mod batches;
pub mod build;
pub mod cache;
pub mod corpus;
pub mod corrupt;
pub mod ctc;
pub mod detokenize;
pub mod example;
mod format;
pub mod parallel;
pub mod prefetch;
pub mod read;
mod remembered;
pub mod soft_labels;
pub mod split;
pub mod tokenizer;
pub(crate) mod turn;
pub mod wordpiece;
