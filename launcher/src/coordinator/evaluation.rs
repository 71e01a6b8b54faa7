//! Evaluations: the ranks' parts merged in order, and scored.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tandem_cluster::run::atomic;
use tandem_cluster::run::evaluation::EvaluationFolder;
use tandem_cluster::run::io_error::{IoContext, IoError};
use tandem_cluster::run::records::{EvaluationSums, Latency, Translation, TranslationSums};
use tandem_config::schema::evaluation::Metric;

use crate::score::{self, Scores, Scoring};

/// Why an evaluation's parts could not be put together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EvaluationError {
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A part is not what workers write.
    #[error("{}:{line}: not a translation: {reason}", path.display())]
    Part {
        /// The part.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// Sentences are missing or there twice.
    #[error("the parts of {} have {found} sentences, of which {distinct} differ, instead of {expected}", folder.display())]
    Incomplete {
        /// The evaluation's folder.
        folder: PathBuf,
        /// Lines in all parts.
        found: usize,
        /// Distinct sentences.
        distinct: usize,
        /// Sentences that the workers say they translated.
        expected: usize,
    },
}

/// One rank's share.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Part {
    /// Its file.
    pub path: PathBuf,
    pub sums: EvaluationSums,
}

/// What a model measures on a split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Evaluation {
    /// `valid` or `test`.
    pub split: String,
    /// The model's optimizer step.
    pub step: u64,
    /// Figures by name: `loss`, `nll`, `ppl`, `bleu`, ...
    pub figures: BTreeMap<String, f64>,
    /// BLEU and chrF with their signatures; none where nothing was translated.
    pub scores: Option<Scores>,
}

/// Collects the parts of evaluations until all ranks' are there.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    parts: BTreeMap<(String, u64), BTreeMap<usize, Part>>,
}

impl Collector {
    /// Takes one rank's part; all parts when it was the last of `ranks`.
    pub(crate) fn add(
        &mut self,
        (split, step): (String, u64),
        rank: usize,
        part: Part,
        ranks: usize,
    ) -> Option<Vec<Part>> {
        let key = (split, step);
        let parts = self.parts.entry(key.clone()).or_default();
        parts.insert(rank, part);
        if parts.len() < ranks {
            return None;
        }
        self.parts.remove(&key).map(|parts| parts.into_values().collect())
    }
}

/// Merges the parts into translations.jsonl, scores them, and writes scores.json.
///
/// # Errors
/// As of [`merge`], and where the file system refuses.
pub(crate) fn finish(
    folder: &EvaluationFolder,
    split: &str,
    step: u64,
    parts: &[Part],
    scoring: Scoring,
) -> Result<(Evaluation, Vec<Translation>), EvaluationError> {
    let Merged { evaluation, translations, lines } = merge(folder, split, step, parts, scoring)?;
    write(folder, &evaluation, &lines, parts)?;
    Ok((evaluation, translations))
}

/// All parts of an evaluation together.
#[derive(Debug)]
pub(crate) struct Merged {
    /// The scores.
    pub evaluation: Evaluation,
    /// In the order of the split.
    pub translations: Vec<Translation>,
    /// The text of translations.jsonl.
    pub lines: String,
}

/// Merges the parts below `folder` and scores them.
///
/// # Errors
/// Parts that are missing, unreadable or incomplete.
pub(crate) fn merge(
    folder: &EvaluationFolder,
    split: &str,
    step: u64,
    parts: &[Part],
    scoring: Scoring,
) -> Result<Merged, EvaluationError> {
    let mut lines: BTreeMap<usize, String> = BTreeMap::new();
    let mut translations = Vec::new();
    let mut found = 0;
    for part in parts {
        for (number, line) in read_lines(&part.path)?.into_iter().enumerate() {
            let translation = parse(&line, &part.path, number + 1)?;
            found += 1;
            lines.insert(translation.index, line);
            translations.push(translation);
        }
    }
    let expected = translated(parts);
    if lines.len() != found || (found > 0 && found != expected) {
        let (folder, distinct) = (folder.path().to_owned(), lines.len());
        return Err(EvaluationError::Incomplete { folder, found, distinct, expected });
    }
    translations.sort_by_key(|translation| translation.index);
    let scores = (found > 0).then(|| score::corpus(&translations, scoring));
    let figures = figures(parts, scores.as_ref());
    let evaluation = Evaluation { split: split.to_owned(), step, figures, scores };
    let lines = lines.into_values().map(|line| line + "\n").collect();
    Ok(Merged { evaluation, translations, lines })
}

/// Writes translations.jsonl and scores.json, which take the place of the parts.
///
/// # Errors
/// Where the file system refuses.
pub(crate) fn write(
    folder: &EvaluationFolder,
    evaluation: &Evaluation,
    lines: &str,
    parts: &[Part],
) -> Result<(), EvaluationError> {
    fs::create_dir_all(folder.path()).tried("make", folder.path())?;
    atomic::write(&folder.translations(), lines)?;
    let json = serde_json::to_string_pretty(evaluation).unwrap_or_default();
    atomic::write(&folder.scores(), &(json + "\n"))?;
    for part in parts.iter().filter(|part| part.path.starts_with(folder.path())) {
        let _ = fs::remove_file(&part.path);
    }
    Ok(())
}

