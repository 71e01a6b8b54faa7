//! The tensors of a GPT-2 that writes.

use super::{List, Parameter, layers};
use crate::pretrained::gpt2::{Gpt2Folder, tensors_of};
use crate::schema::model::PretrainedDecoder;

/// A GPT-2 with cross-attention adapters over memory of `memory_width`.
pub fn decoder(gpt2: &Gpt2Folder, side: &PretrainedDecoder, memory_width: usize) -> Vec<Parameter> {
    let mut list = List::new("decoder.");
    list.pretrained(tensors_of(&gpt2.config), side.train, |name| gpt2.stored_name(name));
    let Some(cross_attention) = &side.cross_attention else { return list.parameters };
    for layer in layers(&cross_attention.layers, gpt2.config.n_layer) {
        list.scoped(&format!("layer.{layer}."), |list| {
            list.cross_attention(gpt2.config.n_embd, memory_width);
        });
    }
    list.parameters
}
