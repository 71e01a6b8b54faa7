//! What libtorch computes on: [`cuda`] where it is there, the C++ shim ([`native`]) with what tch
//! does not offer, what a [`precision`] means, how tensors get there and back ([`transfer`]), and what
//! operators are called ([`calls`]).
//!
//! NVIDIA's libraries are loaded at run time: [`driver`] and [`nccl`], whose operations
//! [`crate::parallel::nccl`] uses.

pub mod calls;
pub(crate) mod cuda;
pub(crate) mod driver;
pub(crate) mod memory;
pub(crate) mod native;
pub(crate) mod nccl;
pub(crate) mod precision;
pub(crate) mod transfer;
