//! The coordinator: a run's life from its first worker to its report.
//!
//! - [`group`] runs one group of workers; [`members`] knows where its ranks are and which one is
//!   overdue; [`failure`] is what went wrong first, and the report about it, for which [`engine_log`]
//!   reads what mpirun or srun says.
//! - [`training`] handles what training workers say; [`evaluation`] merges and scores their parts.
//! - [`restarts`] decides what is done about a failure, [`gaps`] finds what is to be trained again;
//!   [`journal`] writes it all down.
//! - [`ledger`] knows what the time went into, [`stragglers`] who is slower than the others.
//! - [`life`] puts them together; [`teacher`] is what comes before training, for which
//!   [`translations`] are made or found; [`finish`] is what comes after, [`summary`] what the report
//!   tells of it.

pub mod engine_log;
pub mod evaluation;
pub mod failure;
pub mod finish;
pub mod gaps;
pub mod group;
pub mod interrupts;
pub mod journal;
pub mod launch;
pub mod ledger;
pub mod life;
pub mod members;
pub mod progress;
pub mod restarts;
pub mod session;
pub mod stragglers;
pub mod summary;
pub mod teacher;
pub mod training;
mod translations;
pub mod worker;
