//! A run's model as it will be built: the network of each side with its settings, opened but without
//! weights. Code that counts, plans or builds the model asks this, and no system by its name.

pub mod description;

use std::path::{Path, PathBuf};

use crate::pretrained::bert::{Bert, BertConfig, BertFolder};
use crate::pretrained::folder::FolderError;
use crate::pretrained::hub::{hub_cache, locate};
use crate::pretrained::network::{Network, Shape};
use crate::pretrained::{PretrainedModel, Side, tokenizer};
use crate::schema::model::{
    self, BertEncoder, CrossAttention, EncoderAdapters, Objective, PretrainedDecoder, Train,
    Vocabulary, longest_of_joined,
};
use crate::schema::run::RunConfig;
use crate::schema::transformer::{self, Transformer};

/// Why a run's pre-trained models cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CompositionError {
    /// Neither a folder nor a model in the hub's cache.
    #[error("`{name}` is neither a folder nor a model in the hub's cache {}", cache.display())]
    NotHere {
        /// What the config says.
        name: String,
        /// Where the hub's cache lies.
        cache: PathBuf,
    },
    /// An unusable folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
}

/// A run's model as it will be built.
#[derive(Debug, Clone, PartialEq)]
pub struct Composition {
    /// The source side.
    pub encoder: Encoder,
    /// The target side; none where a BERT is trained with its own objective.
    pub decoder: Option<Decoder>,
    /// A BERT that reads the source beside the encoder.
    pub beside: Option<Beside>,
    /// Whether the decoder sees only what stands before a token.
    pub is_causal: bool,
    /// Classes of the length prediction, where there is one.
    pub length_classes: Option<usize>,
    /// Decoder positions for each source token, where the decoder predicts blanks too (CTC).
    pub upsampling: Option<usize>,
}

/// What reads the source.
#[derive(Debug, Clone, PartialEq)]
pub enum Encoder {
    /// A BERT, with its settings.
    Bert(Bert, BertEncoder),
    /// A Transformer.
    Transformer(TransformerBase),
}

/// What writes the target.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoder {
    /// A pre-trained model, with its settings.
    Pretrained(PretrainedModel, PretrainedDecoder),
    /// A Transformer.
    Transformer(TransformerBase),
}

/// A BERT that reads the source beside the encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Beside {
    /// The BERT.
    pub bert: Bert,
    /// How it is used.
    pub settings: transformer::Beside,
}

impl Beside {
    /// Which of its weights are trained.
    pub fn train(&self) -> Train {
        if self.settings.rate.is_some() { Train::All } else { Train::Frozen }
    }
}

/// A Transformer and its vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub struct TransformerBase {
    /// Its shape.
    pub config: Transformer,
    /// Entries of its vocabulary.
    pub vocab_size: usize,
    /// The folder of the BERT that it has its vocabulary from, if any.
    pub vocabulary: Option<BertFolder>,
}

impl Composition {
    /// Opens the folders that a config names, without loading weights or going online.
    ///
    /// # Errors
    /// A pre-trained model that is not on this machine, or whose folder is unusable.
    pub fn open(run: &RunConfig) -> Result<Self, CompositionError> {
        let encoder = match &run.model.encoder {
            model::Encoder::Bert(settings) => Encoder::Bert(open_bert(settings)?, settings.clone()),
            model::Encoder::Transformer(config) => {
                Encoder::Transformer(TransformerBase::open(config)?)
            }
        };
        let decoder = run.model.decoder.as_ref().map(Decoder::open).transpose()?;
        let beside = run.model.besides().into_iter().next().map(|(_, settings)| {
            let bert = Bert::open(&find(&settings.pretrained)?)?;
            Ok::<_, CompositionError>(Beside { bert, settings })
        });
        Ok(Self::new(encoder, decoder, beside.transpose()?, &run.model.objective))
    }

