//! Pre-trained models: the folders that a run names, read without their weights.
//!
//! [`network`] is what all of them answer. Each kind is a file ([`bert`], [`gpt2`]) and a variant of
//! [`PretrainedModel`]; relatives of BERT (RoBERTa, XLM-R) are a file each in [`family`]. [`hub`] finds a
//! folder by its name, [`folder`] is what all folders have, [`tokenizer`] what they say of how text
//! becomes ids.

pub mod bert;
pub mod error;
pub mod family;
pub mod folder;
pub mod gpt2;
pub mod hub;
pub mod network;
pub mod tokenizer;

use std::ops::Deref;
use std::path::Path;

use bert::Bert;
use folder::FolderError;
use gpt2::Gpt2Folder;
use network::Pretrained;

use crate::schema::model::{Decoder, PretrainedDecoder};
use crate::schema::transformer::Transformer;

/// A pre-trained model of any kind. It dereferences to what all kinds have in common.
#[derive(Debug, Clone, PartialEq)]
pub enum PretrainedModel {
    /// A BERT.
    Bert(Bert),
    /// A GPT-2.
    Gpt2(Gpt2Folder),
}

impl Deref for PretrainedModel {
    type Target = dyn Pretrained;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Bert(bert) => bert,
            Self::Gpt2(gpt2) => gpt2,
        }
    }
}

/// What is known of a kind of pre-trained model before a folder is opened.
#[derive(Debug)]
pub struct Kind {
    /// Its key in a run file.
    pub key: &'static str,
    /// Its name in messages.
    pub name: &'static str,
    /// Whether it was pre-trained to see nothing but what stands before a token.
    pub sees_left_context_only: bool,
    /// Whether cross-attention stands between a layer's self-attention and its feed-forward block, not
    /// behind the layer.
    pub has_inner_cross_attention: bool,
    /// Opens a folder.
    pub open: fn(&Path) -> Result<PretrainedModel, FolderError>,
}

/// The decoder of a run file, with its kind if it is pre-trained.
#[derive(Debug, Clone, Copy)]
pub enum Side<'a> {
    /// A pre-trained model.
    Pretrained(&'static Kind, &'a PretrainedDecoder),
    /// A Transformer, which starts from random weights.
    Transformer(&'a Transformer),
}

impl<'a> Side<'a> {
    /// That of a decoder.
    pub fn of(decoder: &'a Decoder) -> Self {
        match decoder {
            Decoder::Bert(settings) => Self::Pretrained(&bert::KIND, settings),
            Decoder::Gpt2(settings) => Self::Pretrained(&gpt2::KIND, settings),
            Decoder::Transformer(config) => Self::Transformer(config),
        }
    }
}