/// The figures of an evaluation's folder, if it is there.
pub(crate) fn read(folder: &EvaluationFolder) -> Option<Evaluation> {
    serde_json::from_str(&fs::read_to_string(folder.scores()).ok()?).ok()
}

/// The translations of an evaluation's folder, in the order of the split; none if there are none.
///
/// # Errors
/// Lines that are no translations.
pub(crate) fn translations(folder: &EvaluationFolder) -> Result<Vec<Translation>, EvaluationError> {
    let path = folder.translations();
    let lines = read_lines(&path)?;
    lines.iter().zip(1..).map(|(line, number)| parse(line, &path, number)).collect()
}

/// How long a sentence took in an evaluation, if that was measured.
pub(crate) fn latency(folder: &EvaluationFolder) -> Option<Latency> {
    serde_json::from_str(&fs::read_to_string(folder.latency()).ok()?).ok()
}

/// A line of the file at `path`.
fn parse(line: &str, path: &Path, number: usize) -> Result<Translation, EvaluationError> {
    serde_json::from_str(line).map_err(|error| {
        let (path, reason) = (path.to_owned(), error.to_string());
        EvaluationError::Part { path, line: number, reason }
    })
}

/// How many sentences the workers say they translated.
fn translated(parts: &[Part]) -> usize {
    parts.iter().filter_map(|part| part.sums.translation).map(|sums| sums.sentences).sum()
}

/// The lines of a part; a rank without sentences may have none.
fn read_lines(path: &Path) -> Result<Vec<String>, EvaluationError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(IoError::new("read", path, source).into()),
    }
}

fn figures(parts: &[Part], scores: Option<&Scores>) -> BTreeMap<String, f64> {
    let sum = |of: fn(&EvaluationSums) -> f64| parts.iter().map(|part| of(&part.sums)).sum::<f64>();
    let ratio = |over: f64, under: f64| (under > 0.0).then(|| over / under);
    let sentences = sum(|sums| sums.sentences);
    let nll = ratio(sum(|sums| sums.nll), sum(|sums| sums.predicted));
    let predicts_lengths = parts.iter().any(|part| part.sums.length_nll.is_some());
    let length_nll = sum(|sums| sums.length_nll.unwrap_or(0.0));
    let translations: Vec<TranslationSums> =
        parts.iter().filter_map(|part| part.sums.translation).collect();
    let count =
        |of: fn(&TranslationSums) -> usize| translations.iter().map(of).sum::<usize>() as f64;
    let translated = count(|sums| sums.sentences);
    let slowest = translations.iter().map(|sums| sums.seconds).fold(0.0, f64::max);
    let figures = [
        ("sentences", Some(sentences).filter(|sentences| *sentences > 0.0)),
        ("loss", ratio(sum(|sums| sums.loss), sum(|sums| sums.denominator))),
        ("nll", nll),
        ("ppl", nll.map(f64::exp)),
        ("length_nll", ratio(length_nll, sentences).filter(|_| predicts_lengths)),
        ("length_accuracy", ratio(count(|sums| sums.length_correct), translated)),
        ("passes", ratio(count(|sums| sums.passes), translated)),
        ("decoder_rows", ratio(count(|sums| sums.rows), translated)),
        ("decode_seconds", Some(slowest).filter(|seconds| *seconds > 0.0)),
        ("sentences_per_second", ratio(translated, slowest).filter(|pace| *pace > 0.0)),
        ("bleu", scores.map(|scores| scores.bleu_13a.score)),
        ("bleu_tokenized", scores.map(|scores| scores.bleu_tokenized.score)),
        ("bleu_compounds", scores.and_then(|scores| Some(scores.bleu_compounds.as_ref()?.score))),
        ("chrf", scores.map(|scores| scores.chrf.score)),
    ];
    let known = figures.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    known.filter(|(_, value)| value.is_finite()).collect()
}

