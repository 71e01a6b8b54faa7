//! The launcher at a terminal: [`output`] that may fail to be written, [`text`] that people hand over,
//! [`progress`] while a run goes on, [`interrupts`] (signals), [`exit`] codes.

pub mod exit;
pub mod interrupts;
pub mod output;
pub mod progress;
pub mod text;
