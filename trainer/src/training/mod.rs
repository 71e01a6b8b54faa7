//! Training.
//!
//! [`train`] is the loop. [`micro_batches`] are what it reads, [`update`] joins the optimizer with the
//! reduction of gradients, [`checkpoint`] is what this rank saves, [`metrics`] where the time goes.
//! A [`teacher`] may label the pairs before; [`export`] writes a pre-trained BERT afterwards.

pub mod checkpoint;
pub mod export;
pub mod metrics;
pub mod micro_batches;
pub mod teacher;
pub mod train;
pub mod update;