/// The steps of the best evaluations by a metric, best first.
pub(crate) fn best_steps(valid: &BTreeMap<u64, BTreeMap<String, f64>>, metric: Metric) -> Vec<u64> {
    let worth = |figures: &BTreeMap<String, f64>| match metric {
        Metric::Bleu => figures.get("bleu").copied(),
        Metric::Loss => figures.get("loss").map(|loss| -loss),
    };
    let mut steps: Vec<(f64, u64)> =
        valid.iter().filter_map(|(step, figures)| Some((worth(figures)?, *step))).collect();
    // Of equals the later one: it has seen more.
    steps.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
    steps.into_iter().map(|(_, step)| step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn folder() -> (TempDir, EvaluationFolder) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().to_owned();
        (folder, EvaluationFolder::new(path))
    }

    /// Of the sentences `indices`, with this loss and what it is divided by.
    fn part(
        folder: &EvaluationFolder,
        rank: usize,
        indices: &[usize],
        (loss, denominator): (f64, f64),
    ) -> Part {
        let path = folder.part(rank);
        let lines: Vec<String> = indices
            .iter()
            .map(|i| {
                let text = format!("the sentence number {i} is here");
                serde_json::json!({
                    "index": i, "source": "s", "reference": text, "hypothesis": text,
                    "reference_tokens": text, "hypothesis_tokens": text,
                    "length": 6, "reference_length": 6
                })
                .to_string()
                    + "\n"
            })
            .collect();
        fs::write(&path, lines.concat()).unwrap();
        let translation = TranslationSums { sentences: indices.len(), ..Default::default() };
        let sums = EvaluationSums {
            loss,
            denominator,
            sentences: indices.len() as f64,
            translation: Some(translation),
            ..EvaluationSums::default()
        };
        Part { path, sums }
    }

    #[test]
    fn parts_are_merged_in_order_and_scored_as_one() {
        let (_guard, folder) = folder();
        let even = part(&folder, 0, &[0, 2], (30.0, 10.0));
        let odd = part(&folder, 1, &[1], (6.0, 2.0));
        let mut collector = Collector::default();
        let key = ("valid".to_owned(), 5);
        assert_eq!(collector.add(key.clone(), 1, odd.clone(), 2), None);
        let parts = collector.add(key, 0, even, 2).unwrap();
        let (evaluation, translations) =
            finish(&folder, "valid", 5, &parts, Scoring::default()).unwrap();
        assert_eq!(translations.iter().map(|t| t.index).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(evaluation.figures["loss"], 3.0); // (30 + 6) / (10 + 2)
        assert!((evaluation.figures["bleu"] - 100.0).abs() < 1e-9);
        let merged = fs::read_to_string(folder.translations()).unwrap();
        assert!(merged.lines().nth(1).unwrap().contains("sentence number 1"));
        let json = fs::read_to_string(folder.scores()).unwrap();
        assert_eq!(serde_json::from_str::<Evaluation>(&json).unwrap(), evaluation);
        assert!(!odd.path.exists(), "parts go when they are merged");
    }

    #[test]
    fn a_missing_or_doubled_sentence_is_noticed() {
        let (_guard, folder) = folder();
        let none = (0.0, 0.0);
        let twice = [part(&folder, 0, &[0, 1], none), part(&folder, 1, &[1], none)];
        let error = finish(&folder, "test", 5, &twice, Scoring::default()).unwrap_err().to_string();
        assert!(error.contains("3 sentences, of which 2 differ, instead of 3"), "{error}");
        let mut short = part(&folder, 0, &[0, 1], none);
        short.sums.translation = Some(TranslationSums { sentences: 3, ..Default::default() });
        let error =
            finish(&folder, "test", 5, &[short], Scoring::default()).unwrap_err().to_string();
        assert!(error.contains("instead of 3"), "{error}");
    }

    #[test]
    fn compounds_are_scored_where_that_was_asked_for() {
        for split_compounds in [false, true] {
            let (_guard, folder) = folder();
            let parts = [part(&folder, 0, &[0], (0.0, 0.0))];
            let scoring = Scoring { split_compounds, ..Scoring::default() };
            let (evaluation, _) = finish(&folder, "test", 1, &parts, scoring).unwrap();
            assert_eq!(evaluation.figures.contains_key("bleu_compounds"), split_compounds);
            let json = fs::read_to_string(folder.scores()).unwrap();
            assert_eq!(json.contains("tok:13a+atat"), split_compounds);
        }
    }

    #[test]
    fn a_loss_alone_needs_no_translations() {
        let (_guard, folder) = folder();
        let sums = EvaluationSums { loss: 4.0, denominator: 2.0, ..EvaluationSums::default() };
        let parts = [Part { path: folder.part(0), sums }];
        let (evaluation, _) = finish(&folder, "valid", 1, &parts, Scoring::default()).unwrap();
        assert_eq!(evaluation.figures, BTreeMap::from([("loss".into(), 2.0)]));
        assert_eq!(evaluation.scores, None);
    }

    #[test]
    fn the_best_is_the_highest_bleu_or_the_lowest_loss() {
        let figures = |bleu, loss| BTreeMap::from([("bleu".into(), bleu), ("loss".into(), loss)]);
        let valid = BTreeMap::from([
            (1, figures(10.0, 3.0)),
            (2, figures(12.0, 2.0)),
            (3, figures(12.0, 2.5)),
            (4, BTreeMap::new()),
        ]);
        assert_eq!(best_steps(&valid, Metric::Bleu), [3, 2, 1]);
        assert_eq!(best_steps(&valid, Metric::Loss), [2, 3, 1]);
    }
}
