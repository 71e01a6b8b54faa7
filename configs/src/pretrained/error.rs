//! Why the folder of a pre-trained model cannot be used.

use std::path::PathBuf;

/// Why a folder is not a usable pre-trained model.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file is missing or cannot be read.
    #[error("cannot read {}; the folder of a pre-trained model has config.json, model.safetensors and vocab.txt or tokenizer.json", path.display())]
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
