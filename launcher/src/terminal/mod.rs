//! The launcher at a terminal: [`output`] that may fail to be written, [`text`] input and formatting,
//! [`progress`] of a run, [`interrupts`] (signals), [`exit`] codes.

pub(crate) mod exit;
pub(crate) mod interrupts;
pub(crate) mod output;
pub(crate) mod progress;
pub(crate) mod text;
