//! The results of a row's run.

use tandem_cluster::run::evaluation::EvaluationFolder;
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::store::AVERAGE;
use tandem_config::RunConfig;

use super::shortage;
use crate::coordinator::{evaluation, trained};
use crate::journal::{Stage, State, Status, read_state};
use crate::prepare;
use crate::prepare::changes;
use crate::prepare::hub;
use crate::score::Difference;
use crate::terminal::exit::Exit;
use crate::terminal::interrupts::Interrupts;

/// The split that rows are compared on.
const SPLIT: &str = "test";

/// The state of a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// Its run has finished, possibly with fewer steps than the config now has.
    Measured(Measured),
    /// Its run is unfinished: there are only curves up to a step.
    Begun {
        /// The results so far.
        measured: Measured,
        /// The steps of the config.
        planned: u64,
    },
    /// Its run was trained or scored with other settings, so its figures are not the row's.
    Other {
        /// What differs.
        reason: String,
        /// Whether a launch would resume the run and score it with the row's settings.
        resumes: bool,
    },
    /// There are no results, for this reason.
    Nothing(String),
}

impl Outcome {
    /// The results of a finished run.
    pub(crate) fn finished(&self) -> Option<&Measured> {
        match self {
            Self::Measured(measured) => Some(measured),
            Self::Begun { .. } | Self::Other { .. } | Self::Nothing(_) => None,
        }
    }

    /// The results of a run, finished or not.
    pub(crate) fn begun(&self) -> Option<&Measured> {
        match self {
            Self::Measured(measured) | Self::Begun { measured, .. } => Some(measured),
            Self::Other { .. } | Self::Nothing(_) => None,
        }
    }
}

/// The results of a run: on the validation split during training, on the test split at the end.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Measured {
    /// BLEU on the tokens of BERT's basic tokenizer, like the paper's.
    pub bleu_tokenized: Option<f64>,
    /// sacreBLEU with 13a tokenisation.
    pub bleu: Option<f64>,
    /// chrF2.
    pub chrf: Option<f64>,
    /// The folder of the evaluation on the test split.
    pub test: Option<EvaluationFolder>,
    /// How its BLEU (13a) differs from that of another row.
    pub difference: Option<Difference>,
    /// The number of trained parameters.
    pub parameters: Option<u64>,
    /// The median latency of a sentence, in milliseconds.
    pub latency_ms: Option<f64>,
    /// Sentences per second in full batches, over all ranks.
    pub sentences_per_second: Option<f64>,
    /// The number of optimizer steps.
    pub steps: u64,
    /// Remarks on the run.
    pub notes: Vec<String>,
    /// Validation BLEU (13a) by step.
    pub curve: Vec<(u64, f64)>,
    /// Negative log-likelihood of a word on the validation split, in nats, by step.
    pub word_curve: Vec<(u64, f64)>,
}

/// The state of a config's run.
pub(crate) fn outcome(config: &RunConfig) -> Outcome {
    let run = RunFolder::new(config.run.path());
    let Some(state) = read_state(&run).filter(|state| state.step > 0) else {
        return Outcome::Nothing("its run has not started".into());
    };
    let finished = (state.stage, state.status) == (Stage::Finished, Status::Done);
    let steps = config.training.steps;
    match differing_setting(&run, config, state.step) {
        Err(reason) => return Outcome::Other { reason, resumes: false },
        Ok(Some(reason)) => {
            let resumes = !finished || state.step < steps;
            return Outcome::Other { reason, resumes };
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

/// The state of a config's run where it is to be translated in another way.
pub(crate) fn decoded(config: &RunConfig, decode: &[String]) -> Outcome {
    let Outcome::Measured(mut measured) = outcome(config) else { return outcome(config) };
    let folder = decoded_folder(&RunFolder::new(config.run.path()), decode);
    let Some(found) = evaluation::read(&folder).filter(|found| found.step == measured.steps) else {
        return Outcome::Nothing("its run has not been translated in this way".into());
    };
    let figure = |name: &str| found.figures.get(name).copied();
    measured.bleu_tokenized = figure("bleu_tokenized");
    measured.bleu = figure("bleu");
    measured.chrf = figure("chrf");
    measured.sentences_per_second = figure("sentences_per_second");
    measured.latency_ms = evaluation::latency(&folder).map(|latency| latency.median_ms);
    measured.test = Some(folder);
    Outcome::Measured(measured)
}

/// Where a run's scores lie when it is translated in another way. The hardware is a part of that, since speed
/// is measured, too.
fn decoded_folder(run: &RunFolder, decode: &[String]) -> EvaluationFolder {
    trained::folder(run, SPLIT, AVERAGE, decode.iter())
}

/// Translates the test split with the model of a finished run in another way.
///
/// # Errors
/// Overrides that do not fit the run, no model, or workers that cannot be started.
pub(crate) fn decode(
    config: &RunConfig,
    decode: &[String],
    interrupts: &Interrupts,
) -> anyhow::Result<Exit> {
    let run = RunFolder::new(config.run.path());
    let used = prepare::load_to_use(&run, decode)?;
    let checkpoint = prepare::model(&run, AVERAGE)?;
    let folder = decoded_folder(&run, decode);
    let scored = trained::evaluate(&run, used, &checkpoint, SPLIT, &folder, interrupts.clone())?;
    Ok(scored.err().unwrap_or(Exit::Done))
}

/// A setting of scoring in which a run differs from its row. Resuming the run would correct it.
///
/// # Errors
/// A difference that resuming cannot correct: a setting that `tandem launch` does not allow to change, or
/// more steps than the row has.
fn differing_setting(
    run: &RunFolder,
    config: &RunConfig,
    steps: u64,
) -> Result<Option<String>, String> {
    let old = prepare::launched(run).map_err(|error| format!("its run cannot be read: {error}"))?;
    let mut new = config.clone();
    hub::find(&mut new);
    if let Some(change) = changes::bound(&old, &new) {
        return Err(format!("its run was trained with {change}"));
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
    let test = run.evaluation(SPLIT, state.step);
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
