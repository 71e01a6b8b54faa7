//! The launcher inside a batch job of Slurm.
//!
//! [`script`] is what `tandem slurm` submits. [`job`] watches the job in which the launcher runs, up
//! to its end ([`crate::journal::ending`]), after which another job may resume the run; [`takeover`] ends what an earlier
//! instance of a requeued job left running.

pub(crate) mod job;
pub(crate) mod script;
pub(crate) mod takeover;
