//! Pre-trained BERTs by their names on the hub, fetched into its usual cache.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use tandem_config::RunConfig;
use tandem_config::pretrained::hub::{hub_cache, locate};
use tandem_config::pretrained::tokenizer::BESIDE;

const WEIGHTS: &str = "model.safetensors";

/// Why a model is not on this machine.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The hub was not to be asked.
    #[error(
        "`{name}` is neither a folder nor in the hub's cache {}, and {variable} is set; unset it, \
         or give the path of a folder with config.json, model.safetensors and vocab.txt",
        cache.display()
    )]
    Offline {
        /// What the config says.
        name: String,
        /// The variable that says so.
        variable: &'static str,
        /// Where the cache lies.
        cache: PathBuf,
    },
    /// The hub has its weights in another form.
    #[error(
        "`{name}` has its weights on the hub as {file} only, which is never loaded; write \
         model.safetensors into a folder, with the vocabulary beside it, and give the folder: \
         python -c 'from transformers import AutoModelForMaskedLM as M, AutoTokenizer as T; \
         M.from_pretrained(\"{name}\").save_pretrained(\"FOLDER\", max_shard_size=\"100GB\"); \
         T.from_pretrained(\"{name}\").save_pretrained(\"FOLDER\")'"
    )]
    Kind {
        /// What the config says.
        name: String,
        /// What there is.
        file: &'static str,
    },
    /// The hub did not give it.
    #[error(
        "cannot fetch {file} of `{name}` from the hub: {reason}; without a way to the hub, give \
         the path of a folder, or copy the model into {}",
        cache.display()
    )]
    Fetch {
        /// What the config says.
        name: String,
        /// Which file.
        file: &'static str,
        /// Why not.
        reason: String,
        /// Where the cache lies.
        cache: PathBuf,
    },
}

impl HubError {
    /// Whether trying again cannot help.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Kind { .. })
    }
}

/// Whether a pre-trained model is to be fetched. A path never is: its folder is here, or is made by a
/// teacher first.
pub fn is_missing(name: &str) -> bool {
    !Path::new(name).is_absolute() && locate(name).is_none()
}

/// Replaces the names of pre-trained models by their folders, fetching what is not here yet.
/// `say` hears of each download.
///
/// # Errors
/// A model that is neither here nor to be had.
pub fn resolve(config: &mut RunConfig, say: &mut dyn FnMut(&str)) -> Result<(), HubError> {
    for name in config.model.pretrained_mut() {
        if is_missing(name) {
            fetch(name, say)?;
        }
    }
    find(config);
    Ok(())
}

/// Replaces the names of the pre-trained models that are here by their folders.
pub fn find(config: &mut RunConfig) {
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
    // Weights come last: a folder without them is refused, one that lacks any other is not.
    model.get("config.json").map_err(|error| failed("config.json", error))?;
    fetch_vocabulary(&model).map_err(|error| failed("vocab.txt", error))?;
    for file in BESIDE {
        match model.get(file) {
            Err(error) if !is_absent(&error) => return Err(failed(file, error)),
            Ok(_) | Err(_) => {}
        }
    }
    model.get(WEIGHTS).map_err(|error| match kept_otherwise(&model) {
        Some(file) => HubError::Kind { name: name.into(), file },
        None => failed(WEIGHTS, error),
    })?;
    Ok(())
}

/// Whether the hub answers that it has no such file.
fn is_absent(error: &ApiError) -> bool {
    matches!(error, ApiError::RequestError(error) if matches!(**error, ureq::Error::StatusCode(404)))
}

/// The variable by which a person, as for Hugging Face's own programs, says that the hub is not to
/// be asked.
pub fn offline(variable: impl Fn(&str) -> Option<String>) -> Option<&'static str> {
    let is_set = |name: &&str| {
        let no = ["", "0", "false", "no", "off"];
        variable(name).is_some_and(|value| !no.contains(&&*value.to_lowercase()))
    };
    ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().find(is_set)
}

/// The form of a model's weights on the hub, where it is none that is loaded.
fn kept_otherwise(model: &ApiRepo) -> Option<&'static str> {
    let files = model.info().ok()?.siblings;
    let known = ["model.safetensors.index.json", "pytorch_model.bin", "tf_model.h5"];
    known.into_iter().find(|known| files.iter().any(|file| file.rfilename == *known))
}

/// Either form will do.
fn fetch_vocabulary(model: &ApiRepo) -> Result<(), ApiError> {
    model.get("tokenizer.json").or_else(|_| model.get("vocab.txt")).map(drop)
}
