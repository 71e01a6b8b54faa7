//! How much the trainer works on at a time: what it allocates, and what the plan counts with.

/// Predicted positions whose logits over a vocabulary are held at a time: 64 MiB of them in f32, or
/// those of 16 positions.
pub fn logit_rows(vocabulary: u64) -> u64 {
    ((16 << 20) / vocabulary).max(16)
}

/// Padded tokens that a BERT which labels the training pairs reads at a time.
pub const LABELLING_TOKENS: usize = 4000;
