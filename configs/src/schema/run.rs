//! The whole of one run.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::checkpoints::Checkpoints;
use crate::schema::cluster::Cluster;
use crate::schema::data::Data;
use crate::schema::decoding::Decoding;
use crate::schema::evaluation::Evaluation;
use crate::schema::model::Model;
use crate::schema::training::Training;

/// One run, completely: two runs with equal configs, inputs and numbers of ranks give equal bits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// The run's name and where its folder lies.
    pub run: Run,
    /// Seeds every random choice: initial weights, batch order, masks, noise, dropout.
    #[serde(default = "one")]
    pub seed: u64,
    /// The texts.
    pub data: Data,
    /// The model and what it is trained for.
    pub model: Model,
    /// Steps, batches, optimizer.
    pub training: Training,
    /// How translations are found; by default beam search for the autoregressive objective, else
    /// Mask-Predict. Not used by the `mlm` objective.
    #[serde(default)]
    pub decoding: Decoding,
    /// When and on what the model is scored.
    #[serde(default)]
    pub evaluation: Evaluation,
    /// When checkpoints are written and which are kept.
    #[serde(default)]
    pub checkpoints: Checkpoints,
    /// Processes and devices.
    #[serde(default)]
    pub cluster: Cluster,
}

/// Names in a run folder that loading a config looks for; `tandem_cluster::run::folder::RunFolder` makes
/// paths of these and has all others.
pub mod names {
    /// The resolved config.
    pub const CONFIG: &str = "config.yaml";
    /// Where the run stands.
    pub const STATE: &str = "state.json";
    /// The checkpoints.
    pub const CHECKPOINTS: &str = "checkpoints";
    /// The finished model.
    pub const EXPORT: &str = "export";
    /// The hashes of a checkpoint, or of an exported model.
    pub const MANIFEST: &str = "manifest.json";
    /// The trained weights of a checkpoint, or of an exported model.
    pub const WEIGHTS: &str = "adapters.safetensors";
}

/// The run's name and where its folder lies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// The folder's name under `folder`: letters, digits, `.`, `_` and `-`.
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"))]
    pub name: String,
    /// Where run folders lie, from the working directory.
    #[serde(default = "runs")]
    pub folder: PathBuf,
}

impl Run {
    /// Whether a run may have this name.
    pub fn is_name(name: &str) -> bool {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(allowed)
    }

    /// The run folder: everything that the run writes lies in it.
    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }
}

fn one() -> u64 {
    1
}

fn runs() -> PathBuf {
    PathBuf::from("runs")
}