    /// The composition of these parts for an objective.
    pub fn new(
        encoder: Encoder,
        decoder: Option<Decoder>,
        beside: Option<Beside>,
        objective: &Objective,
    ) -> Self {
        let is_causal = matches!(objective, Objective::Autoregressive(_));
        let (length_classes, upsampling) = match objective {
            Objective::Masked(masked) => (Some(masked.length_classes), None),
            Objective::Ctc(ctc) => (None, Some(ctc.upsampling)),
            Objective::Autoregressive(_) | Objective::Mlm(_) => (None, None),
        };
        Self { encoder, decoder, beside, is_causal, length_classes, upsampling }
    }

    /// AB-Net by its parts (Guo et al. 2020): two frozen BERTs joined by adapters, and a length prediction
    /// of so many classes. `dropout` inside the BERTs is as their config.json says if it is none.
    pub fn ab_net(
        (source, target): (Bert, Bert),
        adapters: EncoderAdapters,
        cross_attention: CrossAttention,
        length_classes: usize,
        dropout: Option<f64>,
    ) -> Self {
        let name = |bert: &Bert| bert.weights().map(|folder| folder.to_string_lossy().into_owned());
        let (train, adapters) = (Train::Adapters, Some(adapters));
        let reads = BertEncoder { pretrained: name(&source), new: None, train, adapters, dropout };
        let (pretrained, cross_attention) = (name(&target), Some(cross_attention));
        let pretrained = pretrained.unwrap_or_default();
        let writes = PretrainedDecoder { pretrained, train, cross_attention, dropout };
        Self {
            encoder: Encoder::Bert(source, reads),
            decoder: Some(Decoder::Pretrained(PretrainedModel::Bert(target), writes)),
            beside: None,
            is_causal: false,
            length_classes: Some(length_classes),
            upsampling: None,
        }
    }

    /// The longest source and target sentences of a run in tokens, with `[SEP]`: as data.max_length and
    /// the model's positions and length classes allow.
    pub fn max_lengths(&self, run: &RunConfig) -> (usize, usize) {
        let wanted = run.data.max_length.unwrap_or(usize::MAX);
        // A BERT beside the encoder reads [CLS] before the sentence.
        let beside = self.beside.as_ref().map(|beside| beside.bert.shape().positions);
        let beside = beside.map_or(usize::MAX, |positions| positions.saturating_sub(1));
        let positions = self.encoder.network().shape().positions;
        let source = match run.model.joins_pairs() {
            true => longest_of_joined(positions),
            false => positions.min(beside),
        };
        let Some(decoder) = &self.decoder else { return (wanted.min(source), wanted.min(source)) };
        let positions = decoder.network().shape().positions;
        let source =
            self.upsampling.map_or(source, |upsampling| source.min(positions / upsampling));
        let target = self.length_classes.map_or(positions, |classes| positions.min(classes - 1));
        (wanted.min(source), wanted.min(target))
    }

    /// The folders whose weights are loaded, by the first part of their parameters' names.
    pub fn folders(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let decoder = self.decoder.as_ref().and_then(|decoder| decoder.network().weights());
        let beside = self.beside.as_ref().and_then(|beside| beside.bert.weights());
        [("encoder", self.encoder.network().weights()), ("decoder", decoder), ("fused", beside)]
            .into_iter()
            .filter_map(|(side, folder)| Some((side, folder?)))
    }
}

impl Encoder {
    /// The network.
    pub fn network(&self) -> &dyn Network {
        match self {
            Self::Bert(bert, _) => bert,
            Self::Transformer(transformer) => transformer,
        }
    }

    /// The BERT, if it is one.
    pub fn bert(&self) -> Option<&Bert> {
        match self {
            Self::Bert(bert, _) => Some(bert),
            Self::Transformer(_) => None,
        }
    }
}

impl Decoder {
    fn open(decoder: &model::Decoder) -> Result<Self, CompositionError> {
        match Side::of(decoder) {
            Side::Pretrained(kind, settings) => {
                let model = (kind.open)(&find(&settings.pretrained)?)?;
                Ok(Self::Pretrained(model, settings.clone()))
            }
            Side::Transformer(config) => Ok(Self::Transformer(TransformerBase::open(config)?)),
        }
    }

