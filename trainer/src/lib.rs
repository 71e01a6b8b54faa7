//! What one rank does.
//!
//! [`commands`] are the program's verbs. [`train`] is the loop, before which a [`teacher`] may label
//! the pairs, [`evaluate`] scores and [`decode`] translates; they stand on [`objective`] (what is
//! trained: a model and its [`loss`]), [`data`], [`optim`] and [`parallel`] (ranks and the reduction
//! of gradients; [`update`] joins the two), and these on [`model`], which knows no ranks and no files.
//! [`blame`] knows which samples a thread works on when it fails, [`build_id`] which program this is.
//! [`parity`] compares the model with its authors' code, [`check_gpu`] a GPU with the CPU.

pub mod bench;
pub mod blame;
pub mod build_id;
pub mod check_gpu;
pub mod checkpoint;
pub mod commands;
pub mod corpora;
pub mod cuda;
pub mod data;
pub mod decode;
pub mod evaluate;
pub mod export;
pub mod loss;
pub mod metrics;
pub mod model;
pub mod native;
pub mod objective;
pub mod optim;
pub mod parallel;
pub mod parity;
pub mod precision;
pub mod stream;
pub mod teacher;
pub mod train;
pub mod trained;
pub mod translate;
pub mod update;
pub mod worker;
