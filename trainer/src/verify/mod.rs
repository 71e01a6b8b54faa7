//! Is it right, and how fast is it? [`parity`] compares the model with its authors' code,
//! [`check_gpu`] a GPU with the CPU; [`mod@bench`] takes times.

pub mod bench;
pub mod check_gpu;
pub mod parity;
