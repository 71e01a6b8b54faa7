//! The interface of every network that can be a side of a model, and of every pre-trained one.

use std::fmt::Debug;
use std::path::Path;

/// A network that reads or writes.
pub trait Network: Debug {
    /// Its shape.
    fn shape(&self) -> Shape;

    /// Entries of its vocabulary.
    fn vocab_size(&self) -> usize;

    /// The tokenizer's file, where a pre-trained model's folder has it.
    fn tokenizer(&self) -> Option<&Path>;

    /// The folder whose weights are loaded, if any.
    fn weights(&self) -> Option<&Path>;

    /// Numbers that its layers keep for the backward pass, in a batch of so many tokens in sentences of
    /// this length.
    fn activations(&self, tokens: u64, length: u64) -> u64 {
        self.shape().activations(tokens, length)
    }
}

/// A network whose tensors have names and shapes of their own.
pub trait Pretrained: Network {
    /// Its tensors but for those of [`head`](Self::head).
    fn tensors(&self) -> Vec<Tensor>;

    /// The tensors that turn hidden states into words, in addition to the word embeddings.
    fn head(&self) -> Vec<Tensor>;

    /// The name of a tensor in its model.safetensors; none where it is not there.
    fn stored_name(&self, name: &str) -> Option<String>;

    /// Whether the file lacks the head, which is trained from random weights then.
    fn lacks_head(&self) -> bool {
        self.head().iter().any(|tensor| self.stored_name(&tensor.name).is_none())
    }
}

/// The shape of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// The kind of network, for messages.
    pub kind: &'static str,
    /// Number of layers.
    pub layers: usize,
    /// Width of the hidden states.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the feed-forward layers.
    pub feed_forward: usize,
    /// Number of positions: the longest sentence in tokens.
    pub positions: usize,
}

impl Shape {
    /// Numbers that the layers keep for the backward pass. Of each: 11 T·D (inputs of matrices and
    /// norms, dropout masks), 2 T·F (before and after the activation) and 2 H·T·T (attention
    /// probabilities before and after dropout).
    pub fn activations(&self, tokens: u64, length: u64) -> u64 {
        let Self { layers, width, feed_forward, heads, .. } = *self;
        let of_layer =
            tokens * (11 * width + 2 * feed_forward) as u64 + 2 * heads as u64 * tokens * length;
        layers as u64 * of_layer
    }
}

/// One tensor of a pre-trained model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name in the model's class in transformers, e.g. `BertForMaskedLM`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
}

/// What a tensor is for, which decides its value in a model that starts from random weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A matrix of embeddings or of a linear layer.
    Matrix,
    /// The weight of a layer norm.
    NormWeight,
    /// A bias.
    Bias,
}
