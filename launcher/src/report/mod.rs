//! A finished run, told to people: `report.md`, and its curves in `report.svg` beside it.

mod curves;
pub(crate) mod logs;
mod markdown;

use std::path::PathBuf;

use tandem_cluster::run::atomic;
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::io_error::IoError;
use tandem_cluster::run::records::{DataReport, Latency, Translation};

use crate::prepare::distillation::DistillationStats;
use crate::score::{Bleu, Chrf, Scores};

pub(crate) use curves::{Course, Line, chart, svg};
pub(crate) use markdown::markdown;

/// What a report shows.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ReportInput {
    /// The run's name.
    pub run: String,
    /// The run folder, as a person would type it.
    pub folder: PathBuf,
    /// How the run ended.
    pub outcome: Outcome,
    /// What the model is made of, as (part, description).
    pub model: Vec<(String, String)>,
    /// Parameters that are trained.
    pub trained: u64,
    /// Parameters that are frozen.
    pub frozen: u64,
    /// What became of the lines of each split.
    pub splits: Vec<DataReport>,
    /// What teachers made of the training data.
    pub distilled: Vec<DistillationStats>,
    /// Steps and speed.
    pub training: Training,
    /// What a preflight measured of each rank, in a line.
    pub preflight: Vec<String>,
    /// What the time went into, as (account, seconds).
    pub time: Vec<(String, f64)>,
    /// Training loss as (step, loss).
    pub loss: Vec<(u64, f64)>,
    /// Evaluations while training, by step.
    pub validations: Vec<Validation>,
    /// The evaluation at the end.
    pub test: Option<Test>,
    /// Warnings that people should know of.
    pub notices: Vec<String>,
}

/// How a run ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All steps were made.
    #[default]
    Finished,
    /// Somebody stopped it after a checkpoint.
    Stopped {
        /// The checkpoint's step.
        step: u64,
    },
    /// It could not continue.
    Failed {
        /// The last step that was reached.
        step: u64,
        /// Why, in a line or a few.
        message: String,
    },
}

/// Steps and speed.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Training {
    /// Steps made.
    pub steps: u64,
    /// Steps that the config asks for.
    pub planned_steps: u64,
    /// Seconds that all attempts took together.
    pub seconds: f64,
    /// Target tokens in a second, over all ranks.
    pub tokens_per_second: f64,
    /// Processes that trained together.
    pub world_size: usize,
    /// What they ran on, `cpu` for one.
    pub device: String,
    /// Each start of the worker group, in order.
    pub attempts: Vec<Attempt>,
}

/// One start of the worker group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// The step of the checkpoint that it continued, or 0.
    pub from_step: u64,
    /// The last step that it reached.
    pub to_step: u64,
    /// How it ended; a fault in a line.
    pub end: String,
}

/// An evaluation while training.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Validation {
    /// After this step.
    pub step: u64,
    /// The training loss on `data.valid`.
    pub loss: f64,
    /// None where only the loss was computed.
    pub scores: Option<Scores>,
}

/// The evaluation at the end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Test {
    /// Which split was translated.
    pub split: String,
    /// Steps of the checkpoints whose average was evaluated; one step if none were averaged.
    pub averaged: Vec<u64>,
    /// BLEU and chrF.
    pub scores: Scores,
    /// What the sources score (BLEU 13a, chrF) where they are taken for their translations.
    pub copied: (Bleu, Chrf),
    /// Share of sentences whose predicted length is the reference's, 0 to 1.
    pub length_accuracy: Option<f64>,
    /// Time for one sentence alone.
    pub latency: Option<Latency>,
    /// Sentences in a second in full batches, over all ranks.
    pub sentences_per_second: Option<f64>,
    /// Decoder passes for a sentence, on average.
    pub passes: Option<f64>,
    /// Rows that the decoder read for a sentence, on average: one for each hypothesis and pass.
    pub decoder_rows: Option<f64>,
    /// Some translations, to read.
    pub samples: Vec<Translation>,
}

/// Writes the report and its picture into a run's folder; the report's path.
///
/// # Errors
/// Where the file system refuses.
pub(crate) fn write(run: &RunFolder, input: &ReportInput) -> Result<PathBuf, IoError> {
    let (report, picture) = (run.report(), run.report_picture());
    atomic::write(&picture, &svg(input))?;
    atomic::write(&report, &markdown(input))?;
    Ok(report)
}

