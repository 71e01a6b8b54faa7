//! The launcher at a terminal: [`output`] that may fail to be written, [`text`] input and formatting,
//! [`progress`] of a run, [`interrupts`] (signals), [`exit`] codes.

pub mod exit;
pub mod interrupts;
pub mod output;
pub mod progress;
pub mod text;
