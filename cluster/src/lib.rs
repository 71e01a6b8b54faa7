//! What the launcher and the workers share: processes, hosts, Slurm, and the protocol of a run.
//!
//! - [`run`]: the run folder and all that launcher and worker exchange: the control channel,
//!   checkpoints, work files, records.
//! - [`hosts`]: the hosts that a run may use, and the network between them; [`slurm`]: what Slurm says.
//! - [`topology`]: how many ranks, on what, where; [`engine`]: what starts and ends them.
//! - [`process`]: process groups and their end. [`error`]: an error with its causes as one line.

pub mod engine;
pub mod error;
pub mod hosts;
pub mod process;
pub mod run;
pub mod slurm;
pub mod topology;
