//! A pre-trained BERT's folder, read without its weights: shape, names of tensors, vocabulary.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Why a folder is not a usable BERT.
#[derive(Debug, thiserror::Error)]
pub enum BertError {
    /// A file is missing or cannot be read.
    #[error("cannot read {}; a BERT folder has config.json, model.safetensors and vocab.txt or tokenizer.json", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// config.json is not a BERT's.
    #[error("{} does not describe a BERT: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// model.safetensors has no readable header.
    #[error("{} is not a safetensors file: {reason}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is no vocabulary.
    #[error("{} has neither tokenizer.json nor vocab.txt", folder.display())]
    NoVocabulary {
        /// The folder.
        folder: PathBuf,
    },
}

/// What config.json says of a BERT's shape, by Hugging Face's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BertConfig {
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Activation of the feed-forward layers and of the MLM head; only `gelu` is supported.
    #[serde(default = "gelu")]
    pub hidden_act: String,
    /// Dropout on embeddings and layer outputs.
    #[serde(default = "tenth")]
    pub hidden_dropout_prob: f64,
    /// Dropout on attention probabilities.
    #[serde(default = "tenth")]
    pub attention_probs_dropout_prob: f64,
    /// Number of positions: the longest input in tokens.
    pub max_position_embeddings: usize,
    /// Number of token types.
    #[serde(default = "two")]
    pub type_vocab_size: usize,
    /// Added to the variance in layer norms.
    #[serde(default = "layer_norm_eps")]
    pub layer_norm_eps: f64,
}

/// A pre-trained BERT's folder.
#[derive(Debug, Clone, PartialEq)]
pub struct BertFolder {
    /// The folder.
    pub path: PathBuf,
    /// Its shape.
    pub config: BertConfig,
    /// Names in model.safetensors.
    pub tensors: BTreeSet<String>,
    /// tokenizer.json, or else vocab.txt.
    pub vocabulary: PathBuf,
}

impl BertFolder {
    /// Reads config.json and the header of model.safetensors.
    ///
    /// # Errors
    /// A missing or unreadable file, or a config.json that is not a BERT's.
    pub fn open(path: &Path) -> Result<Self, BertError> {
        let config_path = path.join("config.json");
        let text = std::fs::read_to_string(&config_path)
            .map_err(|source| BertError::Read { path: config_path.clone(), source })?;
        let config: BertConfig = serde_json::from_str(&text).map_err(|error| {
            BertError::Config { path: config_path.clone(), reason: error.to_string() }
        })?;
        config.check().map_err(|reason| BertError::Config { path: config_path, reason })?;
        let vocabulary = ["tokenizer.json", "vocab.txt"]
            .map(|name| path.join(name))
            .into_iter()
            .find(|file| file.is_file())
            .ok_or_else(|| BertError::NoVocabulary { folder: path.to_owned() })?;
        let tensors = tensor_names(&path.join("model.safetensors"))?;
        Ok(Self { path: path.to_owned(), config, tensors, vocabulary })
    }

    /// The prefix of the tensors in the file: `bert.`, or nothing in a bare `BertModel`'s.
    pub fn prefix(&self) -> &'static str {
        if self.tensors.contains("bert.embeddings.word_embeddings.weight") { "bert." } else { "" }
    }

    /// Whether the file has a masked language modelling head.
    pub fn has_mlm_head(&self) -> bool {
        self.tensors.contains("cls.predictions.transform.dense.weight")
    }
}

impl BertConfig {
    fn check(&self) -> Result<(), String> {
        if self.hidden_act != "gelu" {
            return Err(format!("hidden_act is `{}`, only `gelu` is supported", self.hidden_act));
        }
        if self.num_attention_heads == 0
            || !self.hidden_size.is_multiple_of(self.num_attention_heads)
        {
            return Err(format!(
                "hidden_size {} is not a multiple of num_attention_heads {}",
                self.hidden_size, self.num_attention_heads
            ));
        }
        Ok(())
    }
}

/// The names in a safetensors file's header: 8 bytes of its length, then JSON.
fn tensor_names(path: &Path) -> Result<BTreeSet<String>, BertError> {
    let read = |source| BertError::Read { path: path.to_owned(), source };
    let broken = |reason: &str| BertError::Weights { path: path.to_owned(), reason: reason.into() };
    let mut file = File::open(path).map_err(read)?;
    let size = file.metadata().map_err(read)?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(read)?;
    let length = u64::from_le_bytes(length);
    if length > size.saturating_sub(8) {
        return Err(broken("its header is longer than the file: was the download cut off?"));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(read)?;
    let header: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&header).map_err(|error| broken(&error.to_string()))?;
    Ok(header.into_iter().map(|(name, _)| name).filter(|name| name != "__metadata__").collect())
}

fn gelu() -> String {
    "gelu".into()
}

fn tenth() -> f64 {
    0.1
}

fn two() -> usize {
    2
}

fn layer_norm_eps() -> f64 {
    1e-12
}
