//! What one rank does: model, data, training, decoding.
