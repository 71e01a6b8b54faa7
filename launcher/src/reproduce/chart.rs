//! The figures of tables: bars, points and curves.

use super::results::{Measured, Outcome};
use super::table::{Figure, Row, Table};
use crate::report::{Course, Line, chart};

const PAPER: &str = "#94a3b8";
const HERE: &str = "#2563eb";
/// Colours of curves, in turn.
const COLOURS: [&str; 6] = ["#2563eb", "#ea580c", "#059669", "#9333ea", "#0f172a", "#db2777"];
/// The approximate width of a letter of a label, the width of the longest bar, and the height of a row.
const LETTER: f64 = 6.8;
const LONGEST: f64 = 460.0;
const ROW: f64 = 34.0;

/// Draws a table as SVG.
pub(crate) fn draw(table: &Table, outcomes: &[Outcome]) -> String {
    let rows = || table.rows.iter().zip(outcomes);
    match &table.figure {
        Figure::Bars => {
            let values = rows().map(|(row, outcome)| [row.paper.bleu, here(outcome)]);
            bars(table, "BLEU", &values.collect::<Vec<_>>())
        }
        Figure::Latency => {
            let here = |outcome: &Outcome| outcome.finished()?.latency_ms;
            let values = rows().map(|(row, outcome)| [row.paper.latency_ms, here(outcome)]);
            bars(table, "milliseconds", &values.collect::<Vec<_>>())
        }
        Figure::Points { x } => {
            let points = |bleu: fn(&Row, &Outcome) -> Option<f64>| {
                let rows = rows();
                rows.filter_map(|(row, outcome)| Some((row.x?, bleu(row, outcome)?))).collect()
            };
            let line = |name: &str, colour, course| Line { name: name.into(), colour, course };
            let mut lines = vec![
                line("the paper", PAPER, Course::Points(points(|row, _| row.paper.bleu))),
                line("here", HERE, Course::Points(points(|_, outcome| here(outcome)))),
            ];
            for (row, outcome) in rows().filter(|(row, _)| row.x.is_none()) {
                for (bleu, whose, colour) in
                    [(row.paper.bleu, "in the paper", PAPER), (here(outcome), "here", HERE)]
                {
                    let name = format!("{}, {whose}", row.system);
                    lines.extend(bleu.map(|bleu| line(&name, colour, Course::Level(bleu))));
                }
            }
            chart("BLEU, tokenised", x, &lines)
        }
        Figure::Speed => {
            let lines = rows().zip(COLOURS.into_iter().cycle());
            let lines = lines.filter_map(|((row, outcome), colour)| {
                let run = outcome.finished()?;
                let course = Course::Points(vec![(run.sentences_per_second?, run.bleu?)]);
                Some(Line { name: row.system.clone(), colour, course })
            });
            chart("BLEU, 13a", "sentences/s", &lines.collect::<Vec<_>>())
        }
        Figure::Curves => {
            chart("Validation BLEU, 13a", "step", &curves(table, outcomes, |run| &run.curve))
        }
        Figure::WordCurves => {
            let lines = curves(table, outcomes, |run| &run.word_curve);
            chart("Validation, nats per word", "step", &lines)
        }
    }
}

/// The caption of a table's figure.
pub(crate) fn caption(table: &Table) -> String {
    let shows = match &table.figure {
        Figure::Bars => "bars of each row's BLEU in the paper and here".into(),
        Figure::Latency => {
            "bars of each row's milliseconds per sentence in the paper and here".into()
        }
        Figure::Points { x } => format!("BLEU in the paper and here over {x}"),
        Figure::Speed => "each row's BLEU over how many sentences it translates in a second".into(),
        Figure::Curves => "validation BLEU of each row over the steps".into(),
        Figure::WordCurves => {
            "validation loss of each row in nats per word over the steps".to_owned()
        }
    };
    format!("{}; {shows}", table.title)
}

/// A curve for each row whose run has begun.
fn curves(
    table: &Table,
    outcomes: &[Outcome],
    points: impl Fn(&Measured) -> &[(u64, f64)],
) -> Vec<Line> {
    let rows = table.rows.iter().zip(outcomes).zip(COLOURS.into_iter().cycle());
    rows.filter_map(|((row, outcome), colour)| {
        let points = points(outcome.begun()?).iter().map(|(step, value)| (*step as f64, *value));
        let course = Course::Points(points.collect());
        Some(Line { name: row.system.clone(), colour, course })
    })
    .collect()
}

fn here(outcome: &Outcome) -> Option<f64> {
    outcome.finished()?.bleu_tokenized
}

/// Bars of each row's value in the paper and here.
fn bars(table: &Table, unit: &str, values: &[[Option<f64>; 2]]) -> String {
    // Rows of the same data need not say so each.
    let has_one_data = table.rows.iter().all(|row| row.data == table.rows[0].data);
    let labels = table.rows.iter().map(|row| match has_one_data {
        true => row.system.clone(),
        false => format!("{}: {}", row.data, row.system),
    });
    let labels: Vec<String> = labels.collect();
    let letters = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0);
    let left = letters as f64 * LETTER + 16.0;
    let highest = values.iter().flatten().flatten().copied().fold(1.0, f64::max);
    let (width, height) = (left + LONGEST + 80.0, ROW * values.len() as f64 + 50.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height}\" \
         width=\"{width:.0}\" height=\"{height}\" font-size=\"12\" fill=\"#475569\" \
         font-family=\"system-ui, sans-serif\">\n\
         <rect width=\"{width:.0}\" height=\"{height}\" rx=\"8\" fill=\"#ffffff\"/>\n\
         <rect x=\"{left:.0}\" y=\"12\" width=\"12\" height=\"12\" fill=\"{PAPER}\"/>\
         <text x=\"{:.0}\" y=\"22\">{unit} in the paper</text>\n\
         <rect x=\"{:.0}\" y=\"12\" width=\"12\" height=\"12\" fill=\"{HERE}\"/>\
         <text x=\"{:.0}\" y=\"22\">{unit} here</text>\n",
        left + 18.0,
        left + 190.0,
        left + 208.0,
    );
    for (place, (label, values)) in labels.iter().zip(values).enumerate() {
        let y = 40.0 + ROW * place as f64;
        svg += &format!(
            "<text x=\"{:.0}\" y=\"{}\" text-anchor=\"end\">{}</text>\n",
            left - 8.0,
            y + 17.0,
            escaped(label)
        );
        for ((value, colour), offset) in values.iter().zip([PAPER, HERE]).zip([1.0, 14.0]) {
            let Some(value) = value else { continue };
            let (length, top) = (LONGEST * (value / highest).max(0.0), y + offset);
            svg += &format!(
                "<rect x=\"{left:.0}\" y=\"{top}\" width=\"{length:.1}\" height=\"12\" \
                 fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{}\">{value:.2}</text>\n",
                left + length + 6.0,
                top + 10.0
            );
        }
    }
    svg + "</svg>\n"
}

/// Escapes text for HTML and SVG.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
