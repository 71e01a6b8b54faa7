//! What libtorch computes on: [`cuda`] where it is there, the C++ shim ([`native`]) with what tch
//! does not offer, and what a [`precision`] means.
//!
//! NVIDIA's libraries are loaded at run time: [`driver`] and [`nccl`], whose operations
//! [`crate::parallel::nccl`] uses.

pub(crate) mod cuda;
pub(crate) mod driver;
pub(crate) mod memory;
pub(crate) mod native;
pub(crate) mod nccl;
pub(crate) mod precision;
