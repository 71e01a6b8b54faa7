//! What libtorch computes on: [`cuda`] where it is there, the C++ shim ([`native`]) with what tch
//! does not offer, and what a [`precision`] means.

pub mod cuda;
pub mod native;
pub mod precision;
