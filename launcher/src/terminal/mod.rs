//! What people read and type: [`output`] that may fail to be written, [`text`] that they hand over,
//! [`exit`] codes.

pub mod exit;
pub mod output;
pub mod text;