/// At most `count` of `translations`, evenly spread over the split: nobody picked them.
pub(crate) fn pick_samples(translations: &[Translation], count: usize) -> Vec<Translation> {
    let count = count.min(translations.len());
    (0..count).map(|k| translations[k * translations.len() / count].clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use tandem_cluster::run::records::{Example, Problem, ProblemCount};

    use super::*;
    use crate::score;

    /// A run with something in every section.
    pub(super) fn example() -> ReportInput {
        let translation = |source: &str, hypothesis: &str, reference: &str| Translation {
            source: source.into(),
            hypothesis: hypothesis.into(),
            reference: reference.into(),
            hypothesis_tokens: hypothesis.to_lowercase().replace('.', " ."),
            reference_tokens: reference.to_lowercase().replace('.', " ."),
            ..Translation::default()
        };
        let samples = vec![
            translation(
                "Öffnet den Dialog *Seite*.",
                "Opens the | dialog.",
                "Opens the Page dialog box.",
            ),
            translation(
                "Sie können diese Funktion auch zuweisen.",
                "You can also assign this function.",
                "You can also assign this function.",
            ),
        ];
        let scores = score::corpus(&samples, score::Scoring::default());
        let validation = |step: u64| {
            let mut scores = scores.clone();
            scores.bleu_13a.score = 30.0 * (1.0 - (-(step as f64) / 900.0).exp());
            scores.bleu_tokenized.score = scores.bleu_13a.score + 1.9;
            scores.chrf.score = 1.6 * scores.bleu_13a.score;
            Validation {
                step,
                loss: 2.1 + 6.0 * (-(step as f64) / 600.0).exp(),
                scores: Some(scores),
            }
        };
        let noise = |step: u64| 0.3 * ((step * 2_654_435_761) % 1000) as f64 / 1000.0;
        let empty =
            ProblemCount { count: 12, examples: vec![Example { line: 7, text: "Ja | ".into() }] };
        ReportInput {
            run: "demo".into(),
            folder: "runs/demo".into(),
            model: vec![("encoder".into(), "BERT, 4 layers, 256 wide".into())],
            trained: 1_234_567,
            frozen: 12_345_678,
            splits: vec![DataReport {
                split: "train".into(),
                read: 1000,
                kept: 988,
                dropped: 12,
                source_tokens: 23_456,
                target_tokens: 21_098,
                problems: BTreeMap::from([(Problem::Empty, empty)]),
                ..DataReport::default()
            }],
            distilled: vec![DistillationStats {
                key: "data.distillation".into(),
                teacher: "runs/teacher".into(),
                sentences: 988,
                ratio: None,
                empty: 3,
                duplicates: 40,
                reference_duplicates: Some(25),
                length_ratio: 0.9625,
                scores: Some(scores.clone()),
            }],
            training: Training {
                steps: 3000,
                planned_steps: 3000,
                seconds: 425.0,
                tokens_per_second: 6543.2,
                world_size: 2,
                device: "cpu".into(),
                attempts: vec![
                    Attempt { from_step: 0, to_step: 1234, end: "rank 1 was killed".into() },
                    Attempt { from_step: 1200, to_step: 3000, end: "finished".into() },
                ],
            },
            time: vec![("start".into(), 10.0), ("compute".into(), 29.5), ("lost".into(), 0.5)],
            loss: (1..=300)
                .map(|k| (10 * k, 2.0 + 6.5 * (-(k as f64) / 55.0).exp() + noise(k)))
                .collect(),
            validations: (1..=10).map(|k| validation(300 * k)).collect(),
            test: Some(Test {
                split: "test".into(),
                averaged: vec![2400, 2700, 3000],
                copied: score::copied(&samples, score::Scoring::default()),
                scores,
                length_accuracy: Some(0.415),
                latency: Some(Latency {
                    sentences: 20,
                    device: "cpu".into(),
                    threads: 1,
                    median_ms: 31.4,
                    p90_ms: 55.0,
                    mean_ms: 36.0,
                }),
                sentences_per_second: Some(87.25),
                passes: Some(6.5),
                decoder_rows: Some(23.75),
                samples,
            }),
            notices: vec!["checkpoint 600 could not be written: disk full".into()],
            ..ReportInput::default()
        }
    }

    #[test]
    fn samples_are_spread_over_the_split() {
        let all: Vec<_> =
            (0..100).map(|index| Translation { index, ..Translation::default() }).collect();
        let picked = |count| pick_samples(&all, count).iter().map(|t| t.index).collect::<Vec<_>>();
        assert_eq!(picked(4), [0, 25, 50, 75]);
        assert_eq!(picked(200).len(), 100);
        assert!(pick_samples(&[], 5).is_empty());
    }

    #[test]
    fn the_report_and_its_picture_lie_side_by_side() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::new(folder.path().to_owned());
        let report = write(&run, &example()).unwrap();
        assert!(fs::read_to_string(report).unwrap().contains("![Curves](report.svg)"));
        assert!(fs::read_to_string(run.report_picture()).unwrap().starts_with("<svg "));
    }
}
