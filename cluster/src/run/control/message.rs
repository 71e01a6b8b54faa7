//! The messages of the control channel, and how they are written: one JSON value a line.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::run::records::{
    DataReport, EvaluationSums, Memory, PreflightStage, TrainingMetrics, number,
};

/// Longer lines are refused: only something that is not ours sends them.
const LINE_BYTES: u64 = 64 << 20;

/// What a rank is doing. Each phase has its own deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Connecting, loading, tokenising.
    Start,
    /// Training steps.
    Train,
    /// Waiting for a batch of the step.
    Data,
    /// Waiting for the other ranks' part of the step's sums.
    Reduce,
    /// Writing a checkpoint.
    Save,
    /// Scoring a split.
    Evaluate,
    /// Translating text.
    Translate,
    /// Writing results and taking leave.
    Finish,
}

impl Phase {
    const ALL: [Self; 8] = [
        Self::Start,
        Self::Train,
        Self::Data,
        Self::Reduce,
        Self::Save,
        Self::Evaluate,
        Self::Translate,
        Self::Finish,
    ];

    pub(super) fn number(self) -> u8 {
        self as u8
    }
}

impl TryFrom<u8> for Phase {
    type Error = UnknownPhase;

    fn try_from(number: u8) -> Result<Self, UnknownPhase> {
        Self::ALL.get(usize::from(number)).copied().ok_or(UnknownPhase(number))
    }
}

/// A number that no phase has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no phase {0}")]
pub struct UnknownPhase(u8);

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Train => "train",
            Self::Data => "data",
            Self::Reduce => "reduce",
            Self::Save => "save",
            Self::Evaluate => "evaluate",
            Self::Translate => "translate",
            Self::Finish => "finish",
        })
    }
}

/// What a worker reports to the coordinator. Reports are delivered in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// Parameters as they were really allocated; rank 0.
    Plan {
        /// Trained parameters.
        trained: u64,
        /// Frozen parameters.
        frozen: u64,
    },
    /// What has to be the same on every rank: the program, the frozen BERTs, the samples; every
    /// rank, as soon as it knows.
    Identity {
        /// Versions and hashes by name.
        facts: BTreeMap<String, String>,
    },
    /// How far this rank has come in the preflight; every rank, where the launcher has asked for one.
    Preflight {
        /// So far, and what it has found out.
        stage: PreflightStage,
    },
    /// The average time of a micro-batch on a rank since its last report, and its memory; every rank.
    Pace {
        /// The optimizer step.
        step: u64,
        /// Seconds of waiting for the batch.
        #[serde(with = "number")]
        data: f64,
        /// Seconds of computing.
        #[serde(with = "number")]
        compute: f64,
        /// What the rank holds now.
        memory: Memory,
    },
    /// Figures of a training step; rank 0.
    Metrics {
        /// The optimizer step.
        step: u64,
        /// The figures.
        metrics: TrainingMetrics,
    },
    /// The norm of a step's gradient, before it is clipped; rank 0. Where it is not clipped, the norm is
    /// known later than the step's other figures.
    GradientNorm {
        /// The optimizer step.
        step: u64,
        /// The norm.
        #[serde(with = "number")]
        norm: f64,
    },
    /// The draft of this step's checkpoint is complete and synced; rank 0.
    CheckpointWritten {
        /// The optimizer step.
        step: u64,
    },
    /// This rank's share of a split is done.
    Evaluated {
        /// The optimizer step of the evaluated model.
        step: u64,
        /// `valid` or `test`.
        split: String,
        /// Whose share.
        rank: usize,
        /// Its file of translations.
        part: PathBuf,
        /// Sums over its sentences.
        sums: EvaluationSums,
    },
    /// A teacher has labelled a chunk of the training pairs.
    Labelled {
        /// Which one, from 0.
        chunk: usize,
        /// How many there are.
        chunks: usize,
    },
    /// A chunk of translations is written.
    Translated {
        /// Which one, from 0.
        chunk: usize,
        /// How many there are.
        chunks: usize,
    },
    /// The model is loaded, and sentences can be sent; rank 0.
    Serving {
        /// Padded source tokens of a batch, at most.
        batch_tokens: usize,
        /// Tokens of the longest sentence that is not cut.
        longest: usize,
    },
    /// A batch of the sentences that were sent is being translated.
    Began {
        /// Their numbers.
        sentences: Vec<u64>,
    },
    /// What became of sentences that were sent.
    Answered {
        /// One for each.
        answers: Vec<Answer>,
    },
    /// What became of a split's lines; rank 0.
    Data {
        /// The report.
        report: DataReport,
    },
    /// A warning.
    Notice {
        /// The warning.
        text: String,
    },
    /// This rank cannot continue.
    Failed {
        /// The cause.
        message: String,
        /// Where, if known.
        backtrace: String,
    },
}

