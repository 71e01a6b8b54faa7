//! Whether a model can be decoded as the config says.

use crate::load::report::Report;
use crate::schema::decoding::{CtcSearch, Decoding, MaskPredict};
use crate::schema::model::Objective;
use crate::schema::run::RunConfig;

/// Reports every conflict.
pub(super) fn check(run: &RunConfig, report: &mut Report) {
    match (&run.model.objective, &run.decoding) {
        (Objective::Ctc(_), Decoding::Ctc(config)) => ctc(config, report),
        (Objective::Ctc(_), decoding) => {
            let message = "the ctc objective's decoder writes all tokens at once, with blanks between \
                           them, must be {ctc: ...}";
            report.conflict(&format!("decoding.{}", decoding.key()), message.into());
        }
        (Objective::Masked(_) | Objective::Autoregressive(_), Decoding::Ctc(_)) => {
            let message = "only the ctc objective's decoder predicts blanks, must be one of \
                           {mask_predict: ...} for the masked objective | {beam_search: ...} for the \
                           autoregressive one";
            report.conflict("decoding.ctc", message.into());
        }
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
        (Objective::Masked(_), Decoding::MaskPredict(config)) => mask_predict(config, report),
        (Objective::Autoregressive(_), Decoding::BeamSearch(_)) | (Objective::Mlm(_), _) => {}
    }
}

fn ctc(config: &CtcSearch, report: &mut Report) {
    if config.token_bonus > 0.0 && config.width == 1 {
        let message = format!(
            "found 1, which searches for nothing, but token_bonus is {}, must be at least 2, or set \
             decoding.ctc.token_bonus to 0",
            config.token_bonus
        );
        report.conflict("decoding.ctc.width", message);
    }
    if config.language_model.is_some() && config.width == 1 {
        let message = "found 1, which searches for nothing, but there is a language_model, must be at least 2, \
                       or set decoding.ctc.language_model to null";
        report.conflict("decoding.ctc.width", message.into());
    }
}

fn mask_predict(config: &MaskPredict, report: &mut Report) {
    let most = config.most_passes();
    if let Some(passes) = config.prune_after.filter(|&passes| passes > most) {
        let message = format!(
            "found {passes}, but there are at most {most} passes with {} iterations, must be a whole \
             number from 1 to {most}, or null",
            config.iterations
        );
        report.conflict("decoding.mask_predict.prune_after", message);
    }
}
