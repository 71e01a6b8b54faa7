//! What a run's model is built on: BERTs and where they lie, vocabularies and their sizes.

use std::path::{Path, PathBuf};

use crate::load::read;
use crate::pretrained::bert::{BertConfig, BertError, BertFolder};
use crate::pretrained::gpt2::Gpt2Folder;
use crate::schema::model::{BertEncoder, Decoder, Encoder, NewBert, Vocabulary};
use crate::schema::run::RunConfig;
use crate::schema::transformer::Transformer;

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
}

/// What one side of a model is built on.
#[derive(Debug, Clone, PartialEq)]
pub enum Base {
    /// A BERT.
    Bert(BertBase),
    /// A Transformer from random weights.
    Transformer(TransformerBase),
    /// A GPT-2.
    Gpt2(Gpt2Folder),
}

/// A BERT, which is there or which the run makes.
#[derive(Debug, Clone, PartialEq)]
pub struct BertBase {
    /// Its shape.
    pub config: BertConfig,
    /// Its folder; none for a BERT that the run makes.
    pub folder: Option<BertFolder>,
}

/// A Transformer and its vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub struct TransformerBase {
    /// Its shape.
    pub config: Transformer,
    /// Entries of its vocabulary.
    pub vocab_size: usize,
    /// The BERT's folder that it has its vocabulary from, if any.
    pub vocabulary: Option<BertFolder>,
}

/// Whether a key says where a BERT that the model is built on, or its vocabulary, lies.
pub fn is_base(key: &str) -> bool {
    let side = key.starts_with("model.encoder.") || key.starts_with("model.decoder.");
    side && (key.ends_with(".pretrained") || key.ends_with(".vocabulary.bert"))
}

/// What both sides of a model are built on.
#[derive(Debug, Clone, PartialEq)]
pub struct Bases {
    /// The source side.
    pub encoder: Base,
    /// The target side; none for the `mlm` objective.
    pub decoder: Option<Base>,
    /// The BERT that Transformers are fused with, or that the encoder is trained together with.
    pub fused: Option<BertBase>,
}

impl Bases {
    /// Opens the folders that a config names, without loading weights or going online.
    ///
    /// # Errors
    /// A BERT that is not on this machine, or whose folder is unusable.
    pub fn open(run: &RunConfig) -> Result<Self, BaseError> {
        let encoder = match &run.model.encoder {
            Encoder::Bert(encoder) => Base::Bert(BertBase::reading(encoder)?),
            Encoder::Transformer(config) => Base::Transformer(TransformerBase::open(config)?),
        };
        let decoder = match &run.model.decoder {
            Some(Decoder::Bert(decoder)) => {
                Some(Base::Bert(BertBase::pretrained(&decoder.pretrained)?))
            }
            Some(Decoder::Transformer(config)) => {
                Some(Base::Transformer(TransformerBase::open(config)?))
            }
            Some(Decoder::Gpt2(decoder)) => {
                Some(Base::Gpt2(Gpt2Folder::open(&find(&decoder.pretrained)?)?))
            }
            None => None,
        };
        let fused = run.model.bert_fused().next().map(|(_, fused)| &fused.pretrained);
        let fused = fused.or(run.model.ct_nmt().map(|ct_nmt| &ct_nmt.pretrained));
        let fused = fused.map(|name| BertBase::pretrained(name)).transpose()?;
        Ok(Self { encoder, decoder, fused })
    }

    /// The folders whose weights are loaded, by the first part of their parameters' names.
    pub fn folders(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let decoder = self.decoder.as_ref().and_then(Base::weights);
        let fused = self.fused.as_ref().and_then(|bert| bert.folder.as_ref());
        let fused = fused.map(|folder| folder.path.as_path());
        [("encoder", self.encoder.weights()), ("decoder", decoder), ("fused", fused)]
            .into_iter()
            .filter_map(|(side, folder)| Some((side, folder?)))
    }
}

impl Base {
    /// The BERT, if it is one.
    pub fn bert(&self) -> Option<&BertBase> {
        match self {
            Self::Bert(bert) => Some(bert),
            Self::Transformer(_) | Self::Gpt2(_) => None,
        }
    }

    /// The BERT's folder, if it has one.
    pub fn folder(&self) -> Option<&BertFolder> {
        self.bert()?.folder.as_ref()
    }

    /// The folder whose weights are loaded, if any.
    pub fn weights(&self) -> Option<&Path> {
        match self {
            Self::Bert(bert) => bert.folder.as_ref().map(|folder| folder.path.as_path()),
            Self::Transformer(_) => None,
            Self::Gpt2(folder) => Some(&folder.path),
        }
    }

