//! What networks are made of: [`linear`] layers, activations and norms, [`attention`], the encoder's
//! bottleneck [`adapter`]; and [`positions`], to which the last layer is confined.

pub mod adapter;
pub mod attention;
pub mod linear;
pub mod positions;
