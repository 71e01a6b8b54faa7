//! A translation model: an encoder, a decoder that looks at its output, and a head.

use tandem_config::pretrained::bases::{Base, Bases};
use tandem_config::schema::model::{
    Decoder as DecoderConfig, Encoder as EncoderConfig, Model, Objective,
};
use tch::{Kind, Tensor};

use super::bert::BertDropout;
use super::beside::BesideBert;
use super::gpt2::Gpt2Dropout;
use super::{Decoder, Encoded, Encoder, LmHead, Parameters, Pass, Positions};

/// A micro-batch of sentence pairs.
#[derive(Debug)]
pub struct Batch {
    /// Source ids: `[B, S]`, i64.
    pub source: Tensor,
    /// Which source ids are real: `[B, S]`, bool.
    pub source_real: Tensor,
    /// What the decoder sees of the target: `[B, T]`, i64.
    pub decoder_input: Tensor,
    /// Which target ids are real: `[B, T]`, bool.
    pub target_real: Tensor,
    /// Predicted positions, as indices into the flattened target: `[N]`, i64.
    pub positions: Tensor,
    /// The true ids at the predicted positions: `[N]`, i64.
    pub labels: Tensor,
    /// Target lengths in tokens, with `[SEP]`: `[B]`, i64.
    pub lengths: Tensor,
}

/// A translation model.
#[derive(Debug)]
pub struct Seq2Seq {
    /// Reads the source.
    pub encoder: Encoder,
    /// Writes the target.
    pub decoder: Decoder,
    /// Turns the decoder's hidden states into words.
    pub head: LmHead,
}

impl Seq2Seq {
    /// The model that a run's config describes, over `parameters`; computes in `kind`. A BERT beside
    /// its encoder reads `cls` before each sentence.
    ///
    /// # Panics
    /// If the config passed no validation or the bases are of another one.
    pub fn new(
        model: &Model,
        bases: &Bases,
        cls: i64,
        parameters: &Parameters,
        kind: Kind,
    ) -> Self {
        let (source, target) = (parameters.scope("encoder"), parameters.scope("decoder"));
        let causal = matches!(model.objective, Objective::Autoregressive(_));
        let encoder = match (&model.encoder, &bases.encoder) {
            (EncoderConfig::Bert(side), Base::Bert(base)) => {
                let dropout = BertDropout::new(&base.config, side.dropout);
                Encoder::bert(&source, &base.config, side.adapters.as_ref(), dropout, kind)
            }
            (_, Base::Transformer(base)) => {
                let encoder = Encoder::transformer(&source, &base.config, kind);
                match &bases.fused {
                    Some(bert) => {
                        let (scope, config) = (parameters.scope("fused"), &bert.config);
                        let dropout = BertDropout::new(config, None);
                        let bert = Encoder::bert(&scope, config, None, dropout, kind);
                        let keeps_cls = model.ct_nmt().is_none();
                        encoder.beside(BesideBert { bert, cls, keeps_cls })
                    }
                    None => encoder,
                }
            }
            _ => panic!("the encoder's base is of another run"),
        };
        let (decoder, head) = match (&model.decoder, &bases.decoder) {
            (Some(DecoderConfig::Bert(side)), Some(Base::Bert(base))) => {
                let (config, adapters) = (&base.config, side.cross_attention.as_ref());
                let dropout = BertDropout::new(config, side.dropout);
                let decoder = Decoder::bert(&target, config, adapters, dropout, causal, kind);
                (decoder, LmHead::bert(&target, config))
            }
            (_, Some(Base::Transformer(base))) => {
                let decoder = Decoder::transformer(&target, &base.config, causal, kind);
                (decoder, LmHead::transformer(&target))
            }
            (Some(DecoderConfig::Gpt2(side)), Some(Base::Gpt2(base))) => {
                let (config, adapters) = (&base.config, side.cross_attention.as_ref());
                let dropout = Gpt2Dropout::new(config, side.dropout);
                let decoder = Decoder::gpt2(&target, config, adapters, dropout, kind);
                (decoder, LmHead::gpt2(&target, config))
            }
            _ => panic!("validation asks for a decoder, and its base is of this run"),
        };
        Self { encoder, decoder, head }
    }

    /// The encoder's output, and the decoder's states at the predicted positions, ready for
    /// [`LmHead::project`]: `[N, D]`.
    pub fn forward(&self, batch: &Batch, pass: &Pass) -> (Encoded, Tensor) {
        let encoded = self.encoder.forward(&batch.source, &batch.source_real, pass);
        let (ids, real) = (&batch.decoder_input, &batch.target_real);
        let at = Positions::new(&batch.positions, ids);
        let predicted = self.decoder.forward(ids, real, &encoded, &at, pass); // [N, D]
        (encoded, self.head.transform(&predicted))
    }
}