    /// The tokenizer's file, where a BERT's folder has it.
    pub fn tokenizer(&self) -> Option<&Path> {
        let folder = match self {
            Self::Bert(bert) => bert.folder.as_ref(),
            Self::Transformer(transformer) => transformer.vocabulary.as_ref(),
            Self::Gpt2(folder) => return Some(&folder.vocabulary),
        };
        folder.map(|folder| folder.vocabulary.as_path())
    }

    /// Entries of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Bert(bert) => bert.config.vocab_size,
            Self::Transformer(transformer) => transformer.vocab_size,
            Self::Gpt2(folder) => folder.config.vocab_size,
        }
    }

    /// Width of the hidden states.
    pub fn width(&self) -> usize {
        match self {
            Self::Bert(bert) => bert.config.hidden_size,
            Self::Transformer(transformer) => transformer.config.hidden,
            Self::Gpt2(folder) => folder.config.n_embd,
        }
    }

    /// Number of positions: the longest sentence in tokens.
    pub fn positions(&self) -> usize {
        match self {
            Self::Bert(bert) => bert.config.positions(),
            Self::Transformer(transformer) => transformer.config.max_length,
            Self::Gpt2(folder) => folder.config.n_positions,
        }
    }
}

impl BertBase {
    /// The BERT that labels a run's pairs, if any: where its run has not made it yet, the one that its
    /// run starts from.
    ///
    /// # Errors
    /// As [`Bases::open`].
    pub fn of_soft_labels(run: &RunConfig) -> Result<Option<Self>, BaseError> {
        let Some(labels) = run.model.soft_labels() else { return Ok(None) };
        if locate(labels.bert()).is_none()
            && let Some(teacher) = &labels.teacher
            && let Ok((teacher, _)) = read(teacher, &[])
            && let Encoder::Bert(encoder) = &teacher.model.encoder
        {
            return Self::reading(encoder).map(Some);
        }
        Self::pretrained(labels.bert()).map(Some)
    }

    fn reading(encoder: &BertEncoder) -> Result<Self, BaseError> {
        match (&encoder.pretrained, &encoder.new) {
            (Some(name), _) => Self::pretrained(name),
            (None, Some(new)) => Self::new(new),
            (None, None) => unreachable!("validation asks for `pretrained` or `new`"),
        }
    }

    fn pretrained(name: &str) -> Result<Self, BaseError> {
        let folder = open_folder(name)?;
        Ok(Self { config: folder.config.clone(), folder: Some(folder) })
    }

    fn new(new: &NewBert) -> Result<Self, BaseError> {
        let config = BertConfig {
            vocab_size: vocab_size(&new.vocabulary)?,
            hidden_size: new.hidden,
            num_hidden_layers: new.layers,
            num_attention_heads: new.heads,
            intermediate_size: new.feed_forward,
            hidden_act: "gelu".into(),
            hidden_dropout_prob: new.dropout,
            attention_probs_dropout_prob: new.dropout,
            max_position_embeddings: new.positions,
            first_position: 0,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
        };
        Ok(Self { config, folder: None })
    }
}

impl TransformerBase {
    fn open(config: &Transformer) -> Result<Self, BaseError> {
        let vocabulary = match &config.vocabulary {
            Vocabulary::Bert(name) => Some(open_folder(name)?),
            Vocabulary::File { .. } | Vocabulary::Learn { .. } => None,
        };
        Ok(Self { config: config.clone(), vocab_size: vocab_size(&config.vocabulary)?, vocabulary })
    }
}

fn open_folder(name: &str) -> Result<BertFolder, BaseError> {
    Ok(BertFolder::open(&find(name)?)?)
}

fn find(name: &str) -> Result<PathBuf, BaseError> {
    locate(name).ok_or_else(|| BaseError::NotHere { name: name.into(), cache: hub_cache() })
}

/// Entries of a vocabulary; one that is learnt has exactly as many as asked for.
fn vocab_size(vocabulary: &Vocabulary) -> Result<usize, BaseError> {
    Ok(match vocabulary {
        Vocabulary::File { path, .. } => {
            let entries = std::fs::read_to_string(path)
                .map_err(|source| BertError::Read { path: path.into(), source })?;
            crate::pretrained::tokenizer::entries(&entries).lines().count()
        }
        Vocabulary::Learn { size, .. } => *size,
        Vocabulary::Bert(name) => open_folder(name)?.config.vocab_size,
    })
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
