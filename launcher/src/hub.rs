//! Pre-trained BERTs by their names on the hub, fetched into its usual cache.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use tandem_config::RunConfig;
use tandem_config::bases::{hub_cache, locate};

/// Why a model is not on this machine.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The hub was not to be asked.
    #[error(
        "`{name}` is neither a folder nor in the hub's cache {}, and HF_HUB_OFFLINE is set; unset \
         it, or give the path of a folder with config.json, model.safetensors and vocab.txt",
        cache.display()
    )]
    Offline {
        /// What the config says.
        name: String,
        /// Where the cache lies.
        cache: PathBuf,
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
    for name in config.model.berts_mut() {
        if is_missing(name) {
            fetch(name, say)?;
        }
    }
    find(config);
    Ok(())
}

/// Replaces the names of the pre-trained models that are here by their folders.
pub fn find(config: &mut RunConfig) {
    for name in config.model.berts_mut() {
        if let Some(folder) = locate(name) {
            *name = folder.to_string_lossy().into_owned();
        }
    }
}

fn fetch(name: &str, say: &mut dyn FnMut(&str)) -> Result<(), HubError> {
    let cache = hub_cache();
    let offline = std::env::var("HF_HUB_OFFLINE").is_ok_and(|set| !set.is_empty() && set != "0");
    if offline {
        return Err(HubError::Offline { name: name.into(), cache });
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
    for file in ["config.json", "model.safetensors"] {
        model.get(file).map_err(|error| failed(file, error))?;
    }
    fetch_vocabulary(&model).map_err(|error| failed("vocab.txt", error))
}

/// Either form will do.
fn fetch_vocabulary(model: &ApiRepo) -> Result<(), ApiError> {
    model.get("tokenizer.json").or_else(|_| model.get("vocab.txt")).map(drop)
}
