//! BERT, GPT-2 and the Transformer, each from its embeddings to its head; and the one place that builds
//! a model from them, for training, use, comparison and timing. Another network is another file
//! here and an arm below.

pub mod bert;
pub mod gpt2;
pub mod transformer;

use tandem_config::composition::{self, Composition};
use tandem_config::pretrained::PretrainedModel;
use tch::Kind;

use super::beside::{BesideBert, Switch};
use super::{Decoder, Encoder, LmHead, Parameters};

/// The encoder; a BERT beside it reads `cls` before each sentence. Computes in `kind`.
pub fn encoder(
    composition: &Composition,
    cls: i64,
    parameters: &Parameters,
    kind: Kind,
) -> Encoder {
    let scope = parameters.scope("encoder");
    let encoder = match &composition.encoder {
        composition::Encoder::Bert(bert, settings) => {
            let adapters = settings.adapters.as_ref();
            bert::encoder(&scope, &bert.config, adapters, settings.dropout, kind)
        }
        composition::Encoder::Transformer(base) => transformer::encoder(&scope, &base.config, kind),
    };
    let Some(composition::Beside { bert, settings }) = &composition.beside else { return encoder };
    encoder.beside(BesideBert {
        bert: bert::encoder(&parameters.scope("fused"), &bert.config, None, None, kind),
        cls,
        keeps_cls: settings.keeps_cls,
        switch: scope.has("switch.own.weight").then(|| Switch::new(&scope.enter("switch"))),
    })
}

/// The decoder and its head. Computes in `kind`.
pub fn decoder(
    decoder: &composition::Decoder,
    is_causal: bool,
    parameters: &Parameters,
    kind: Kind,
) -> (Decoder, LmHead) {
    let scope = parameters.scope("decoder");
    match decoder {
        composition::Decoder::Pretrained(model, settings) => match model {
            PretrainedModel::Bert(bert) => {
                let decoder = bert::decoder(&scope, &bert.config, settings, is_causal, kind);
                (decoder, bert::head(&scope, &bert.config))
            }
            PretrainedModel::Gpt2(gpt2) => {
                let decoder = gpt2::decoder(&scope, &gpt2.config, settings, kind);
                (decoder, gpt2::head(&scope, &gpt2.config))
            }
        },
        composition::Decoder::Transformer(base) => {
            let decoder = transformer::decoder(&scope, &base.config, is_causal, kind);
            (decoder, transformer::head(&scope))
        }
    }
}
