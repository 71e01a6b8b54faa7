//! Fetches pre-trained BERTs from the Hugging Face hub into its usual cache.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use tandem_config::RunConfig;
use tandem_config::pretrained::hub::{hub_cache, locate};
use tandem_config::pretrained::tokenizer::BESIDE;

const WEIGHTS: &str = "model.safetensors";

/// Why a model could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HubError {
    /// An environment variable forbids asking the hub.
    #[error(
        "`{name}` is neither a folder nor in the hub's cache {}, and {variable} is set; unset it, \
         or give the path of a folder with config.json, model.safetensors and vocab.txt",
        cache.display()
    )]
    Offline {
        /// The model's name in the config.
        name: String,
        variable: &'static str,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// The hub has the weights only in a format that Tandem does not load.
    #[error(
        "the weights of `{name}` are on the hub only as {file}, which Tandem does not load; convert \
         them to model.safetensors, with the vocabulary in the same folder, and give that folder: \
         python -c 'from transformers import AutoModelForMaskedLM as M, AutoTokenizer as T; \
         M.from_pretrained(\"{name}\").save_pretrained(\"FOLDER\", max_shard_size=\"100GB\"); \
         T.from_pretrained(\"{name}\").save_pretrained(\"FOLDER\")'"
    )]
    WeightsFormat {
        /// The model's name in the config.
        name: String,
        /// The weights' file on the hub.
        file: &'static str,
    },
    /// A file could not be fetched.
    #[error(
        "cannot fetch {file} of `{name}` from the hub: {reason}; without access to the hub, give \
         the path of a folder, or copy the model into {}",
        cache.display()
    )]
    Fetch {
        /// The model's name in the config.
        name: String,
        file: &'static str,
        /// The cause.
        reason: String,
        /// The cache's folder.
        cache: PathBuf,
    },
}

impl HubError {
    /// Whether trying again cannot help.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::WeightsFormat { .. })
    }
}

/// Whether a pre-trained model must be fetched. A path never is: its folder exists, or a teacher will
/// write it first.
pub(crate) fn is_missing(name: &str) -> bool {
    !Path::new(name).is_absolute() && locate(name).is_none()
}

/// Replaces the names of pre-trained models with their folders, and fetches missing ones. `say` is called
/// with a message for each download.
///
/// # Errors
/// A model that is missing and cannot be fetched.
pub(crate) fn resolve(config: &mut RunConfig, say: &mut dyn FnMut(&str)) -> Result<(), HubError> {
    for name in config.model.pretrained_mut() {
        if is_missing(name) {
            fetch(name, say)?;
        }
    }
    find(config);
    Ok(())
}

/// Replaces the names of pre-trained models on this machine with their folders.
pub(crate) fn find(config: &mut RunConfig) {
    for name in config.model.pretrained_mut() {
        if let Some(folder) = locate(name) {
            *name = folder.to_string_lossy().into_owned();
        }
    }
}

fn fetch(name: &str, say: &mut dyn FnMut(&str)) -> Result<(), HubError> {
    let cache = hub_cache();
    if let Some(variable) = offline(|name| std::env::var(name).ok()) {
        return Err(HubError::Offline { name: name.into(), variable, cache });
    }
    let failed = |file: &'static str, error: ApiError| HubError::Fetch {
        name: name.into(),
        file,
        reason: error.to_string(),
        cache: cache.clone(),
    };
    let api = ApiBuilder::from_env()
        .with_cache_dir(cache.clone())
        .with_progress(false)
        .build()
        .map_err(|error| failed("config.json", error))?;
    let model = api.model(name.into());
    say(&format!("fetching `{name}` from the hub into {}", cache.display()));
    // Weights come last, since a cached folder counts as complete when it has them.
    model.get("config.json").map_err(|error| failed("config.json", error))?;
    fetch_vocabulary(&model).map_err(|error| failed("vocab.txt", error))?;
    for file in BESIDE {
        match model.get(file) {
            Err(error) if !is_absent(&error) => return Err(failed(file, error)),
            Ok(_) | Err(_) => {}
        }
    }
    model.get(WEIGHTS).map_err(|error| match unsupported_weights(&model) {
        Some(file) => HubError::WeightsFormat { name: name.into(), file },
        None => failed(WEIGHTS, error),
    })?;
    Ok(())
}

/// Whether the hub answered that it has no such file.
fn is_absent(error: &ApiError) -> bool {
    matches!(error, ApiError::RequestError(error) if matches!(**error, ureq::Error::StatusCode(404)))
}

/// The variable that forbids asking the hub, if one is set; the same as for Hugging Face's own programs.
pub(crate) fn offline(variable: impl Fn(&str) -> Option<String>) -> Option<&'static str> {
    let is_set = |name: &&str| {
        let no = ["", "0", "false", "no", "off"];
        variable(name).is_some_and(|value| !no.contains(&&*value.to_lowercase()))
    };
    ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().find(is_set)
}

/// The weights' file of a model on the hub, if it is in a format that Tandem does not load.
fn unsupported_weights(model: &ApiRepo) -> Option<&'static str> {
    let files = model.info().ok()?.siblings;
    let known = ["model.safetensors.index.json", "pytorch_model.bin", "tf_model.h5"];
    known.into_iter().find(|known| files.iter().any(|file| file.rfilename == *known))
}

/// Fetches tokenizer.json, or else vocab.txt.
fn fetch_vocabulary(model: &ApiRepo) -> Result<(), ApiError> {
    model.get("tokenizer.json").or_else(|_| model.get("vocab.txt")).map(drop)
}
