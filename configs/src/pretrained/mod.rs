//! The folders of pre-trained models that a run names, read without their weights: shapes, names of
//! tensors, vocabularies.
//!
//! [`bases`] finds them; [`bert`] and [`gpt2`] read one; [`family`] has a file for each kind of BERT
//! (RoBERTa and its relatives); [`tokenizer`] is what a folder says of how text becomes ids.

pub mod bases;
pub mod bert;
pub mod family;
pub mod gpt2;
pub mod tokenizer;
