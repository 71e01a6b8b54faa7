//! A BERT (Devlin et al. 2019), or a relative that differs in names and positions alone: its
//! config.json, its tensors, and its folder, read without the weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::pretrained::family::Family;
use crate::pretrained::folder::{
    FolderError, check_tensor, find_vocabulary, read_config, read_weights_header,
};
use crate::pretrained::network::{Network, Pretrained, Role, Shape, Tensor};
use crate::pretrained::{Kind, PretrainedModel};
use crate::schema::model::NewBert;

/// A BERT as one side of a model.
pub static KIND: Kind = Kind {
    key: "bert",
    name: "BERT",
    sees_left_context_only: false,
    has_inner_cross_attention: false,
    open: |path| Ok(PretrainedModel::Bert(Bert::open(path)?)),
};

/// A BERT, which is there or which the run makes.
#[derive(Debug, Clone, PartialEq)]
pub struct Bert {
    /// Its shape.
    pub config: BertConfig,
    /// Its folder; none for a BERT that starts from random weights.
    pub folder: Option<BertFolder>,
}

impl Bert {
    /// The BERT of a folder.
    ///
    /// # Errors
    /// As [`BertFolder::open`].
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let folder = BertFolder::open(path)?;
        Ok(Self { config: folder.config.clone(), folder: Some(folder) })
    }

    /// A BERT of random weights.
    pub fn new(config: BertConfig) -> Self {
        Self { config, folder: None }
    }
}

impl Network for Bert {
    fn shape(&self) -> Shape {
        self.config.shape()
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn tokenizer(&self) -> Option<&Path> {
        self.folder.as_ref().map(|folder| folder.vocabulary.as_path())
    }

    fn weights(&self) -> Option<&Path> {
        self.folder.as_ref().map(|folder| folder.path.as_path())
    }
}

impl Pretrained for Bert {
    fn tensors(&self) -> Vec<Tensor> {
        tensors(&self.config)
    }

    fn head(&self) -> Vec<Tensor> {
        mlm_head(&self.config)
    }

    fn stored_name(&self, name: &str) -> Option<String> {
        self.folder.as_ref()?.stored_name(name)
    }
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
    /// Rows of the position embeddings; see [`Self::positions`].
    pub max_position_embeddings: usize,
    /// The row that a text begins with.
    #[serde(skip)]
    pub first_position: usize,
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
    /// What kind of BERT it is.
    pub family: &'static Family,
    /// Its shape.
    pub config: BertConfig,
    /// Names and shapes in model.safetensors.
    pub tensors: BTreeMap<String, Vec<usize>>,
    /// tokenizer.json, or else vocab.txt.
    pub vocabulary: PathBuf,
}

impl BertFolder {
    /// Reads config.json and the header of model.safetensors.
    ///
    /// # Errors
    /// A missing or unreadable file, a config.json that is not a BERT's, or weights or a
    /// vocabulary that do not fit to it.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let (family, config) = read_config(path, KIND.name, BertConfig::parse)?;
        let vocabulary = find_vocabulary(path, family.vocabularies, config.vocab_size)?;
        let tensors = read_weights_header(path)?;
        let folder = Self { path: path.to_owned(), family, config, tensors, vocabulary };
        folder.check_tensors()?;
        Ok(folder)
    }

    /// Whether the file has a masked language modelling head.
    pub fn has_mlm_head(&self) -> bool {
        self.tensors.contains_key(&self.family.name("cls.predictions.transform.dense.weight"))
    }

    /// The name in the file of a tensor of `BertForMaskedLM`.
    ///
    /// A bare model's have no `bert.` before them. The oldest checkpoints, bert-base-uncased among
    /// them, call a norm's weight and bias `gamma` and `beta`; some keep the head's bias with its
    /// matrix only.
    pub fn stored_name(&self, name: &str) -> Option<String> {
        let old = match name {
            "cls.predictions.bias" => "cls.predictions.decoder.bias".to_owned(),
            _ => name
                .replace("LayerNorm.weight", "LayerNorm.gamma")
                .replace("LayerNorm.bias", "LayerNorm.beta"),
        };
        let bare = |name: &str| name.strip_prefix("bert.").map(str::to_owned);
        let own = |name: &str| Some(self.family.name(name));
        [own(name), bare(name), own(&old), bare(&old)]
            .into_iter()
            .flatten()
            .find(|name| self.tensors.contains_key(name))
    }

    /// Whether every tensor that will be loaded is there, in the shape of config.json.
    fn check_tensors(&self) -> Result<(), FolderError> {
        let mut expected = tensors(&self.config);
        if self.has_mlm_head() {
            expected.extend(mlm_head(&self.config));
        }
        for tensor in expected {
            check_tensor(&self.path, &self.tensors, self.stored_name(&tensor.name), tensor)?;
        }
        Ok(())
    }
}

