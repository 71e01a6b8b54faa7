//! The real programs on a real Slurm cluster of simulated nodes, and on simulated hosts without
//! Slurm. All of it needs root: `make test-slurm`.

mod chaos;
mod endings;
mod forms;
mod hosts;
mod lab;
