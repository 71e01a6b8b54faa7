//! What a row's run has reached.

use std::fs;
use std::path::{Path, PathBuf};

use tandem_cluster::run_folder::RunFolder;

use crate::coordinator::evaluation::Evaluation;
use crate::coordinator::journal::{Stage, Status, read_state};
use crate::report::Latency;
use crate::score::Difference;

/// How far a row is.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Its run has finished.
    Measured(Measured),
    /// Its run has begun: all there is are curves up to a step.
    Begun {
        /// What is known so far.
        measured: Measured,
        /// Steps that it is to make.
        planned: u64,
    },
    /// There is nothing to compare, for this reason.
    Nothing(String),
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
    pub test: Option<PathBuf>,
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
    /// Validation BLEU (13a) by step.
    pub curve: Vec<(u64, f64)>,
    /// Negative log-likelihood of a word on the validation split, in nats, by step.
    pub word_curve: Vec<(u64, f64)>,
}

/// How far the run in a folder is.
pub fn outcome(run: &RunFolder) -> Outcome {
    let Some(state) = read_state(run).filter(|state| state.step > 0) else {
        return Outcome::Nothing("its run has not begun".into());
    };
    let figure = |name: &str| state.test.get(name).copied();
    let curve = |name: &str| {
        let points = state.valid.iter();
        points.filter_map(|(step, figures)| Some((*step, *figures.get(name)?))).collect()
    };
    let test = run.evaluation("test", state.step);
    let measured = Measured {
        bleu_tokenized: figure("bleu_tokenized"),
        bleu: figure("bleu"),
        chrf: figure("chrf"),
        parameters: state.trained,
        latency_ms: latency(&test),
        test: Some(test),
        difference: None,
        sentences_per_second: figure("sentences_per_second"),
        steps: state.step,
        curve: curve("bleu"),
        word_curve: curve("nll"),
    };
    match (state.stage, state.status) {
        (Stage::Finished, Status::Done) => Outcome::Measured(measured),
        _ => Outcome::Begun { measured, planned: state.steps },
    }
}

/// What an evaluation in a folder says about the speed of untrained weights.
pub fn speed(folder: &Path, evaluation: &Evaluation, parameters: u64) -> Measured {
    Measured {
        parameters: Some(parameters),
        latency_ms: latency(folder),
        sentences_per_second: evaluation.figures.get("sentences_per_second").copied(),
        ..Measured::default()
    }
}

/// Median milliseconds for a sentence, of an evaluation in a folder.
fn latency(folder: &Path) -> Option<f64> {
    let text = fs::read_to_string(folder.join("latency.json")).ok()?;
    serde_json::from_str(&text).ok().map(|latency: Latency| latency.median_ms)
}
