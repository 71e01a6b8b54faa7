//! Where pre-trained models lie: in folders, or in the cache of Hugging Face's hub.

use std::path::{Path, PathBuf};

/// Whether a run file's key names a pre-trained model that a side is built on, or the vocabulary of one.
pub fn names_model(key: &str) -> bool {
    let side = key.starts_with("model.encoder.") || key.starts_with("model.decoder.");
    side && (key.ends_with(".pretrained") || key.ends_with(".vocabulary.bert"))
}

/// The folder of a pre-trained model: `name` itself if it is a path, which is absolute in a loaded
/// config, else the newest snapshot in the hub's cache.
pub fn locate(name: &str) -> Option<PathBuf> {
    let folder = Path::new(name);
    if folder.is_absolute() {
        return folder.is_dir().then(|| folder.to_owned());
    }
    let model = hub_cache().join(format!("models--{}", name.replace('/', "--")));
    let revision = std::fs::read_to_string(model.join("refs/main")).ok()?;
    let snapshot = model.join("snapshots").join(revision.trim());
    snapshot.is_dir().then_some(snapshot)
}

/// Where the hub's client keeps models, by its usual variables.
pub fn hub_cache() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    variable("HF_HUB_CACHE")
        .or_else(|| variable("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| variable("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| variable("XDG_CACHE_HOME").map(|home| home.join("huggingface/hub")))
        .unwrap_or_else(|| variable("HOME").unwrap_or_default().join(".cache/huggingface/hub"))
}
