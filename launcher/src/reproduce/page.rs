//! A table's rows next to the paper's, as Markdown and as one self-contained HTML file.

use super::chart::{caption, draw, escaped};
use super::results::{Measured, Outcome};
use super::table::{Row, Table};
use crate::prepare::changes;
use crate::score::Difference;

const HEAD: [&str; 12] = [
    "data",
    "system",
    "BLEU, paper",
    "BLEU here, tokenised",
    "BLEU here, 13a",
    "chrF2 here",
    "parameters, paper",
    "parameters here",
    "ms, paper",
    "ms here",
    "sentences/s here",
    "BLEU 13a vs first row",
];
const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;color:#0f172a;max-width:70em;margin:2em \
                     auto;padding:0 1em}table{border-collapse:collapse;font-size:14px}td,th{border:1px \
                     solid #e2e8f0;padding:.3em .6em;text-align:right;vertical-align:top}td:nth-child(-n+2),\
                     td:last-child,th:last-child{text-align:left}th{background:#f1f5f9}svg{max-width:100%;\
                     height:auto}";
/// A cell without a number.
const UNKNOWN: &str = "–";
/// The paper's mark for "no convergence reached during training" (Table 3b).
const NO_CONVERGENCE: &str = "×";
/// Printed below each table.
const LEGEND: &str = "– in a column of the paper: the paper gives no number; ×: no convergence, \
                      according to the paper. Milliseconds are the median latency of one sentence at \
                      a time, the paper's on its GPU; sentences/s are measured in full batches. BLEU \
                      vs first row: the difference to the first row of the same data, with its 95 % \
                      interval by paired bootstrap of the test set (1,000 resamples).";

/// The cells of a row; the last is its notes.
fn cells(row: &Row, outcome: &Outcome) -> Vec<String> {
    let nothing = Measured::default();
    let measured = outcome.begun().unwrap_or(&nothing);
    let reason = match outcome {
        Outcome::Measured(_) => None,
        Outcome::Begun { planned, .. } => {
            Some(format!("its run is unfinished, at step {} of {planned}", measured.steps))
        }
        Outcome::Other { reason, .. } | Outcome::Nothing(reason) => Some(reason.clone()),
    };
    let number = |value: Option<f64>, decimals: usize| match value {
        Some(value) => format!("{value:.decimals$}"),
        None => UNKNOWN.into(),
    };
    let million = |value: Option<f64>| match value {
        Some(value) if value < 10.0 => format!("{value:.2}M"),
        Some(value) => format!("{value:.0}M"),
        None => UNKNOWN.into(),
    };
    let own = measured.notes.iter().chain(&row.note).cloned();
    let notes: Vec<String> = reason.into_iter().chain(own).collect();
    vec![
        row.data.clone(),
        row.system.clone(),
        match row.paper.no_convergence {
            true => NO_CONVERGENCE.into(),
            false => number(row.paper.bleu, 2),
        },
        number(measured.bleu_tokenized, 2),
        number(measured.bleu, 2),
        number(measured.chrf, 2),
        million(row.paper.parameters_million),
        million(measured.parameters.map(|count| count as f64 / 1e6)),
        number(row.paper.latency_ms, 0),
        number(measured.latency_ms, 1),
        number(measured.sentences_per_second, 1),
        measured.difference.map_or(UNKNOWN.into(), |Difference { bleu, low, high }| {
            // Rounded first, and without the sign of a zero.
            let [bleu, low, high] = [bleu, low, high].map(|x| (x * 100.0).round() / 100.0 + 0.0);
            format!("{bleu:+.2} [{low:+.2}, {high:+.2}]")
        }),
        notes.join("; "),
    ]
}

fn rows(table: &Table, outcomes: &[Outcome]) -> Vec<Vec<String>> {
    table.rows.iter().zip(outcomes).map(|(row, outcome)| cells(row, outcome)).collect()
}

/// Remarks below the table: the legend, the runs' numbers of updates, and changed settings.
fn conditions(outcomes: &[Outcome], settings: &[String]) -> Vec<String> {
    let steps = outcomes.iter().filter_map(|outcome| Some(outcome.finished()?.steps));
    let (least, most) = (steps.clone().min(), steps.max());
    let mut lines = vec![LEGEND.to_owned()];
    if let (Some(least), Some(most @ 1..)) = (least, most) {
        lines.push(match least == most {
            true => format!("Each run here made {least} updates."),
            false => format!("The runs here made {least} to {most} updates."),
        });
    }
    let key = |setting: &&String| setting.split('=').next().is_some_and(changes::is_decisive);
    let (decisive, free): (Vec<&String>, Vec<&String>) = settings.iter().partition(key);
    let joined =
        |settings: &[&String]| settings.iter().map(|text| &***text).collect::<Vec<_>>().join(", ");
    if !decisive.is_empty() {
        lines.push(format!("Changed for all runs: {}.", joined(&decisive)));
    }
    if !free.is_empty() {
        // These may differ between the runs, as they do not change results.
        let settings = joined(&free);
        lines.push(format!("Changed for the runs that were launched for this: {settings}."));
    }
    lines
}

/// The table as Markdown. `drawing` is the path of its figure; `settings` are the overrides of all runs.
pub(crate) fn markdown(
    table: &Table,
    outcomes: &[Outcome],
    settings: &[String],
    drawing: &str,
) -> String {
    let plain = |text: &String| text.replace('|', "\\|").replace('\n', " ");
    let line = |cells: &[String]| {
        format!("| {} |\n", cells.iter().map(plain).collect::<Vec<_>>().join(" | "))
    };
    let mut text = format!("# {}\n\n", table.title);
    text += &table.about.iter().map(|about| format!("- {about}\n")).collect::<String>();
    let shows = caption(table).replace(['[', ']'], "");
    text += &format!("\n![{shows}]({drawing})\n");
    let head: Vec<String> = HEAD.iter().copied().chain([""]).map(str::to_owned).collect();
    text += "\n";
    text += &line(&head);
    text += &format!("|--|--|{}--|\n", "--:|".repeat(HEAD.len() - 2));
    for cells in rows(table, outcomes) {
        text += &line(&cells);
    }
    text += "\n";
    text + &conditions(outcomes, settings)
        .iter()
        .map(|line| format!("{line}\n"))
        .collect::<String>()
}

/// The table as an HTML page with its figure.
pub(crate) fn html(table: &Table, outcomes: &[Outcome], settings: &[String]) -> String {
    let title = escaped(&table.title);
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n<ul>\n"
    );
    for about in &table.about {
        text += &format!("<li>{}</li>\n", escaped(about));
    }
    text += &format!("</ul>\n{}<table>\n<tr>", draw(table, outcomes));
    for head in HEAD.iter().chain(&[""]) {
        text += &format!("<th>{}</th>", escaped(head));
    }
    text += "</tr>\n";
    for cells in rows(table, outcomes) {
        let cells: String =
            cells.iter().map(|cell| format!("<td>{}</td>", escaped(cell))).collect();
        text += &format!("<tr>{cells}</tr>\n");
    }
    text += "</table>\n";
    for line in conditions(outcomes, settings) {
        text += &format!("<p>{}</p>\n", escaped(&line));
    }
    text + "</body></html>\n"
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::table::{Figure, Paper};
    use super::*;

    fn table(figure: Figure) -> Table {
        let row = |system: &str, bleu, x| Row {
            data: "A-B".into(),
            system: system.into(),
            run: "run".into(),
            set: Vec::new(),
            decode: Vec::new(),
            device: None,
            paper: Paper { bleu, ..Paper::default() },
            x,
            note: Some("a | b".into()),
        };
        Table {
            title: "T < U".into(),
            about: vec!["about".into()],
            untrained: false,
            figure,
            rows: vec![row("one", Some(36.49), Some(64.0)), row("<two>", None, Some(128.0))],
        }
    }

    fn outcomes() -> [Outcome; 2] {
        let measured = Measured {
            bleu_tokenized: Some(12.345),
            difference: Some(Difference { bleu: -1.234, low: -2.0, high: 0.5 }),
            parameters: Some(66_920_448),
            steps: 7,
            curve: vec![(3, 1.0), (7, 2.0)],
            word_curve: vec![(3, 5.0), (7, 4.0)],
            ..Measured::default()
        };
        [Outcome::Measured(measured), Outcome::Nothing("not there".into())]
    }

    #[test]
    fn the_papers_numbers_are_next_to_those_of_the_runs() {
        let text = markdown(&table(Figure::Bars), &outcomes(), &["seed=2".into()], "t.svg");
        let shows = "![T < U; bars of each row's BLEU in the paper and here](t.svg)\n";
        assert!(text.contains(shows), "{text}");
        let row = "| A-B | one | 36.49 | 12.35 | – | – | – | 67M | – | – | – | -1.23 [-2.00, +0.50] | a \\| b |";
        assert!(text.contains(row) || text.contains(&row.replace("12.35", "12.34")), "{text}");
        assert!(text.contains("| A-B | <two> | – | – |"), "{text}");
        assert!(text.contains("not there; a \\| b |"), "{text}");
        assert!(text.contains("Each run here made 7 updates."), "{text}");
        assert!(text.contains("Changed for all runs: seed=2."), "{text}");
    }

    type Expected = (&'static str, &'static str, &'static [(&'static str, [&'static str; 3])]);

    /// All numbers of the paper's tables: by data and system its BLEU, trained parameters and
    /// milliseconds.
    const PAPER: &[Expected] = &[
        (
            "table-1",
            "WMT14 En-De",
            &[
                ("Transformer-Base", ["28.04", "74M", "778"]),
                ("Mask-Predict", ["27.03", "75M", "161"]),
                ("BERT-Fused NAT", ["27.73", "90M", "260"]),
                ("AB-Net", ["28.69", "67M", "327"]),
                ("AB-Net-Enc", ["28.08", "78M", "165"]),
            ],
        ),
        (
            "table-1",
            "WMT14 De-En",
            &[
                ("Transformer-Base", ["32.69", "–", "–"]),
                ("Mask-Predict", ["30.53", "–", "–"]),
                ("BERT-Fused NAT", ["32.10", "–", "–"]),
                ("AB-Net", ["33.57", "–", "–"]),
                ("AB-Net-Enc", ["–", "–", "–"]),
            ],
        ),
        (
            "table-1",
            "WMT16 Ro-En",
            &[
                ("Transformer-Base", ["34.46", "–", "–"]),
                ("Mask-Predict", ["33.31", "–", "–"]),
                ("BERT-Fused NAT", ["34.12", "–", "–"]),
                ("AB-Net", ["35.63", "–", "–"]),
                ("AB-Net-Enc", ["–", "–", "–"]),
            ],
        ),
        (
            "table-1",
            "IWSLT14 De-En",
            &[
                ("Transformer-Base", ["33.59", "–", "–"]),
                ("Mask-Predict", ["31.71", "–", "–"]),
                ("BERT-Fused NAT", ["33.14", "–", "–"]),
                ("AB-Net", ["36.49", "–", "–"]),
                ("AB-Net-Enc", ["34.45", "–", "–"]),
            ],
        ),
        (
            "table-2",
            "IWSLT14 En-It",
            &[
                ("Transformer-Base", ["29.26", "–", "–"]),
                ("Mask-Predict", ["26.05", "–", "–"]),
                ("AB-Net", ["31.81", "–", "–"]),
            ],
        ),
        (
            "table-2",
            "IWSLT14 It-En",
            &[
                ("Transformer-Base", ["33.57", "–", "–"]),
                ("Mask-Predict", ["29.50", "–", "–"]),
                ("AB-Net", ["34.20", "–", "–"]),
            ],
        ),
        (
            "table-2",
            "IWSLT14 En-Es",
            &[
                ("Transformer-Base", ["36.04", "–", "–"]),
                ("Mask-Predict", ["32.15", "–", "–"]),
                ("AB-Net", ["37.45", "–", "–"]),
            ],
        ),
        (
            "table-2",
            "IWSLT14 Es-En",
            &[
                ("Transformer-Base", ["39.31", "–", "–"]),
                ("Mask-Predict", ["35.37", "–", "–"]),
                ("AB-Net", ["42.66", "–", "–"]),
            ],
        ),
        (
            "table-2",
            "IWSLT14 En-Nl",
            &[
                ("Transformer-Base", ["31.30", "–", "–"]),
                ("Mask-Predict", ["25.78", "–", "–"]),
                ("AB-Net", ["32.52", "–", "–"]),
            ],
        ),
        (
            "table-2",
            "IWSLT14 Nl-En",
            &[
                ("Transformer-Base", ["36.19", "–", "–"]),
                ("Mask-Predict", ["32.91", "–", "–"]),
                ("AB-Net", ["38.94", "–", "–"]),
            ],
        ),
        (
            "table-3a",
            "WMT14 En-De",
            &[
                ("Transformer-Big", ["28.91", "–", "–"]),
                ("BERT-Distilled", ["27.53", "–", "–"]),
                ("CT-NMT", ["30.10", "–", "–"]),
                ("BERT-Fused", ["30.75", "–", "–"]),
                ("AB-Net-Enc", ["30.60", "–", "–"]),
            ],
        ),
        (
            "table-3a",
            "WMT14 En-Fr",
            &[
                ("Transformer-Big", ["42.23", "–", "–"]),
                ("BERT-Distilled", ["–", "–", "–"]),
                ("CT-NMT", ["42.30", "–", "–"]),
                ("BERT-Fused", ["43.78", "–", "–"]),
                ("AB-Net-Enc", ["43.56", "–", "–"]),
            ],
        ),
        (
            "table-3a",
            "WMT16 Ro-En",
            &[
                ("Transformer-Big", ["36.46", "–", "–"]),
                ("BERT-Fused", ["39.10", "–", "–"]),
                ("AB-Net-Enc", ["39.21", "–", "–"]),
            ],
        ),
        (
            "table-3a",
            "IWSLT14 En-De",
            &[
                ("AB-Net with a causal BERT decoder", ["26.40", "–", "–"]),
                ("AB-Net-Enc", ["29.96", "–", "–"]),
                ("Transformer-Base", ["28.96", "–", "–"]),
            ],
        ),
        (
            "table-3b",
            "IWSLT14 De-En",
            &[
                ("AB-Net, which is (4): (3) + A-DEC", ["36.49", "–", "–"]),
                ("Transformer-Base", ["33.59", "–", "–"]),
                ("(1) X-BERT + Decoder: AB-Net-Enc without adapters", ["×", "–", "–"]),
                ("(2) (1) + A-ENC: AB-Net-Enc", ["34.45", "–", "–"]),
                ("(3) (2) + Y-BERT: AB-Net without adapters in the decoder", ["×", "–", "–"]),
                ("(5) (4) + A-DEC on top 6 layers", ["34.60", "–", "–"]),
                ("(6) (5) + A-ENC on top 6 layers", ["33.78", "–", "–"]),
            ],
        ),
        (
            "figure-2",
            "IWSLT14 De-En",
            &[
                ("adapters 64 wide", ["34.81", "–", "–"]),
                ("adapters 512 wide", ["36.49", "–", "–"]),
                ("Transformer-Base", ["33.59", "–", "–"]),
            ],
        ),
        (
            "latency",
            "WMT14 En-De on a GPU",
            &[
                ("AB-Net, 10 passes, 4 lengths", ["–", "67M", "327"]),
                ("AB-Net-Enc, 10 passes, 4 lengths", ["–", "78M", "165"]),
                ("BERT-Fused NAT, 10 passes, 4 lengths", ["–", "90M", "260"]),
                ("Mask-Predict, 10 passes, 4 lengths", ["–", "75M", "161"]),
                ("Transformer-Base, 6 and 6 layers, beam 5", ["–", "74M", "778"]),
            ],
        ),
    ];
    /// The numbers in the remarks of each table.
    const TEXT: &[(&str, &[&str])] = &[
        ("table-1", &["2.38", "about 15M", "about 26 %", "3.5/0.88", "4 lengths", "10 iterations"]),
        ("table-3a", &["1.33 to 2.75", "2.5 BLEU"]),
        ("figure-2", &["0.4 drop", "5%", "2^6 to 2^10"]),
        ("figure-3a", &["50 epochs", "29 %", "26 %", "half of the batch", "does not converge"]),
        ("figure-3b", &["28.96", "over 1M"]),
    ];

    /// A table of the paper as Markdown, without any results.
    fn empty_table(name: &str) -> String {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/paper");
        let table = Table::read(&configs, name).expect("a table");
        let nothing = Outcome::Nothing("its run has not started".into());
        let outcomes: Vec<Outcome> = table.rows.iter().map(|_| nothing.clone()).collect();
        markdown(&table, &outcomes, &[], "t.svg")
    }

    #[test]
    fn every_number_of_the_paper_is_in_its_row() {
        for (name, data, rows) in PAPER {
            let text = empty_table(name);
            for (system, [bleu, parameters, milliseconds]) in *rows {
                let row = format!(
                    "| {data} | {system} | {bleu} | – | – | – | {parameters} | – | {milliseconds} | – |"
                );
                assert!(text.contains(&row), "{row}\n{text}");
            }
            let prefix = format!("| {data} | ");
            let found = text.lines().filter(|line| line.starts_with(&prefix));
            let is_given = |line: &&str| {
                let cells: Vec<&str> = line.split(" | ").collect();
                [cells[2], cells[6], cells[8]] != [UNKNOWN; 3]
            };
            let is_number = |row: &&(&str, [&str; 3])| row.1 != [UNKNOWN; 3];
            let expected = rows.iter().filter(is_number).count();
            let others = if *name == "latency" { 3 } else { 0 }; // rows with 1 length, which are not in the paper
            assert_eq!(found.filter(is_given).count(), expected + others, "{name}, {data}");
        }
        for (name, parts) in TEXT {
            let text = empty_table(name);
            parts.iter().for_each(|part| assert!(text.contains(part), "{name}: {part}\n{text}"));
        }
    }

    #[test]
    fn an_unfinished_run_shows_its_curves_and_its_step() {
        let [Outcome::Measured(measured), other] = outcomes() else { unreachable!() };
        let measured = Measured { bleu_tokenized: None, ..measured };
        let outcomes = [Outcome::Begun { measured, planned: 9 }, other];
        let text = markdown(&table(Figure::WordCurves), &outcomes, &[], "t.svg");
        assert!(text.contains("its run is unfinished, at step 7 of 9; a \\| b |"), "{text}");
        assert!(text.contains("| 36.49 | – | – | – | – | 67M |"), "{text}");
        assert!(!text.contains("updates"), "{text}");
        assert!(html(&table(Figure::WordCurves), &outcomes, &[]).contains(">4.00<"));
    }

    #[test]
    fn a_page_is_self_contained_and_draws_each_kind_of_figure() {
        for (figure, part) in [
            (Figure::Bars, "BLEU in the paper"),
            (Figure::Latency, "milliseconds here"),
            (Figure::Points { x: "width".into() }, ">width<"),
            (Figure::Curves, "Validation BLEU"),
            (Figure::WordCurves, ">4.00<"),
        ] {
            let page = html(&table(figure), &outcomes(), &[]);
            assert!(page.contains(part) && page.contains("<svg "), "{page}");
            assert!(page.contains("<td>&lt;two&gt;</td>") && page.contains("T &lt; U"), "{page}");
            assert!(!page.contains("src=") && !page.contains("href="), "{page}");
            assert!(page.ends_with("</html>\n"));
        }
    }

    #[test]
    fn labels_get_the_width_of_the_longest() {
        let mut table = table(Figure::Bars);
        let left = |table: &Table| {
            let picture = draw(table, &outcomes());
            let (before, _) = picture.split_once("\" y=\"12\"").expect("a legend");
            before.rsplit('"').next().expect("a place").parse::<f64>().expect("a number")
        };
        let short = left(&table);
        table.rows[1].system =
            "a system with a name of sixty letters, as latency's rows have".into();
        assert!(left(&table) > short + 300.0);
    }

    #[test]
    fn a_row_without_x_is_a_horizontal_line() {
        let mut table = table(Figure::Points { x: "width".into() });
        assert!(!draw(&table, &outcomes()).contains("dash"));
        table.rows[0].x = None;
        let picture = draw(&table, &outcomes());
        for text in [">one, in the paper<", ">36.49<", ">one, here<", "dash"] {
            assert!(picture.contains(text), "{text}: {picture}");
        }
        assert!(!picture.contains("two") && !picture.contains("<circle"), "{picture}");
    }
}
