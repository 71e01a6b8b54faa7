//! What the report says about a run, from its config, its state and the files of its evaluations.

use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::store::AVERAGE;
use tandem_cluster::topology::Topology;
use tandem_config::RunConfig;
use tandem_config::composition::{Composition, description};
use tandem_config::parameters::{self, frozen_count, trained_count};

use super::evaluation;
use crate::journal::figures::Figures;
use crate::journal::{State, Status};
use crate::prepare::distillation;
use crate::report::{Attempt, Outcome, ReportInput, Test, Training, Validation, pick_samples};
use crate::score;

/// Gathers the contents of the report.
pub(crate) fn of(
    run: &RunFolder,
    config: &RunConfig,
    topology: &Topology,
    state: &State,
) -> ReportInput {
    // The count that the workers reported, or else the plan's.
    let planned = Composition::open(config).ok().map(|composition| {
        let parameters = parameters::model(&composition);
        (trained_count(&parameters) as u64, frozen_count(&parameters) as u64)
    });
    let (trained, frozen) = planned.unwrap_or_default();
    ReportInput {
        run: config.run.name.clone(),
        folder: run.path().to_owned(),
        outcome: outcome(state),
        model: description::of(&config.model),
        trained: state.trained.unwrap_or(trained),
        frozen: state.frozen.unwrap_or(frozen),
        splits: state.data.clone(),
        distilled: distillation::stats(config),
        training: Training {
            steps: state.step,
            planned_steps: config.training.steps,
            seconds: state.training_seconds,
            tokens_per_second: state.tokens_per_second.unwrap_or(0.0),
            world_size: topology.ranks,
            device: topology.device.to_string(),
            attempts: state
                .attempts
                .iter()
                .map(|a| Attempt { from_step: a.from, to_step: a.to, end: a.end.clone() })
                .collect(),
        },
        time: state
            .ledger
            .totals()
            .into_iter()
            .map(|(account, seconds)| (account.name().to_owned(), seconds))
            .collect(),
        preflight: state.preflight.iter().map(Figures::to_string).collect(),
        loss: state.curve.clone(),
        validations: validations(run, state),
        test: test(run, config, state),
        notices: state.notices.clone(),
    }
}

fn outcome(state: &State) -> Outcome {
    match (state.status, &state.failure) {
        (Status::Stopped, _) => Outcome::Stopped { step: state.latest.unwrap_or(0) },
        (Status::Failed, Some(failure)) => {
            let message = format!("{}: {}", failure.headline(), failure.message);
            Outcome::Failed { step: state.step, message }
        }
        (Status::Failed, None) => {
            Outcome::Failed { step: state.step, message: "see events.jsonl".into() }
        }
        (Status::Prepared | Status::Running | Status::Done, _) => Outcome::Finished,
    }
}

fn validations(run: &RunFolder, state: &State) -> Vec<Validation> {
    let validation = |(step, figures): (&u64, &std::collections::BTreeMap<String, f64>)| {
        let scores = evaluation::read(&run.evaluation("valid", *step)).and_then(|e| e.scores);
        Some(Validation { step: *step, loss: *figures.get("loss")?, scores })
    };
    state.valid.iter().filter_map(validation).collect()
}

fn test(run: &RunFolder, config: &RunConfig, state: &State) -> Option<Test> {
    if state.test.is_empty() {
        return None;
    }
    let average = run.store().open(AVERAGE).ok()?;
    let folder = run.evaluation("test", average.step());
    let evaluation = evaluation::read(&folder)?;
    let figure = |name: &str| evaluation.figures.get(name).copied();
    let translations = evaluation::translations(&folder).ok()?;
    Some(Test {
        split: "test".into(),
        averaged: average.manifest().average_of.clone(),
        length_accuracy: figure("length_accuracy"),
        latency: evaluation::latency(&folder),
        sentences_per_second: figure("sentences_per_second"),
        passes: figure("passes"),
        decoder_rows: figure("decoder_rows"),
        samples: pick_samples(&translations, config.evaluation.samples),
        copied: score::copied(&translations, score::Scoring::from(&config.evaluation)),
        scores: evaluation.scores?,
    })
}
