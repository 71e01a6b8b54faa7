//! Tests of the real programs, built by `cargo build --release` beforehand.

mod bench;
mod bits;
mod causes;
mod chaos;
mod check_gpu;
mod collectives;
mod compositions;
mod dashboards;
mod doctor;
mod elastic;
mod export;
mod faults;
mod first_steps;
mod gaps;
mod gpu;
mod hub;
mod paper;
mod parity;
mod pipeline;
mod preflight;
mod reproduce;
mod score;
mod serve;
mod teachers;
mod transformers;
mod used;
