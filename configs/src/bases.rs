//! The BERTs that a run stands on: where they lie and what shape they have.

use std::path::{Path, PathBuf};

use crate::bert::{BertConfig, BertError, BertFolder};
use crate::model::{Decoder, Encoder, NewBert, Vocabulary};
use crate::run::RunConfig;

/// Why a run's BERTs cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// Neither a folder nor a model in the hub's cache.
    #[error("`{name}` is neither a folder nor a model in the hub's cache {}", cache.display())]
    NotHere {
        /// What the config says.
        name: String,
        /// Where the hub's cache lies.
        cache: PathBuf,
    },
    /// A folder that is not a usable BERT.
    #[error(transparent)]
    Bert(#[from] BertError),
    /// A vocabulary is learnt by the run itself, and has not been learnt yet.
    #[error("the vocabulary of the new BERT is learnt when the run starts")]
    NotLearnt,
}

/// One side's BERT.
#[derive(Debug, Clone, PartialEq)]
pub struct Base {
    /// Its shape.
    pub config: BertConfig,
    /// Its folder; none for a BERT that the run makes.
    pub folder: Option<BertFolder>,
}

/// The BERTs that a run stands on.
#[derive(Debug, Clone, PartialEq)]
pub struct Bases {
    /// The source side's.
    pub encoder: Base,
    /// The target side's; none for the `mlm` objective.
    pub decoder: Option<Base>,
}

impl Bases {
    /// Opens the folders that a config names, without loading weights or going online.
    ///
    /// `learnt_vocabulary` is the vocab.txt that an `mlm` run has learnt, if it has.
    ///
    /// # Errors
    /// A BERT that is not on this machine, or whose folder is unusable.
    pub fn open(run: &RunConfig, learnt_vocabulary: Option<&Path>) -> Result<Self, BaseError> {
        let Encoder::Bert(encoder) = &run.model.encoder;
        let encoder = match (&encoder.pretrained, &encoder.new) {
            (Some(name), _) => Base::pretrained(name)?,
            (None, Some(new)) => Base::new(new, learnt_vocabulary)?,
            (None, None) => unreachable!("validation asks for `pretrained` or `new`"),
        };
        let decoder = match &run.model.decoder {
            Some(Decoder::Bert(decoder)) => Some(Base::pretrained(&decoder.pretrained)?),
            None => None,
        };
        Ok(Self { encoder, decoder })
    }
}

impl Base {
    fn pretrained(name: &str) -> Result<Self, BaseError> {
        let path = locate(name)
            .ok_or_else(|| BaseError::NotHere { name: name.into(), cache: hub_cache() })?;
        let folder = BertFolder::open(&path)?;
        Ok(Self { config: folder.config.clone(), folder: Some(folder) })
    }

    fn new(new: &NewBert, learnt: Option<&Path>) -> Result<Self, BaseError> {
        let file = match (&new.vocabulary, learnt) {
            (Vocabulary::File { path, .. }, _) => path,
            (Vocabulary::Learn { .. }, Some(path)) => path,
            (Vocabulary::Learn { .. }, None) => return Err(BaseError::NotLearnt),
        };
        let entries = std::fs::read_to_string(file)
            .map_err(|source| BertError::Read { path: file.into(), source })?;
        let config = BertConfig {
            vocab_size: entries.lines().count(),
            hidden_size: new.hidden,
            num_hidden_layers: new.layers,
            num_attention_heads: new.heads,
            intermediate_size: new.feed_forward,
            hidden_act: "gelu".into(),
            hidden_dropout_prob: new.dropout,
            attention_probs_dropout_prob: new.dropout,
            max_position_embeddings: new.positions,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
        };
        Ok(Self { config, folder: None })
    }
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
