//! A pre-trained GPT-2's folder, read without its weights (Radford et al. 2019).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::pretrained::folder::{
    FolderError, check_tensor, find_vocabulary, read_config, read_weights_header,
};
use crate::pretrained::network::{Network, Pretrained, Role, Shape, Tensor};
use crate::pretrained::{Kind, PretrainedModel};

/// A GPT-2 as one side of a model.
pub static KIND: Kind = Kind {
    key: "gpt2",
    name: "GPT-2",
    sees_left_context_only: true,
    has_inner_cross_attention: true,
    open: |path| Ok(PretrainedModel::Gpt2(Gpt2Folder::open(path)?)),
};

/// The shape of a GPT-2 in config.json, by Hugging Face's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gpt2Config {
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub n_embd: usize,
    /// Number of layers.
    pub n_layer: usize,
    /// Attention heads.
    pub n_head: usize,
    /// Width of the feed-forward layers; by default four times that of the hidden states.
    pub n_inner: Option<usize>,
    /// Number of positions: the longest text in tokens.
    pub n_positions: usize,
    /// Dropout on the output of each block.
    #[serde(default = "tenth")]
    pub resid_pdrop: f64,
    /// Dropout on embeddings.
    #[serde(default = "tenth")]
    pub embd_pdrop: f64,
    /// Dropout on attention probabilities.
    #[serde(default = "tenth")]
    pub attn_pdrop: f64,
    /// Added to the variance in layer norms.
    #[serde(default = "layer_norm_epsilon")]
    pub layer_norm_epsilon: f64,
}

/// What config.json says in addition to the shape, with Hugging Face's defaults.
#[derive(Deserialize)]
struct Architecture {
    #[serde(default)]
    model_type: String,
    #[serde(default = "gelu_new")]
    activation_function: String,
    #[serde(default = "yes")]
    scale_attn_weights: bool,
    #[serde(default)]
    scale_attn_by_inverse_layer_idx: bool,
    #[serde(default = "yes")]
    tie_word_embeddings: bool,
}

impl Gpt2Config {
    /// Width of the feed-forward layers.
    pub fn inner(&self) -> usize {
        self.n_inner.unwrap_or(4 * self.n_embd)
    }

    /// Reads the text of a config.json; an error is a reason for a message.
    fn parse(text: &str) -> Result<Self, String> {
        let kind: Architecture = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if kind.model_type != "gpt2" {
            return Err(format!("model_type is `{}`, only `gpt2` is supported", kind.model_type));
        }
        if kind.activation_function != "gelu_new" {
            return Err(format!(
                "activation_function is `{}`, only `gelu_new` is supported",
                kind.activation_function
            ));
        }
        if !kind.scale_attn_weights || kind.scale_attn_by_inverse_layer_idx {
            return Err("its attention is scaled in another way than by the heads' width".into());
        }
        if !kind.tie_word_embeddings {
            return Err(
                "tie_word_embeddings is false, only the tied output layer is supported".into()
            );
        }
        let config: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let (width, heads) = (config.n_embd, config.n_head);
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(format!("n_embd {width} is not a multiple of n_head {heads}"));
        }
        Ok(config)
    }
}

/// A pre-trained GPT-2's folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpt2Folder {
    /// The folder.
    pub path: PathBuf,
    /// Its shape.
    pub config: Gpt2Config,
    /// Names and shapes in model.safetensors.
    pub tensors: BTreeMap<String, Vec<usize>>,
    /// tokenizer.json.
    pub vocabulary: PathBuf,
}

impl Gpt2Folder {
    /// Reads config.json and the header of model.safetensors.
    ///
    /// # Errors
    /// A missing or unreadable file, a config.json that is not a GPT-2's, or weights that do not fit
    /// to it.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let config = read_config(path, KIND.name, Gpt2Config::parse)?;
        let vocabulary = find_vocabulary(path, &["tokenizer.json"], config.vocab_size)?;
        let tensors = read_weights_header(path)?;
        let folder = Self { path: path.to_owned(), config, tensors, vocabulary };
        for tensor in tensors_of(&folder.config) {
            check_tensor(path, &folder.tensors, folder.stored_name(&tensor.name), tensor)?;
        }
        Ok(folder)
    }
}

impl Network for Gpt2Folder {
    fn shape(&self) -> Shape {
        Shape {
            kind: KIND.name,
            layers: self.config.n_layer,
            width: self.config.n_embd,
            heads: self.config.n_head,
            feed_forward: self.config.inner(),
            positions: self.config.n_positions,
        }
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn tokenizer(&self) -> Option<&Path> {
        Some(&self.vocabulary)
    }

    fn weights(&self) -> Option<&Path> {
        Some(&self.path)
    }
}

impl Pretrained for Gpt2Folder {
    fn tensors(&self) -> Vec<Tensor> {
        tensors_of(&self.config)
    }

    fn head(&self) -> Vec<Tensor> {
        Vec::new()
    }

    /// A bare `GPT2Model`'s names have no `transformer.` before them, as those of the original gpt2.
    fn stored_name(&self, name: &str) -> Option<String> {
        let bare = name.strip_prefix("transformer.").unwrap_or(name);
        [name, bare].into_iter().find(|name| self.tensors.contains_key(*name)).map(str::to_owned)
    }
}

/// The tensors of a GPT-2, whose output layer is the word embeddings themselves. The matrices of
/// its layers are stored as `[inputs, outputs]`.
pub fn tensors_of(gpt2: &Gpt2Config) -> Vec<Tensor> {
    let (width, inner) = (gpt2.n_embd, gpt2.inner());
    let mut list = Vec::new();
    let mut add = |name: String, shape: Vec<usize>, role| list.push(Tensor { name, shape, role });
    add("transformer.wte.weight".into(), vec![gpt2.vocab_size, width], Role::Matrix);
    add("transformer.wpe.weight".into(), vec![gpt2.n_positions, width], Role::Matrix);
    let norm = |add: &mut dyn FnMut(String, Vec<usize>, Role), name: String| {
        add(format!("{name}.weight"), vec![width], Role::NormWeight);
        add(format!("{name}.bias"), vec![width], Role::Bias);
    };
    for layer in 0..gpt2.n_layer {
        let layer = format!("transformer.h.{layer}");
        norm(&mut add, format!("{layer}.ln_1"));
        norm(&mut add, format!("{layer}.ln_2"));
        for (name, inputs, outputs) in [
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, inner),
            ("mlp.c_proj", inner, width),
        ] {
            add(format!("{layer}.{name}.weight"), vec![inputs, outputs], Role::Matrix);
            add(format!("{layer}.{name}.bias"), vec![outputs], Role::Bias);
        }
    }
    norm(&mut add, "transformer.ln_f".into());
    list
}

fn gelu_new() -> String {
    "gelu_new".into()
}

fn yes() -> bool {
    true
}

fn tenth() -> f64 {
    0.1
}

fn layer_norm_epsilon() -> f64 {
    1e-5
}
