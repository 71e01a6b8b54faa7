//! When a forward pass needs which weights.

/// The weights that one moment of a forward pass needs, in the order of these moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Block {
    /// All that is in no layer below: embeddings, heads, a BERT beside the encoder. Needed first.
    Outside,
    /// A layer of the encoder, with its adapter.
    Encoder(usize),
    /// A layer of the decoder, with its cross-attention.
    Decoder(usize),
}

impl Block {
    /// The block of a parameter by its name.
    pub fn of(name: &str) -> Self {
        let mut parts = name.split('.');
        let side = parts.next();
        // Whatever a network calls its layers, nothing else in a name is a number.
        match (side, parts.find_map(|part| part.parse().ok())) {
            (Some("encoder"), Some(index)) => Self::Encoder(index),
            (Some("decoder"), Some(index)) => Self::Decoder(index),
            _ => Self::Outside,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_block() {
        for (name, block) in [
            ("encoder.length_embedding.weight", Block::Outside),
            ("encoder.layer.11.adapter.up.weight", Block::Encoder(11)),
            ("encoder.bert.encoder.layer.3.output.dense.weight", Block::Encoder(3)),
            ("decoder.layer.0.cross_attention.key.bias", Block::Decoder(0)),
            ("decoder.transformer.h.7.mlp.c_fc.weight", Block::Decoder(7)),
            ("decoder.cls.predictions.bias", Block::Outside),
            ("fused.bert.encoder.layer.3.output.dense.weight", Block::Outside),
        ] {
            assert_eq!(Block::of(name), block, "{name}");
        }
        assert!(Block::Outside < Block::Encoder(0) && Block::Encoder(99) < Block::Decoder(0));
    }
}
