//! The data report: what became of a split's lines.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Examples kept of each problem.
const EXAMPLES: usize = 3;
/// Characters kept of an example.
const EXAMPLE_LENGTH: usize = 80;

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// The line is not UTF-8.
    NotUtf8,
    /// A tab-separated line has too few columns.
    MissingColumn,
    /// A line is not a JSON object.
    BrokenJson,
    /// A JSON object lacks a key, or its value is not a string.
    MissingKey,
    /// One of two files has no such line any more.
    Uneven,
    /// A side has no text, or none that the tokenizer keeps.
    Empty,
    /// The sides' lengths have an absurd ratio.
    Ratio,
    /// A side has more tokens than `max_length`.
    TooLong,
}

impl Problem {
    /// What is wrong with one line.
    pub fn describe(self) -> &'static str {
        match self {
            Self::MissingKey => "a key that is missing or not a string",
            Self::Empty => "an empty side",
            other => other.describe_lines(),
        }
    }

    /// What is wrong with several lines, after their number.
    pub fn describe_lines(self) -> &'static str {
        match self {
            Self::NotUtf8 => "not UTF-8",
            Self::MissingColumn => "too few columns",
            Self::BrokenJson => "not a JSON object",
            Self::MissingKey => "with a key missing or not a string",
            Self::Uneven => "beyond the end of the other file",
            Self::Empty => "with an empty side",
            Self::Ratio => "of too different lengths",
            Self::TooLong => "too long",
        }
    }
}

/// What became of a split's lines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataReport {
    /// The split: `train`, `valid` or `test`.
    pub split: String,
    /// Its files.
    pub files: Vec<PathBuf>,
    /// Lines read.
    pub read: u64,
    /// Those of them that teachers made.
    pub made_read: u64,
    /// Of those, the ones that are not what they should be.
    pub made_bad: u64,
    /// Samples kept. More than lines where long passages are split.
    pub kept: u64,
    /// Lines left out.
    pub dropped: u64,
    /// Samples that were cut to fit.
    pub cut: u64,
    /// Source tokens kept, with special tokens.
    pub source_tokens: u64,
    /// Target tokens kept, with special tokens.
    pub target_tokens: u64,
    /// Lines with a problem, whether they were dropped or kept.
    pub problems: BTreeMap<Problem, ProblemCount>,
}

/// How often a problem was met, and where first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemCount {
    /// Lines.
    pub count: u64,
    /// The first few.
    pub examples: Vec<Example>,
}

/// A line with a problem.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// The line, counted from 1.
    pub line: u64,
    /// The beginning of its text.
    pub text: String,
}

impl DataReport {
    /// Lines that are not what they should be. Those that are too long are fine, but for the model.
    pub fn bad(&self) -> u64 {
        let is_bad = |problem: &Problem| *problem != Problem::TooLong;
        self.problems
            .iter()
            .filter(|(kind, _)| is_bad(kind))
            .map(|(_, counted)| counted.count)
            .sum()
    }

    /// Counts a line with a problem.
    pub fn add(&mut self, problem: Problem, line: u64, text: String) {
        let counted = self.problems.entry(problem).or_default();
        counted.count += 1;
        if counted.examples.len() < EXAMPLES {
            counted.examples.push(Example { line, text });
        }
    }

    /// In a line: `train: 301 lines, 300 dropped (300 too few columns), 1 samples`.
    pub fn summary(&self) -> String {
        let Self { split, read, kept, dropped, cut, .. } = self;
        let mut text = format!("{split}: {read} lines, {dropped} dropped");
        if *cut > 0 {
            text += &format!(", {cut} cut to fit");
        }
        let problem = |(problem, found): (&Problem, &ProblemCount)| {
            format!("{} {}", found.count, problem.describe_lines())
        };
        let problems: Vec<String> = self.problems.iter().map(problem).collect();
        if !problems.is_empty() {
            text += &format!(" ({})", problems.join(", "));
        }
        format!("{text}, {kept} samples")
    }
}

/// A line for the whole, then a line for each problem and each example.
impl fmt::Display for DataReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}: {} lines read, {} dropped, {} samples, {} source and {} target tokens",
            self.split, self.read, self.dropped, self.kept, self.source_tokens, self.target_tokens
        )?;
        if self.cut > 0 {
            write!(formatter, ", {} cut", self.cut)?;
        }
        for (problem, counted) in &self.problems {
            write!(formatter, "\n  {} {}", counted.count, problem.describe_lines())?;
            for example in &counted.examples {
                write!(formatter, "\n    line {}: {}", example.line, example.text)?;
            }
        }
        Ok(())
    }
}

/// The beginning of a line's text, for messages: without what would control a terminal.
pub fn shorten(source: &str, target: &str) -> String {
    let whole = if target.is_empty() { source.to_owned() } else { format!("{source} | {target}") };
    let whole = whole.replace('\t', " ").replace(char::is_control, "\u{fffd}");
    match whole.char_indices().nth(EXAMPLE_LENGTH) {
        Some((end, _)) => format!("{}...", &whole[..end]),
        None => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_examples_are_kept_and_all_are_counted() {
        let mut report = DataReport { split: "train".into(), ..Default::default() };
        for line in 1..=9 {
            report.add(Problem::Empty, line, shorten(&"ß".repeat(100), "b"));
        }
        let counted = &report.problems[&Problem::Empty];
        assert_eq!((counted.count, counted.examples.len()), (9, 3));
        assert_eq!(counted.examples[0].text, format!("{}...", "ß".repeat(80)));
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<DataReport>(&json).unwrap(), report);
    }

    #[test]
    fn a_report_reads_well() {
        let mut report = DataReport {
            split: "train".into(),
            read: 3,
            kept: 2,
            dropped: 1,
            source_tokens: 7,
            target_tokens: 8,
            ..Default::default()
        };
        report.add(Problem::TooLong, 2, shorten("a", "b"));
        let expected = "train: 3 lines read, 1 dropped, 2 samples, 7 source and 8 target tokens\n  \
            1 too long\n    line 2: a | b";
        assert_eq!(report.to_string(), expected);
    }

    #[test]
    fn a_report_in_a_line_counts_each_problem() {
        let mut report = DataReport { split: "train".into(), read: 3, ..Default::default() };
        (report.kept, report.dropped, report.cut) = (1, 2, 1);
        report.add(Problem::Empty, 1, String::new());
        report.add(Problem::MissingColumn, 2, String::new());
        assert_eq!(
            report.summary(),
            "train: 3 lines, 2 dropped, 1 cut to fit (1 too few columns, 1 with an empty side), 1 samples"
        );
    }

    #[test]
    fn a_report_of_an_older_version_is_read() {
        let json = r#"{"split":"train","files":["a.tsv"],"read":3,"kept":2,"dropped":1,"cut":0,
            "source_tokens":7,"target_tokens":8,
            "problems":{"too_long":{"count":1,"examples":[{"line":2,"text":"a | b"}]}}}"#;
        let report: DataReport = serde_json::from_str(json).unwrap();
        assert_eq!((report.made_read, report.problems[&Problem::TooLong].count), (0, 1));
    }
}
