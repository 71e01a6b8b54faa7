//! AB-Net (Guo et al. 2020): two BERTs joined by adapters.

use tandem_config::bases::Bases;
use tandem_config::bert::BertConfig;
use tandem_config::model::{CrossAttention, EncoderAdapters, Model};
use tandem_config::model::{Decoder as DecoderConfig, Encoder as EncoderConfig};
use tch::{Kind, Tensor};

use super::bert::BertDropout;
use super::{Decoder, Encoded, Encoder, LmHead, Parameters, Pass, Positions};

/// The shape of an AB-Net.
#[derive(Debug, Clone)]
pub struct AbNetConfig {
    /// The source side's BERT.
    pub encoder: BertConfig,
    /// The target side's BERT.
    pub decoder: BertConfig,
    /// The encoder's adapters.
    pub adapters: Option<EncoderAdapters>,
    /// The decoder's adapters.
    pub cross_attention: CrossAttention,
    /// Dropout in the encoder's BERT.
    pub encoder_dropout: BertDropout,
    /// Dropout in the decoder's BERT.
    pub decoder_dropout: BertDropout,
}

impl AbNetConfig {
    /// The shape that a run's config gives; none for a model without a decoder.
    pub fn new(model: &Model, bases: &Bases) -> Option<Self> {
        let EncoderConfig::Bert(encoder) = &model.encoder;
        let DecoderConfig::Bert(decoder) = model.decoder.as_ref()?;
        let base = bases.decoder.as_ref()?;
        Some(Self {
            encoder: bases.encoder.config.clone(),
            decoder: base.config.clone(),
            adapters: encoder.adapters.clone(),
            cross_attention: decoder.cross_attention.clone(),
            encoder_dropout: BertDropout::new(&bases.encoder.config, encoder.dropout),
            decoder_dropout: BertDropout::new(&base.config, decoder.dropout),
        })
    }
}

/// A micro-batch of sentence pairs.
#[derive(Debug)]
pub struct Batch {
    /// Source ids: `[B, S]`, i64.
    pub source: Tensor,
    /// Which source ids are real: `[B, S]`, bool.
    pub source_real: Tensor,
    /// Corrupted target ids: `[B, T]`, i64.
    pub decoder_input: Tensor,
    /// Which target ids are real: `[B, T]`, bool.
    pub target_real: Tensor,
    /// Predicted positions, as indices into the flattened target: `[N]`, i64.
    pub positions: Tensor,
    /// The true ids at the predicted positions: `[N]`, i64.
    pub labels: Tensor,
    /// Target lengths in tokens, with [SEP]: `[B]`, i64.
    pub lengths: Tensor,
}

/// Two BERTs joined by adapters.
#[derive(Debug)]
pub struct AbNet {
    /// Reads the source.
    pub encoder: Encoder,
    /// Writes the target.
    pub decoder: Decoder,
    /// Turns the decoder's hidden states into words.
    pub head: LmHead,
}

impl AbNet {
    /// The model over `parameters`; computes in `kind`.
    pub fn new(parameters: &Parameters, config: &AbNetConfig, kind: Kind) -> Self {
        let (source, target) = (parameters.scope("encoder"), parameters.scope("decoder"));
        let adapters = config.adapters.as_ref();
        let (encoder, decoder) = (&config.encoder, &config.decoder);
        let cross_attention = &config.cross_attention;
        Self {
            encoder: Encoder::new(&source, encoder, adapters, config.encoder_dropout, kind),
            decoder: Decoder::new(&target, decoder, cross_attention, config.decoder_dropout, kind),
            head: LmHead::new(&target, decoder),
        }
    }

    /// The encoder's output, and the decoder's states at the predicted positions, ready for
    /// [`LmHead::project`]: `[N, D]`.
    pub fn forward(&self, batch: &Batch, pass: &Pass) -> (Encoded, Tensor) {
        let encoded = self.encoder.forward(&batch.source, &batch.source_real, pass);
        let memory = self.decoder.memory(&encoded);
        let (ids, real) = (&batch.decoder_input, &batch.target_real);
        let at = Positions::new(&batch.positions, ids);
        let predicted = self.decoder.forward(ids, real, &memory, &at, pass); // [N, D]
        (encoded, self.head.transform(&predicted))
    }
}
