//! A pre-trained BERT's folder, read without its weights: shape, names of tensors, vocabulary.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::pretrained::family::Family;
use crate::pretrained::tokenizer::TokenizerFiles;

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
    /// config.json is not such a model's.
    #[error("{} does not describe a {kind}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What it was to describe.
        kind: &'static str,
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
    /// The weights are pickled: reading them could run any program.
    #[error(
        "{} has weights as pytorch_model.bin only, which is never loaded; write \
         model.safetensors with: python -c 'from transformers import AutoModelForMaskedLM as M; \
         M.from_pretrained(\"{0}\").save_pretrained(\"{0}\")'", folder.display()
    )]
    Pickle {
        /// The folder.
        folder: PathBuf,
    },
    /// The weights are split into several files.
    #[error(
        "{} has its weights in several files; write one model.safetensors with transformers: \
         save_pretrained(..., max_shard_size=\"100GB\")", folder.display()
    )]
    Sharded {
        /// The folder.
        folder: PathBuf,
    },
    /// A tensor that the shape in config.json asks for is not in the file.
    #[error("{} has no tensor `{name}`, which a model of the shape in config.json has", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's usual name.
        name: String,
    },
    /// A tensor has another shape than config.json says.
    #[error("{}: tensor `{name}` has shape {found:?}, by config.json it is {expected:?}", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// Its shape by config.json.
        expected: Vec<usize>,
    },
    /// The vocabulary has entries that have no embedding.
    #[error("{} has {entries} entries, config.json says vocab_size {vocab_size}", path.display())]
    Vocabulary {
        /// The file.
        path: PathBuf,
        /// Its number of entries.
        entries: usize,
        /// What config.json says.
        vocab_size: usize,
    },
    /// Text would become other ids than its authors meant.
    #[error("{} does not describe a usable tokenizer: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is no vocabulary.
    #[error(
        "{} has no {}; transformers writes a tokenizer.json: python -c 'from transformers import \
         AutoTokenizer as T; T.from_pretrained(\"{0}\").save_pretrained(\"{0}\")'",
        folder.display(), files.join(" or ")
    )]
    NoVocabulary {
        /// The files that it could have.
        files: &'static [&'static str],
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
    pub fn open(path: &Path) -> Result<Self, BertError> {
        let config_path = path.join("config.json");
        let text = std::fs::read_to_string(&config_path)
            .map_err(|source| BertError::Read { path: config_path.clone(), source })?;
        let (family, config) = BertConfig::parse(&text).map_err(|reason| BertError::Config {
            path: config_path,
            kind: "BERT",
            reason,
        })?;
        let files = family.vocabularies;
        let vocabulary = files
            .iter()
            .map(|name| path.join(name))
            .find(|file| file.is_file())
            .ok_or_else(|| BertError::NoVocabulary { files, folder: path.to_owned() })?;
        let (entries, vocab_size) = (TokenizerFiles::open(&vocabulary)?.size, config.vocab_size);
        if entries > vocab_size {
            return Err(BertError::Vocabulary { path: vocabulary, entries, vocab_size });
        }
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
    fn check_tensors(&self) -> Result<(), BertError> {
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

/// Whether the file of `folder` has a tensor, by the name that it is stored under, in its shape.
pub(crate) fn check_tensor(
    folder: &Path,
    found: &BTreeMap<String, Vec<usize>>,
    stored: Option<String>,
    Tensor { name, shape: expected, .. }: Tensor,
) -> Result<(), BertError> {
    let path = folder.join("model.safetensors");
    let Some(name) = stored else { return Err(BertError::Tensor { path, name }) };
    let found = found[&name].clone();
    if found != expected {
        return Err(BertError::TensorShape { path, name, found, expected });
    }
    Ok(())
}

/// Names and shapes in a folder's model.safetensors.
pub(crate) fn read_weights_header(path: &Path) -> Result<BTreeMap<String, Vec<usize>>, BertError> {
    let weights = path.join("model.safetensors");
    if !weights.exists() {
        let folder = path.to_owned();
        if path.join("model.safetensors.index.json").exists() {
            return Err(BertError::Sharded { folder });
        }
        if path.join("pytorch_model.bin").exists() {
            return Err(BertError::Pickle { folder });
        }
    }
    tensor_shapes(&weights)
}

/// One tensor of a BERT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name in `BertForMaskedLM`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
}

/// What a tensor is for, which decides its value in a BERT that starts from scratch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A matrix of embeddings or of a linear layer.
    Matrix,
    /// The weight of a layer norm.
    NormWeight,
    /// A bias.
    Bias,
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
struct Kind {
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
        let kind: Kind = serde_json::from_str(text).map_err(|error| error.to_string())?;
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

    /// Number of positions: the longest input in tokens.
    pub fn positions(&self) -> usize {
        self.max_position_embeddings.saturating_sub(self.first_position)
    }
}

/// The longest header that safetensors itself accepts.
const MAX_HEADER: u64 = 100_000_000;

/// The names and shapes in a safetensors file's header: 8 bytes of its length, then JSON.
fn tensor_shapes(path: &Path) -> Result<BTreeMap<String, Vec<usize>>, BertError> {
    #[derive(Deserialize)]
    struct Entry {
        shape: Vec<usize>,
        data_offsets: [u64; 2],
    }
    let read = |source| BertError::Read { path: path.to_owned(), source };
    let broken = |reason: &str| BertError::Weights { path: path.to_owned(), reason: reason.into() };
    let cut_off = "it ends too early: was the download cut off?";
    let short = |source: std::io::Error| match source.kind() {
        ErrorKind::UnexpectedEof => broken(cut_off),
        _ => read(source),
    };
    let mut file = File::open(path).map_err(read)?;
    let size = file.metadata().map_err(read)?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(short)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return Err(broken("it begins with an impossible header length"));
    }
    if length + 8 > size {
        return Err(broken(cut_off));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(short)?;
    let mut header: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&header).map_err(|error| broken(&error.to_string()))?;
    header.remove("__metadata__");
    let mut shapes = BTreeMap::new();
    for (name, entry) in header {
        let entry: Entry = serde_json::from_value(entry)
            .map_err(|error| broken(&format!("tensor `{name}`: {error}")))?;
        if entry.data_offsets[1] > size - 8 - length {
            return Err(broken(cut_off));
        }
        shapes.insert(name, entry.shape);
    }
    Ok(shapes)
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
