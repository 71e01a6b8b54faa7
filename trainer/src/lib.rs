//! `tandem-worker`: what one rank does.
//!
//! From the top down; each room uses only those below it.
//!
//! - [`commands`]: the verbs of the program. [`verify`]: comparisons with the authors' code and of a
//!   GPU with the CPU, and the benchmarks.
//! - [`training`]: the loop. [`inference`]: decoding, evaluation, translation.
//! - [`session`]: this rank, its tokenizers and corpora, a trained model.
//! - [`objective`]: a model and its loss. [`optim`]: Adam and learning rates.
//! - [`parallel`]: collectives and the all-reduce of gradients. [`model`]: the networks.
//!   [`data`]: from text files to batches.
//! - [`device`]: CUDA, the C++ shim, precisions. [`random`]: every random number of a run.

pub mod commands;
pub mod data;
pub mod device;
pub mod inference;
pub mod model;
pub mod objective;
pub mod optim;
pub mod parallel;
pub mod random;
pub mod session;
pub mod training;
mod verify;
