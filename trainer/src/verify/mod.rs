//! Is it right, and how fast is it? [`parity`] compares the model with its authors' code,
//! [`check_gpu`] a GPU with the CPU; [`mod@bench`] takes times.

pub(crate) mod bench;
pub(crate) mod check_gpu;
pub(crate) mod parity;
