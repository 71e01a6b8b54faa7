//! The messages of the control channel, and how they are written: one JSON value a line.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

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

    pub(super) fn from_number(number: u8) -> Self {
        Self::ALL[usize::from(number) % Self::ALL.len()]
    }
}

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

/// What a worker tells the coordinator. Delivered in the order in which it was said.
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
    /// What a rank took for a micro-batch on average since it last said so; every rank.
    Pace {
        /// The optimizer step.
        step: u64,
        /// Seconds of waiting for the batch.
        #[serde(with = "number")]
        data: f64,
        /// Seconds of computing.
        #[serde(with = "number")]
        compute: f64,
    },
    /// Points for TensorBoard; rank 0.
    Scalars {
        /// The optimizer step.
        step: u64,
        /// Tags and values.
        #[serde(with = "number::pairs")]
        scalars: Vec<(String, f64)>,
    },
    /// For the progress line; rank 0.
    Progress {
        /// Finished optimizer steps.
        step: u64,
        /// All steps of the run.
        steps: u64,
        /// The step's loss.
        #[serde(with = "number")]
        loss: f64,
        /// Target tokens a second, over all ranks.
        #[serde(with = "number")]
        tokens_per_second: f64,
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
        /// Sums over its sentences, by name.
        #[serde(with = "number::map")]
        sums: BTreeMap<String, f64>,
    },
    /// A teacher has labelled a shard of the training pairs.
    Labelled {
        /// Which one, from 0.
        shard: usize,
        /// How many there are.
        shards: usize,
    },
    /// A shard of translations is written.
    Translated {
        /// Which one, from 0.
        shard: usize,
        /// How many there are.
        shards: usize,
    },
    /// What was wrong with the data: counts and examples; rank 0.
    Data {
        /// The report.
        report: serde_json::Value,
    },
    /// A warning for people.
    Notice {
        /// The warning.
        text: String,
    },
    /// This rank cannot go on.
    Failed {
        /// Why, in words.
        message: String,
        /// Where, if known.
        backtrace: String,
    },
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
    pub generation: u64,
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
        // What was cut off in the middle was never said.
        None => Ok(None),
        Some(b'\n') => Ok(Some(serde_json::from_slice(&line)?)),
        Some(_) if (line.len() as u64) < LINE_BYTES => Ok(None),
        Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "a line without an end")),
    }
}

/// Numbers that may be infinite or not a number, for which JSON has no word.
mod number {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Written {
        Finite(f64),
        Other(String),
    }

    impl From<f64> for Written {
        fn from(value: f64) -> Self {
            if value.is_finite() { Self::Finite(value) } else { Self::Other(value.to_string()) }
        }
    }

    impl Written {
        fn read<E: Error>(self) -> Result<f64, E> {
            match self {
                Self::Finite(value) => Ok(value),
                Self::Other(text) => text.parse().map_err(E::custom),
            }
        }
    }

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        Written::from(*value).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Written::deserialize(deserializer)?.read()
    }

    pub mod pairs {
        use super::{Deserialize, Deserializer, Serializer, Written};

        pub fn serialize<S: Serializer>(
            pairs: &[(String, f64)],
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            serializer.collect_seq(pairs.iter().map(|(name, value)| (name, Written::from(*value))))
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Vec<(String, f64)>, D::Error> {
            let written = Vec::<(String, Written)>::deserialize(deserializer)?;
            written.into_iter().map(|(name, value)| Ok((name, value.read()?))).collect()
        }
    }

    pub mod map {
        use super::{Deserialize, Deserializer, Serializer, Written};
        use std::collections::BTreeMap;

        pub fn serialize<S: Serializer>(
            map: &BTreeMap<String, f64>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            serializer.collect_map(map.iter().map(|(name, value)| (name, Written::from(*value))))
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<BTreeMap<String, f64>, D::Error> {
            let written = BTreeMap::<String, Written>::deserialize(deserializer)?;
            written.into_iter().map(|(name, value)| Ok((name, value.read()?))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_cannot_write_arrive() {
        let scalars = vec![("nan".into(), f64::NAN), ("inf".into(), f64::INFINITY)];
        let mut line = Vec::new();
        send(&mut line, &Report::Scalars { step: 3, scalars }).unwrap();
        let Some(Report::Scalars { step: 3, scalars }) = receive(&mut &line[..]).unwrap() else {
            panic!("another message came out")
        };
        assert!(scalars[0].1.is_nan());
        assert_eq!(scalars[1].1, f64::INFINITY);
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
    fn a_phase_survives_its_number() {
        for phase in Phase::ALL {
            assert_eq!(Phase::from_number(phase.number()), phase);
        }
    }
}
