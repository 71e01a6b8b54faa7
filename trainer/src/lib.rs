//! What one rank does: model, data, training, decoding.

pub mod data;
