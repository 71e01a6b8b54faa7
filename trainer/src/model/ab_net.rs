//! AB-Net (Guo et al. 2020) by its shapes alone: two BERTs joined by adapters.

use tandem_config::pretrained::bert::BertConfig;
use tandem_config::schema::model::{CrossAttention, EncoderAdapters};
use tch::Kind;

use super::bert::BertDropout;
use super::{Decoder, Encoder, LmHead, Parameters, Seq2Seq};

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
    /// The model over `parameters`; computes in `kind`.
    pub fn model(&self, parameters: &Parameters, kind: Kind) -> Seq2Seq {
        let (source, target) = (parameters.scope("encoder"), parameters.scope("decoder"));
        let (adapters, dropout) = (self.adapters.as_ref(), self.decoder_dropout);
        let (decoder, cross_attention) = (&self.decoder, &self.cross_attention);
        Seq2Seq {
            encoder: Encoder::bert(&source, &self.encoder, adapters, self.encoder_dropout, kind),
            decoder: Decoder::bert(&target, decoder, Some(cross_attention), dropout, false, kind),
            head: LmHead::bert(&target, decoder),
        }
    }
}
