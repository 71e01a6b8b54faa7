//! The difference between a row's BLEU and that of the first row of the same data.

use std::collections::HashMap;

use tandem_cluster::run::evaluation::EvaluationFolder;

use super::results::Outcome;
use super::table::Table;
use crate::coordinator::evaluation;
use crate::score::{self, Difference, Scoring};

/// Compares every finished row with the first row of its data, if both have translated the same test
/// set.
pub(crate) fn add_differences(table: &Table, outcomes: &mut [Outcome]) {
    let mut firsts = HashMap::new();
    for (row, outcome) in table.rows.iter().zip(outcomes) {
        let measured = match outcome {
            Outcome::Measured(measured) => Some(measured),
            Outcome::Begun { .. } | Outcome::Other { .. } | Outcome::Nothing(_) => None,
        };
        let folder = measured.as_ref().and_then(|measured| measured.test.clone());
        let Some(first) = firsts.get(&row.data) else {
            firsts.insert(&row.data, folder);
            continue;
        };
        if let (Some(measured), Some(first), Some(folder)) = (measured, first, folder) {
            measured.difference = difference(&folder, first);
        }
    }
}

/// Two evaluations' difference; none where their BLEU are different figures.
fn difference(system: &EvaluationFolder, baseline: &EvaluationFolder) -> Option<Difference> {
    let signature =
        |folder: &EvaluationFolder| Some(evaluation::read(folder)?.scores?.bleu_13a.signature);
    let (own, other) = (signature(system)?, signature(baseline)?);
    if own != other {
        return None;
    }
    let scoring = Scoring { lowercase: own.contains("|case:lc|"), ..Scoring::default() };
    let translations = |folder| evaluation::translations(folder).ok();
    let (system, baseline) = (translations(system)?, translations(baseline)?);
    score::paired_difference(&system, &baseline, scoring)
}

#[cfg(test)]
mod tests {
    use tandem_cluster::run::records::Translation;
    use tempfile::TempDir;

    use super::super::results::Measured;
    use super::*;
    use crate::coordinator::evaluation::Evaluation;
    use crate::score::corpus;

    /// An evaluation of three sentences whose last word is this.
    fn evaluated(folder: &EvaluationFolder, last: &str, lowercase: bool) -> Outcome {
        let translations: Vec<Translation> = (0..3)
            .map(|index| Translation {
                index,
                reference: format!("the sentence number {index} is here"),
                hypothesis: format!("the sentence number {index} is {last}"),
                ..Translation::default()
            })
            .collect();
        let scores = corpus(&translations, Scoring { lowercase, ..Scoring::default() });
        let (split, figures) = ("test".into(), Default::default());
        let evaluation = Evaluation { split, step: 1, figures, scores: Some(scores) };
        let lines: Vec<String> =
            translations.iter().map(|t| serde_json::to_string(t).unwrap() + "\n").collect();
        evaluation::write(folder, &evaluation, &lines.concat(), &[]).unwrap();
        let test = Some(folder.to_owned());
        Outcome::Measured(Measured { test, ..Measured::default() })
    }

    #[test]
    fn rows_are_compared_with_the_first_of_their_data() {
        let table: Table = serde_yaml::from_str(
            "{title: T, rows: [{data: a, system: i, run: x}, {data: b, system: ii, run: x}, {data: a, \
             system: iii, run: x}, {data: a, system: iv, run: x}, {data: b, system: v, run: x}]}",
        )
        .unwrap();
        let folder = TempDir::new().unwrap();
        let path = |name: &str| EvaluationFolder::new(folder.path().join(name));
        let mut outcomes = [
            evaluated(&path("i"), "there", false),
            Outcome::Nothing("not there".into()),
            evaluated(&path("iii"), "here", false),
            evaluated(&path("iv"), "here", true),
            evaluated(&path("v"), "here", false),
        ];
        add_differences(&table, &mut outcomes);
        let found = outcomes.map(|outcome| match outcome {
            Outcome::Measured(measured) => measured.difference,
            _ => None,
        });
        let [None, None, Some(better), None, None] = found else { panic!("{found:?}") };
        // Every sentence of the first row has one wrong word.
        assert!(better.bleu > 10.0 && better.low > 0.0 && better.high < 100.0, "{better:?}");
    }
}