    /// The network.
    pub fn network(&self) -> &dyn Network {
        match self {
            Self::Pretrained(model, _) => &**model,
            Self::Transformer(transformer) => transformer,
        }
    }

    /// Its cross-attention: in how many layers, with how many heads, and behind it a feed-forward layer
    /// of what width, 0 for none or one that is counted with the layers.
    pub fn cross_attention(&self) -> (usize, usize, usize) {
        match self {
            Self::Pretrained(model, settings) => {
                settings.cross_attention.as_ref().map_or((0, 0, 0), |adapters| {
                    let count = adapters.layers.of(model.shape().layers).count();
                    (count, adapters.heads, adapters.feed_forward)
                })
            }
            Self::Transformer(base) => (base.config.layers, base.config.heads, 0),
        }
    }

    /// The folder of a pre-trained model that stays frozen but for its head, which the folder lacks and
    /// which is trained therefore.
    pub fn headless(&self) -> Option<&Path> {
        let Self::Pretrained(model, settings) = self else { return None };
        let is_frozen = matches!(settings.train, Train::Adapters | Train::Frozen);
        model.weights().filter(|_| is_frozen && model.lacks_head())
    }
}

impl TransformerBase {
    fn open(config: &Transformer) -> Result<Self, CompositionError> {
        let vocabulary = match &config.vocabulary {
            Vocabulary::Bert(name) => Some(BertFolder::open(&find(name)?)?),
            Vocabulary::File { .. } | Vocabulary::Learn { .. } => None,
        };
        Ok(Self { config: config.clone(), vocab_size: vocab_size(&config.vocabulary)?, vocabulary })
    }
}

impl Network for TransformerBase {
    fn shape(&self) -> Shape {
        Shape::from(&self.config)
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn tokenizer(&self) -> Option<&Path> {
        self.vocabulary.as_ref().map(|folder| folder.vocabulary.as_path())
    }

    fn weights(&self) -> Option<&Path> {
        None
    }

    fn activations(&self, tokens: u64, length: u64) -> u64 {
        let shape @ Shape { layers, width, heads, .. } = self.shape();
        // Query, key, value, attended, both sums; the BERT itself keeps nothing.
        let over_bert = 6 * tokens * width as u64 + 2 * heads as u64 * tokens * length;
        let over_bert = if self.config.attends_to_bert() { over_bert } else { 0 };
        shape.activations(tokens, length) + layers as u64 * over_bert
    }
}

impl From<&Transformer> for Shape {
    fn from(config: &Transformer) -> Self {
        Self {
            kind: "Transformer",
            layers: config.layers,
            width: config.hidden,
            heads: config.heads,
            feed_forward: config.feed_forward,
            positions: config.max_length,
        }
    }
}

/// The BERT that an encoder starts from.
pub(crate) fn open_bert(encoder: &BertEncoder) -> Result<Bert, CompositionError> {
    match (&encoder.pretrained, &encoder.new) {
        (Some(name), _) => Ok(Bert::open(&find(name)?)?),
        (None, Some(new)) => Ok(Bert::new(BertConfig::of_new(new, vocab_size(&new.vocabulary)?))),
        (None, None) => unreachable!("validation asks for `pretrained` or `new`"),
    }
}

/// The folder of a pre-trained model that must be here.
pub(crate) fn find(name: &str) -> Result<PathBuf, CompositionError> {
    locate(name).ok_or_else(|| CompositionError::NotHere { name: name.into(), cache: hub_cache() })
}

/// The number of entries of a vocabulary; a learnt one has exactly as many as configured.
fn vocab_size(vocabulary: &Vocabulary) -> Result<usize, CompositionError> {
    Ok(match vocabulary {
        Vocabulary::File { path, .. } => {
            let text = std::fs::read_to_string(path)
                .map_err(|source| FolderError::Read { path: path.into(), source })?;
            tokenizer::entries(&text).lines().count()
        }
        Vocabulary::Learn { size, .. } => *size,
        Vocabulary::Bert(name) => BertFolder::open(&find(name)?)?.config.vocab_size,
    })
}
