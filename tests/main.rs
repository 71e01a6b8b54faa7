//! Tests of the real programs, built by `cargo build --release` beforehand.

mod bits;
mod export;
mod parity;
mod pipeline;
