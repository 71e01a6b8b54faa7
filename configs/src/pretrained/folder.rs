//! What the folders of all pre-trained models have: a config.json, a vocabulary, and the header of
//! model.safetensors, which names the tensors and their shapes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::pretrained::network::Tensor;
use crate::pretrained::tokenizer::TokenizerFiles;

pub use super::error::FolderError;

/// Reads config.json; `parse` returns a reason if it describes no such model.
pub(crate) fn read_config<T>(
    folder: &Path,
    kind: &'static str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, FolderError> {
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path)
        .map_err(|source| FolderError::Read { path: path.clone(), source })?;
    parse(&text).map_err(|reason| FolderError::Config { path, kind, reason })
}

/// The first of `files` that is there, whose entries must all have an embedding.
pub(crate) fn find_vocabulary(
    folder: &Path,
    files: &'static [&'static str],
    vocab_size: usize,
) -> Result<PathBuf, FolderError> {
    let path = files
        .iter()
        .map(|name| folder.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| FolderError::NoVocabulary { files, folder: folder.to_owned() })?;
    let entries = TokenizerFiles::open(&path)?.size;
    if entries > vocab_size {
        return Err(FolderError::Vocabulary { path, entries, vocab_size });
    }
    Ok(path)
}

/// Whether the file of `folder` has a tensor, by the name that it is stored under, in its shape.
pub(crate) fn check_tensor(
    folder: &Path,
    found: &BTreeMap<String, Vec<usize>>,
    stored: Option<String>,
    Tensor { name, shape: expected, .. }: Tensor,
) -> Result<(), FolderError> {
    let path = folder.join("model.safetensors");
    let Some(name) = stored else { return Err(FolderError::Tensor { path, name }) };
    let found = found[&name].clone();
    if found != expected {
        return Err(FolderError::TensorShape { path, name, found, expected });
    }
    Ok(())
}

/// Names and shapes in a folder's model.safetensors.
pub(crate) fn read_weights_header(
    path: &Path,
) -> Result<BTreeMap<String, Vec<usize>>, FolderError> {
    let weights = path.join("model.safetensors");
    if !weights.exists() {
        let folder = path.to_owned();
        if path.join("model.safetensors.index.json").exists() {
            return Err(FolderError::Sharded { folder });
        }
        if path.join("pytorch_model.bin").exists() {
            return Err(FolderError::Pickle { folder });
        }
    }
    tensor_shapes(&weights)
}

/// The longest header that safetensors itself accepts.
const MAX_HEADER: u64 = 100_000_000;

/// The names and shapes in a safetensors file's header: 8 bytes of its length, then JSON.
fn tensor_shapes(path: &Path) -> Result<BTreeMap<String, Vec<usize>>, FolderError> {
    #[derive(Deserialize)]
    struct Entry {
        shape: Vec<usize>,
        data_offsets: [u64; 2],
    }
    let read = |source| FolderError::Read { path: path.to_owned(), source };
    let broken =
        |reason: &str| FolderError::Weights { path: path.to_owned(), reason: reason.into() };
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
