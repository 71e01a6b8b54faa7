//! What a row's run has reached.

use tandem_cluster::run::evaluation::EvaluationFolder;
use tandem_cluster::run::folder::RunFolder;
use tandem_config::RunConfig;

use super::shortage;
use crate::coordinator::evaluation;
use crate::journal::{Stage, State, Status, read_state};
use crate::prepare;
use crate::prepare::changes;
use crate::prepare::hub;
use crate::score::Difference;

/// How far a row is.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Its run has finished, maybe with fewer steps than it is to make.
    Measured(Measured),
    /// Its run has begun: all there is are curves up to a step.
    Begun {
        /// What is known so far.
        measured: Measured,
        /// Steps that it is to make.
        planned: u64,
    },
    /// Its run was made or scored with other settings than the row's: its figures are not the row's.
    Other {
        /// What differs.
        reason: String,
        /// Whether a launch goes on with the run all the same, and scores it as the row says.
        goes_on: bool,
    },
    /// There is nothing to compare, for this reason.
    Nothing(String),
}

impl Outcome {
    /// What a finished run measures.
    pub fn finished(&self) -> Option<&Measured> {
        match self {
            Self::Measured(measured) => Some(measured),
            Self::Begun { .. } | Self::Other { .. } | Self::Nothing(_) => None,
        }
    }

    /// What is known of a run so far.
    pub fn begun(&self) -> Option<&Measured> {
        match self {
            Self::Measured(measured) | Self::Begun { measured, .. } => Some(measured),
            Self::Other { .. } | Self::Nothing(_) => None,
        }
    }
}

/// What a run measures: on its validation split on the way, on its test split when it has finished.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured {
    /// BLEU on the tokens of BERT's basic tokenizer, as the paper's.
    pub bleu_tokenized: Option<f64>,
    /// sacreBLEU, 13a.
    pub bleu: Option<f64>,
    /// chrF2.
    pub chrf: Option<f64>,
    /// The folder of the evaluation on the test split.
    pub test: Option<EvaluationFolder>,
    /// How its BLEU (13a) differs from that of another row.
    pub difference: Option<Difference>,
    /// Trained parameters.
    pub parameters: Option<u64>,
    /// Median milliseconds for a sentence.
    pub latency_ms: Option<f64>,
    /// Sentences in a second, in full batches, over all ranks.
    pub sentences_per_second: Option<f64>,
    /// Optimizer steps.
    pub steps: u64,
    /// What a reader has to know of the run.
    pub notes: Vec<String>,
    /// Validation BLEU (13a) by step.
    pub curve: Vec<(u64, f64)>,
    /// Negative log-likelihood of a word on the validation split, in nats, by step.
    pub word_curve: Vec<(u64, f64)>,
}

/// How far a row's run is.
pub fn outcome(config: &RunConfig) -> Outcome {
    let run = RunFolder::new(config.run.path());
    let Some(state) = read_state(&run).filter(|state| state.step > 0) else {
        return Outcome::Nothing("its run has not begun".into());
    };
    let finished = (state.stage, state.status) == (Stage::Finished, Status::Done);
    let steps = config.training.steps;
    match made_otherwise(&run, config, state.step) {
        Err(reason) => return Outcome::Other { reason, goes_on: false },
        Ok(Some(reason)) => {
            let goes_on = !finished || state.step < steps;
            return Outcome::Other { reason, goes_on };
        }
        Ok(None) => {}
    }
    let mut measured = measured(&run, &state);
    if finished && state.step < steps {
        measured.notes.push(format!("its run made {} of {steps} updates", state.step));
    }
    measured.notes.extend(shortage::note(config, &state));
    match finished {
        true => Outcome::Measured(measured),
        false => Outcome::Begun { measured, planned: steps },
    }
}

/// What of a run was scored otherwise than its row says, which a launch that goes on makes good.
///
/// # Errors
/// What was made otherwise, which none does: by the rule of `tandem launch`, and a run does not go
/// back to fewer steps.
fn made_otherwise(
    run: &RunFolder,
    config: &RunConfig,
    steps: u64,
) -> Result<Option<String>, String> {
    let old = prepare::launched(run).map_err(|error| format!("its run cannot be read: {error}"))?;
    let mut new = config.clone();
    hub::find(&mut new);
    if let Some(change) = changes::bound(&old, &new) {
        return Err(format!("its run was made with {change}"));
    }
    if steps > new.training.steps {
        return Err(format!("its run made {steps} updates, not {}", new.training.steps));
    }
    Ok(changes::scored(&old, &new).map(|change| format!("its run was scored with {change}")))
}

fn measured(run: &RunFolder, state: &State) -> Measured {
    let figure = |name: &str| state.test.get(name).copied();
    let curve = |name: &str| {
        let points = state.valid.iter();
        points.filter_map(|(step, figures)| Some((*step, *figures.get(name)?))).collect()
    };
    let test = run.evaluation("test", state.step);
    Measured {
        bleu_tokenized: figure("bleu_tokenized"),
        bleu: figure("bleu"),
        chrf: figure("chrf"),
        parameters: state.trained,
        latency_ms: evaluation::latency(&test).map(|latency| latency.median_ms),
        test: Some(test),
        difference: None,
        sentences_per_second: figure("sentences_per_second"),
        steps: state.step,
        notes: Vec::new(),
        curve: curve("bleu"),
        word_curve: curve("nll"),
    }
}
