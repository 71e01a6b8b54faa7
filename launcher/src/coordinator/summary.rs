//! What the report tells of a run: from its config, its state, and its evaluations' files.

use std::path::Path;

use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::store::AVERAGE;
use tandem_cluster::topology::Topology;
use tandem_config::RunConfig;
use tandem_config::parameters::{self, frozen_count, trained_count};
use tandem_config::pretrained::bases::Bases;
use tandem_config::schema::model::{Decoder, Encoder, Layers, Objective, Train};
use tandem_config::schema::transformer::Transformer;

use super::evaluation;
use crate::journal::{State, Status};
use crate::prepare::distillation;
use crate::report::{Attempt, Outcome, ReportInput, Test, Training, Validation, pick_samples};
use crate::score;

/// Gathers what there is to tell.
pub fn of(run: &RunFolder, config: &RunConfig, topology: &Topology, state: &State) -> ReportInput {
    // The workers' own count, and where they have not said any, the plan's.
    let planned = Bases::open(config).ok().map(|bases| {
        let parameters = parameters::model(config, &bases);
        (trained_count(&parameters) as u64, frozen_count(&parameters) as u64)
    });
    let (trained, frozen) = planned.unwrap_or_default();
    ReportInput {
        run: config.run.name.clone(),
        folder: run.path().to_owned(),
        outcome: outcome(state),
        model: model(config),
        trained: state.trained.unwrap_or(trained),
        frozen: state.frozen.unwrap_or(frozen),
        splits: state.data.clone(),
        taught: distillation::stats(config),
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

fn model(config: &RunConfig) -> Vec<(String, String)> {
    let encoder = match &config.model.encoder {
        Encoder::Bert(encoder) => {
            let mut text = match (&encoder.pretrained, &encoder.new) {
                (Some(path), _) => format!("BERT {}, {}", name(path), trained(encoder.train)),
                (None, Some(new)) => {
                    format!("a new BERT, {} layers, {} wide", new.layers, new.hidden)
                }
                (None, None) => "BERT".into(),
            };
            if let Some(adapters) = &encoder.adapters {
                let layers = layers(&adapters.layers);
                text += &format!(", adapters {} wide in {layers}", adapters.dim);
            }
            text
        }
        Encoder::Transformer(transformer) => self::transformer(transformer),
    };
    let mut parts = vec![("encoder".to_owned(), encoder)];
    if let Some(written) = &config.model.decoder {
        let text = match written {
            Decoder::Bert(decoder) | Decoder::Gpt2(decoder) => {
                let kind = if matches!(written, Decoder::Gpt2(_)) { "GPT-2" } else { "BERT" };
                let mut text =
                    format!("{kind} {}, {}", name(&decoder.pretrained), trained(decoder.train));
                if let Some(cross) = &decoder.cross_attention {
                    let layers = layers(&cross.layers);
                    text += &format!(", cross-attention with {} heads in {layers}", cross.heads);
                    if cross.feed_forward > 0 {
                        text += &format!(" and a feed-forward layer {} wide", cross.feed_forward);
                    }
                }
                text
            }
            Decoder::Transformer(transformer) => self::transformer(transformer),
        };
        parts.push(("decoder".to_owned(), text));
    }
    let objective = match &config.model.objective {
        Objective::Masked(_) => "conditional masked language modelling with length prediction",
        Objective::Autoregressive(_) => "autoregressive, with a causal decoder",
        Objective::Mlm(mlm) if mlm.conditional => {
            "masked language modelling of targets, conditional on their sources"
        }
        Objective::Mlm(_) => "masked language modelling",
    };
    let objective = match config.model.soft_labels() {
        Some(labels) => format!(
            "{objective}, with soft labels of BERT {} (weight {}, temperature {})",
            name(labels.bert()),
            labels.weight,
            labels.temperature
        ),
        None => objective.to_owned(),
    };
    parts.push(("objective".to_owned(), objective));
    parts
}

fn transformer(shape: &Transformer) -> String {
    let Transformer { layers, hidden, heads, feed_forward, bert_fused, ct_nmt, .. } = shape;
    let mut text = format!(
        "Transformer, {layers} layers, {hidden} wide, {heads} heads, feed-forward {feed_forward}"
    );
    if let Some(fused) = bert_fused {
        text += &format!(", fused with BERT {}", name(&fused.pretrained));
    }
    if let Some(ct_nmt) = ct_nmt {
        text += &format!(", trained together with BERT {}", name(&ct_nmt.pretrained));
    }
    text
}

/// The last part of a path.
fn name(path: &str) -> String {
    let last = Path::new(path).file_name();
    last.map_or(path.to_owned(), |name| name.to_string_lossy().into_owned())
}

fn trained(train: Train) -> &'static str {
    match train {
        Train::Adapters | Train::Frozen => "frozen",
        Train::All => "trained on",
        Train::Scratch => "trained from random weights",
    }
}

fn layers(layers: &Layers) -> String {
    match layers {
        Layers::All => "all layers".into(),
        Layers::Top(count) => format!("the last {count} layers"),
        Layers::List(list) => {
            let list: Vec<String> = list.iter().map(usize::to_string).collect();
            format!("layers {}", list.join(", "))
        }
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
        samples: pick_samples(&translations, config.evaluation.samples),
        copied: score::copied(&translations, score::Scoring::from(&config.evaluation)),
        scores: evaluation.scores?,
    })
}
