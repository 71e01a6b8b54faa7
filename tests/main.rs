//! Tests of the real programs, built by `cargo build --release` beforehand.

mod bits;
mod parity;
mod pipeline;
