//! What libtorch computes on: [`cuda`] where it is there, the C++ shim ([`native`]) with what tch
//! does not offer, and what a [`precision`] means.
//!
//! NVIDIA's libraries are loaded at run time: [`driver`] and [`nccl`], whose operations
//! [`crate::parallel::nccl`] uses.

pub mod cuda;
pub mod driver;
pub mod native;
pub mod nccl;
pub mod precision;