/// A sentence that a worker is to translate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sentence {
    /// Its number, by which its translation is known.
    pub id: u64,
    /// Its text: one line.
    pub text: String,
}

/// What became of a [`Sentence`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The sentence's number.
    pub id: u64,
    /// The translation, or why there is none.
    pub outcome: Result<Translated, String>,
}

/// The translation of a [`Sentence`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Translated {
    /// The translation: one line.
    pub text: String,
    /// Whether only the beginning of the sentence was translated, since it is too long for the model.
    pub is_cut: bool,
}

/// A worker's words to the coordinator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Upward {
    Hello(Hello),
    /// `progress` counts the calls of `Session::phase`.
    Beat {
        phase: Phase,
        step: u64,
        progress: u64,
    },
    Report {
        sequence: u64,
        report: Report,
    },
    Goodbye {
        sequence: u64,
        exit_code: i32,
    },
}

/// Who a worker is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub secret: String,
    pub attempt: u64,
    pub rank: usize,
    pub world_size: usize,
    pub host: String,
    pub pid: u32,
    /// Where that is its number.
    pub number_space: String,
    pub device: String,
}

/// The coordinator's words to a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Downward {
    Welcome,
    Refused {
        reason: String,
    },
    /// Everything up to `sequence` has arrived.
    Received {
        sequence: u64,
    },
    Stop,
    Checkpoint,
    Translate {
        sentences: Vec<Sentence>,
    },
}

pub(super) fn send(mut stream: impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// The next message; none at the end of the connection.
pub(super) fn receive<T: DeserializeOwned>(stream: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    stream.take(LINE_BYTES).read_until(b'\n', &mut line)?;
    match line.last() {
        // A message that was cut off in the middle does not count.
        None => Ok(None),
        Some(b'\n') => Ok(Some(serde_json::from_slice(&line)?)),
        Some(_) if (line.len() as u64) < LINE_BYTES => Ok(None),
        Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "a line without an end")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_cannot_write_arrive() {
        let sums = EvaluationSums {
            loss: f64::NAN,
            nll: f64::NEG_INFINITY,
            length_nll: Some(f64::INFINITY),
            ..EvaluationSums::default()
        };
        let (split, part) = ("valid".into(), "part".into());
        let mut line = Vec::new();
        send(&mut line, &Report::Evaluated { step: 3, split, rank: 0, part, sums }).unwrap();
        let Some(Report::Evaluated { step: 3, sums, .. }) = receive(&mut &line[..]).unwrap() else {
            panic!("another message came out")
        };
        assert!(sums.loss.is_nan());
        assert_eq!((sums.nll, sums.length_nll), (f64::NEG_INFINITY, Some(f64::INFINITY)));
    }

    #[test]
    fn what_was_cut_off_was_never_said() {
        let mut line = Vec::new();
        send(&mut line, &Downward::Received { sequence: 7 }).unwrap();
        assert_eq!(receive(&mut &line[..]).unwrap(), Some(Downward::Received { sequence: 7 }));
        for length in 0..line.len() {
            assert_eq!(receive::<Downward>(&mut &line[..length]).unwrap(), None);
        }
    }

    #[test]
    fn what_is_not_a_message_is_an_error() {
        assert!(receive::<Downward>(&mut &b"GET / HTTP/1.1\r\n"[..]).is_err());
    }

    #[test]
    fn only_the_number_of_a_phase_is_one() {
        for phase in Phase::ALL {
            assert_eq!(Phase::try_from(phase.number()), Ok(phase));
        }
        for number in [Phase::ALL.len() as u8, u8::MAX] {
            assert_eq!(Phase::try_from(number), Err(UnknownPhase(number)));
        }
    }

    #[test]
    fn an_unknown_phase_is_an_error() {
        let beat = |phase: &str| {
            let line =
                format!("{{\"beat\":{{\"phase\":\"{phase}\",\"step\":1,\"progress\":2}}}}\n");
            receive::<Upward>(&mut line.as_bytes())
        };
        let known = Upward::Beat { phase: Phase::Train, step: 1, progress: 2 };
        assert_eq!(beat("train").unwrap(), Some(known));
        assert_eq!(beat("ponder").unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
