//! A translation model: an encoder, a decoder that looks at its output, and a head.

use tandem_config::composition::Composition;
use tch::{Kind, Tensor};

use super::ctc::CtcHead;
use super::layers::linear::Linear;
use super::{Decoder, Encoded, Encoder, LmHead, Parameters, Pass, Positions, networks};

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
    /// Where the decoder predicts blanks too (CTC).
    pub ctc: Option<CtcHead>,
}

impl Seq2Seq {
    /// The model of a composition over `parameters`; computes in `kind`. A BERT beside its encoder reads
    /// `cls` before each sentence. None for a composition that does not write.
    pub fn new(
        composition: &Composition,
        cls: i64,
        parameters: &Parameters,
        kind: Kind,
    ) -> Option<Self> {
        let decoder = composition.decoder.as_ref()?;
        let encoder = networks::encoder(composition, cls, parameters, kind);
        let (decoder, head) = networks::decoder(decoder, composition.is_causal, parameters, kind);
        let ctc = composition.upsampling.map(|upsampling| {
            CtcHead::new(Linear::new(&parameters.scope("decoder"), "blank"), upsampling)
        });
        Some(Self { encoder, decoder, head, ctc })
    }

    /// The encoder's output, and the decoder's states at the predicted positions, ready for
    /// [`LmHead::project`]: `[N, D]`.
    pub fn forward(&self, batch: &Batch, pass: &Pass) -> (Encoded, Tensor) {
        let encoded = self.encoder.forward(&batch.source, &batch.source_real, pass);
        let (ids, real) = (&batch.decoder_input, &batch.target_real);
        let predicted = self.decode(ids, real, &batch.positions, &encoded, pass);
        (encoded, predicted)
    }

    /// The decoder's states of `ids` `[B, T]`, of which those are real, at `positions` `[N]` of the
    /// flattened rows, ready for [`LmHead::project`]: `[N, D]`.
    pub fn decode(
        &self,
        ids: &Tensor,
        real: &Tensor,
        positions: &Tensor,
        encoded: &Encoded,
        pass: &Pass,
    ) -> Tensor {
        let at = Positions::new(positions, ids);
        self.head.transform(&self.decoder.forward(ids, real, encoded, &at, pass))
    }
}
