//! Whether a model can be decoded as the config says.

use crate::load::report::Report;
use crate::schema::decoding::Decoding;
use crate::schema::model::Objective;
use crate::schema::run::RunConfig;

/// Reports every conflict.
pub(super) fn check(run: &RunConfig, report: &mut Report) {
    match (&run.model.objective, &run.decoding) {
        (Objective::Autoregressive(_), Decoding::MaskPredict(_)) => {
            let message = "the autoregressive objective's decoder is causal and cannot fill in \
                           masks, must be {beam_search: ...}";
            report.conflict("decoding.mask_predict", message.into());
        }
        (Objective::Masked(_), Decoding::BeamSearch(_)) => {
            let message = "the masked objective's decoder is not causal and cannot write token by \
                           token, must be {mask_predict: ...}";
            report.conflict("decoding.beam_search", message.into());
        }
        (Objective::Masked(_), Decoding::MaskPredict(_))
        | (Objective::Autoregressive(_), Decoding::BeamSearch(_))
        | (Objective::Mlm(_), _) => {}
    }
}
