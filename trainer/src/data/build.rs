//! Builds the samples of a split: reads, checks and tokenises its lines, and hashes them for the cache.

use std::path::Path;

use sha2::{Digest, Sha256};
use tandem_cluster::run::records::{DataReport, Problem};
use tandem_config::schema::data::{BadLines, Data, Text, TooLong};

use super::cache::{Draft, Key};
use super::parallel::map_slices;
use super::read::{ReadError, Record, Records};
use super::remembered;
use super::split::{DataError, Sides, Split};
use super::tokenizer::{Encoder, TokenizerError};

/// The number of lines that are tokenised at a time.
pub const CHUNK_LINES: usize = 1 << 16;

/// The samples of a line.
struct Line {
    record: Record,
    samples: Vec<(Vec<u32>, Vec<u32>)>,
    problem: Option<Problem>,
    is_cut: bool,
}

/// Builds a split's samples.
pub struct Builder<'a> {
    /// The config's data section.
    pub data: &'a Data,
    /// The texts of the split, which are concatenated.
    pub texts: &'a [Text],
    /// The split.
    pub split: Split,
    /// The kind of samples.
    pub sides: Sides<'a>,
}

impl Builder<'_> {
    /// The files of all texts.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.texts.iter().flat_map(Text::files)
    }

    /// The first file.
    pub fn first_file(&self) -> &Path {
        self.files().next().unwrap_or(Path::new(""))
    }

    /// Checks that the texts have the kind of records that the samples need.
    ///
    /// # Errors
    /// [`DataError::WrongKind`].
    pub fn check_kind(&self) -> Result<(), DataError> {
        let lines = "passages of one language (lines)";
        let pairs = "pairs (tsv, files or jsonl)";
        for text in self.texts {
            let (found, needed) = match (text, self.sides) {
                (Text::Lines { .. }, Sides::Pair { .. }) => (lines, pairs),
                (Text::Lines { .. }, _) | (_, Sides::Pair { .. }) => continue,
                (_, Sides::Passages(_) | Sides::Sentences(_)) => (pairs, lines),
            };
            return Err(DataError::WrongKind { file: text.files()[0].to_owned(), found, needed });
        }
        Ok(())
    }

    /// Describes the problem if there are more bad lines than `data.max_bad` allows.
    pub fn is_too_bad(&self, report: &DataReport) -> Option<String> {
        let max_bad = self.data.max_bad;
        let count = |problem| report.problems.get(&problem).map_or(0, |found| found.count);
        let alone = count(Problem::Uneven);
        if alone > 0 && max_bad < 1.0 {
            let lines =
                if alone == 1 { "1 line has".into() } else { format!("{alone} lines have") };
            return Some(format!(
                "its two files have different numbers of lines: {lines} no partner"
            ));
        }
        if !self.is_training() {
            return None;
        }
        // Empty lines of synthetic data are not mistakes of the user.
        let read = report.read - report.made_read;
        let mut bad = report.bad() - report.made_bad;
        if let Sides::Passages(_) = self.sides {
            // Blank lines separate documents.
            bad -= count(Problem::Empty);
        }
        (bad as f64 > max_bad * read as f64)
            .then(|| format!("{bad} of {read} lines are bad, and data.max_bad is {max_bad}"))
    }

    fn is_training(&self) -> bool {
        self.split == Split::Train
    }

    /// The hash of everything that decides what the samples are. Those of the texts are remembered in the folder
    /// `cache`.
    ///
    /// # Errors
    /// Unreadable files.
    pub fn key(&self, cache: &Path) -> Result<Key, DataError> {
        let sides = match self.sides {
            Sides::Pair { source, target } => vec![source, target],
            Sides::Passages(side) | Sides::Sentences(side) => vec![side],
        };
        let columns: Vec<String> = self
            .texts
            .iter()
            .map(|text| match text {
                Text::Tsv { source, target, .. } => format!("tsv {source} {target}"),
                Text::Files { .. } => "files".into(),
                Text::Jsonl { source, target, .. } => format!("jsonl {source:?} {target:?}"),
                Text::Lines { .. } => match self.sides {
                    Sides::Sentences(_) => "sentences".into(),
                    _ => "lines".into(),
                },
            })
            .collect();
        let columns = columns.join(" ");
        let Data { too_long, max_ratio, bad_lines, .. } = self.data;
        let training = self.is_training();
        let settings = format!(
            "1 {columns} {too_long:?} {max_ratio} {bad_lines:?} {training} {}",
            sides.len()
        );
        let mut key = Sha256::new_with_prefix(settings);
        for side in sides {
            key.update(side.tokenizer.fingerprint());
            key.update((side.max_length as u64).to_le_bytes());
        }
        for path in self.files() {
            let failed = |source| ReadError::Open { path: path.to_owned(), source };
            key.update(remembered::sha256(path, cache).map_err(failed)?);
            key.update(path.extension().unwrap_or_default().as_encoded_bytes());
        }
        Ok(key.finalize().into())
    }

    /// Adds the samples to `draft`, with `threads` threads; the report on their lines.
    ///
    /// # Errors
    /// Unreadable files, a line that the config refuses, or an unwritable cache.
    pub fn build(&self, threads: usize, draft: &mut Draft) -> Result<Vec<u8>, DataError> {
        let mut report = DataReport::default();
        for text in self.texts {
            let mut records = Records::open(text)?;
            let before = (report.read, report.bad());
            loop {
                let chunk: Vec<Record> =
                    records.by_ref().take(CHUNK_LINES).collect::<Result<_, _>>()?;
                if chunk.is_empty() {
                    break;
                }
                let parts = map_slices(&chunk, threads, |part| self.tokenise(part));
                for part in parts {
                    for line in part? {
                        self.admit(text, line, draft, &mut report)?;
                    }
                }
            }
            if *text != self.data.train {
                report.made_read += report.read - before.0;
                report.made_bad += report.bad() - before.1;
            }
        }
        report.kept = draft.len();
        (report.source_tokens, report.target_tokens) = draft.tokens();
        Ok(serde_json::to_vec(&report).unwrap_or_default())
    }

    fn tokenise(&self, records: &[Record]) -> Result<Vec<Line>, TokenizerError> {
        let (source, target) = match self.sides {
            Sides::Pair { source, target } => (source, target),
            Sides::Passages(side) | Sides::Sentences(side) => (side, side),
        };
        let mut encoders = (source.tokenizer.encoder(), target.tokenizer.encoder());
        records.iter().map(|record| self.line(record.clone(), &mut encoders)).collect()
    }

    /// Builds the samples of a line, or finds its problem.
    fn line(
        &self,
        record: Record,
        (source_encoder, target_encoder): &mut (Encoder<'_>, Encoder<'_>),
    ) -> Result<Line, TokenizerError> {
        let mut problem = record.problem;
        let mut is_cut = false;
        let samples = match self.sides {
            Sides::Passages(_) if problem.is_some() => vec![],
            Sides::Passages(side) => {
                let passages = side.passages(&source_encoder.encode(&record.source)?);
                if passages.is_empty() {
                    problem = Some(Problem::Empty);
                }
                if passages.len() > 1 && self.data.too_long == TooLong::Refuse {
                    problem = Some(Problem::TooLong);
                }
                passages.into_iter().map(|passage| (passage, vec![])).collect()
            }
            Sides::Sentences(side) => {
                let sentence;
                (sentence, is_cut) = side.sentence(source_encoder.encode(&record.source)?);
                if is_cut {
                    problem.get_or_insert(Problem::TooLong);
                } else if sentence.len() == 1 {
                    problem.get_or_insert(Problem::Empty);
                }
                vec![(sentence, vec![])]
            }
            Sides::Pair { .. } if problem.is_some() && self.is_training() => vec![],
            Sides::Pair { source, target } => {
                let (source, source_cut) = source.sentence(source_encoder.encode(&record.source)?);
                let (target, target_cut) = target.sentence(target_encoder.encode(&record.target)?);
                is_cut = source_cut || target_cut;
                let ratio =
                    source.len().max(target.len()) as f64 / source.len().min(target.len()) as f64;
                let found = if source.len() == 1 || target.len() == 1 {
                    Some(Problem::Empty)
                } else if is_cut {
                    Some(Problem::TooLong)
                } else if self.is_training() && ratio > self.data.max_ratio {
                    Some(Problem::Ratio)
                } else {
                    None
                };
                problem = problem.or(found);
                vec![(source, target)]
            }
        };
        Ok(Line { record, samples, problem, is_cut })
    }

    /// Keeps, drops or refuses a line.
    fn admit(
        &self,
        text: &Text,
        line: Line,
        draft: &mut Draft,
        report: &mut DataReport,
    ) -> Result<(), DataError> {
        let Line { record, samples, problem, is_cut } = line;
        report.read += 1;
        if let Some(problem) = problem {
            report.add(problem, record.line, record.shown());
            let (is_refused, key) = match problem {
                Problem::TooLong => (self.data.too_long == TooLong::Refuse, "data.too_long"),
                _ => (self.data.bad_lines == BadLines::Refuse, "data.bad_lines"),
            };
            if is_refused {
                return Err(DataError::Refused {
                    file: text.files()[0].to_owned(),
                    line: record.line,
                    problem,
                    text: record.shown(),
                    key,
                });
            }
            let is_cut_to_fit = problem == Problem::TooLong && self.data.too_long == TooLong::Cut;
            let is_kept = !matches!(self.sides, Sides::Passages(_)) && !self.is_training();
            if !is_kept && !is_cut_to_fit {
                report.dropped += 1;
                return Ok(());
            }
        }
        report.cut += u64::from(is_cut);
        let texts = (!self.is_training()).then_some((&*record.source, &*record.target));
        for (source, target) in samples {
            draft.push(record.line, &source, &target, texts)?;
        }
        Ok(())
    }
}