/// The tensors of a BERT without its pooler, which nothing here uses.
pub fn tensors(bert: &BertConfig) -> Vec<Tensor> {
    let width = bert.hidden_size;
    let mut list = List(Vec::new());
    for (name, rows) in [
        ("word", bert.vocab_size),
        ("position", bert.max_position_embeddings),
        ("token_type", bert.type_vocab_size),
    ] {
        let name = format!("bert.embeddings.{name}_embeddings.weight");
        list.add(name, vec![rows, width], Role::Matrix);
    }
    list.norm("bert.embeddings.LayerNorm", width);
    for layer in 0..bert.num_hidden_layers {
        let layer = format!("bert.encoder.layer.{layer}");
        for name in ["query", "key", "value"] {
            list.linear(&format!("{layer}.attention.self.{name}"), width, width);
        }
        list.linear(&format!("{layer}.attention.output.dense"), width, width);
        list.norm(&format!("{layer}.attention.output.LayerNorm"), width);
        list.linear(&format!("{layer}.intermediate.dense"), bert.intermediate_size, width);
        list.linear(&format!("{layer}.output.dense"), width, bert.intermediate_size);
        list.norm(&format!("{layer}.output.LayerNorm"), width);
    }
    list.0
}

/// The head for masked language modelling, whose last matrix is the word embeddings themselves.
pub fn mlm_head(bert: &BertConfig) -> Vec<Tensor> {
    let mut list = List(Vec::new());
    list.linear("cls.predictions.transform.dense", bert.hidden_size, bert.hidden_size);
    list.norm("cls.predictions.transform.LayerNorm", bert.hidden_size);
    list.add("cls.predictions.bias".into(), vec![bert.vocab_size], Role::Bias);
    list.0
}

struct List(Vec<Tensor>);

impl List {
    fn add(&mut self, name: String, shape: Vec<usize>, role: Role) {
        self.0.push(Tensor { name, shape, role });
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) {
        self.add(format!("{name}.weight"), vec![outputs, inputs], Role::Matrix);
        self.add(format!("{name}.bias"), vec![outputs], Role::Bias);
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.add(format!("{name}.weight"), vec![width], Role::NormWeight);
        self.add(format!("{name}.bias"), vec![width], Role::Bias);
    }
}

/// What config.json says besides the shape, and what Hugging Face takes if it says nothing.
#[derive(Deserialize)]
struct Architecture {
    model_type: Option<String>,
    pad_token_id: Option<u64>,
    #[serde(default = "absolute")]
    position_embedding_type: String,
    #[serde(default = "yes")]
    tie_word_embeddings: bool,
    #[serde(default)]
    is_decoder: bool,
}

impl BertConfig {
    /// Reads the text of a config.json; an error is a reason for people.
    fn parse(text: &str) -> Result<(&'static Family, Self), String> {
        let kind: Architecture = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let Some(family) = Family::of(kind.model_type.as_deref()) else {
            let found = kind.model_type.unwrap_or_default();
            return Err(format!("model_type is `{found}`, only {} are supported", Family::known()));
        };
        let positions = &kind.position_embedding_type;
        if positions != "absolute" {
            return Err(format!(
                "position_embedding_type is `{positions}`, only `absolute` is supported"
            ));
        }
        if !kind.tie_word_embeddings {
            return Err("tie_word_embeddings is false, only the tied MLM head (its last matrix \
                        is the word embeddings) is supported"
                .into());
        }
        if kind.is_decoder {
            return Err("is_decoder is true, only bidirectional BERTs are supported".into());
        }
        let mut config: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        config.first_position = family.first_position(kind.pad_token_id);
        if config.hidden_act != "gelu" {
            return Err(format!("hidden_act is `{}`, only `gelu` is supported", config.hidden_act));
        }
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        if heads == 0 || !hidden.is_multiple_of(heads) {
            return Err(format!(
                "hidden_size {hidden} is not a multiple of num_attention_heads {heads}"
            ));
        }
        if config.positions() == 0 {
            let rows = config.max_position_embeddings;
            return Err(format!("max_position_embeddings {rows} leaves no position for a token"));
        }
        Ok((family, config))
    }

    /// Its shape.
    pub fn shape(&self) -> Shape {
        Shape {
            kind: KIND.name,
            layers: self.num_hidden_layers,
            width: self.hidden_size,
            heads: self.num_attention_heads,
            feed_forward: self.intermediate_size,
            positions: self.positions(),
        }
    }

    /// That of a BERT which does not exist yet.
    pub fn of_new(new: &NewBert, vocab_size: usize) -> Self {
        Self {
            vocab_size,
            hidden_size: new.hidden,
            num_hidden_layers: new.layers,
            num_attention_heads: new.heads,
            intermediate_size: new.feed_forward,
            hidden_act: "gelu".into(),
            hidden_dropout_prob: new.dropout,
            attention_probs_dropout_prob: new.dropout,
            max_position_embeddings: new.positions,
            first_position: 0,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
        }
    }

    /// Number of positions: the longest input in tokens.
    pub fn positions(&self) -> usize {
        self.max_position_embeddings.saturating_sub(self.first_position)
    }
}

fn absolute() -> String {
    "absolute".into()
}

fn yes() -> bool {
    true
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
