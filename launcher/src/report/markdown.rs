//! The report's text.

use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::records::{DataReport, Translation};

use super::{Outcome, ReportInput, Test, Training, Validation};
use crate::prepare::distillation::DistillationStats;
use crate::score::Bleu;
use crate::terminal::text::thousands;

/// The most rows of the validation table; more evaluations are thinned out evenly.
const MAX_ROWS: usize = 24;

/// The report of a run, as Markdown; its picture lies beside it.
pub(crate) fn markdown(input: &ReportInput) -> String {
    let mut text = format!("# {}\n\n{}\n", input.run, outcome(&input.outcome, &input.training));
    if let Some(test) = &input.test {
        text += &format!(
            "\n**BLEU {:.2}** (sacreBLEU 13a), chrF2 {:.2}, on {} sentences of `{}`.\n",
            test.scores.bleu_13a.score, test.scores.chrf.score, test.scores.sentences, test.split
        );
    }
    let picture = RunFolder::new(input.folder.clone()).report_picture();
    let picture = picture.file_name().unwrap_or_default().display();
    text += &format!("\n![Curves]({picture})\n");
    for (title, body) in [
        ("Scores", input.test.as_ref().map(scores).unwrap_or_default()),
        ("Translations", input.test.as_ref().map(samples).unwrap_or_default()),
        ("Validation", validation(&input.validations)),
        ("Model", model(input)),
        ("Data", input.splits.iter().map(split).collect()),
        ("Teachers", input.distilled.iter().map(distillation).collect()),
        ("Training", training(&input.training)),
        ("Time", time(&input.time)),
        ("Preflight", input.preflight.iter().map(|n| format!("- {}\n", plain(n))).collect()),
        ("Warnings", input.notices.iter().map(|n| format!("- {}\n", plain(n))).collect()),
        ("Next steps", commands(input)),
    ] {
        if !body.is_empty() {
            text += &format!("\n## {title}\n\n{body}");
        }
    }
    text
}

/// Sources with references and translations, as Markdown; also for TensorBoard.
pub(crate) fn samples_markdown(samples: &[Translation]) -> String {
    samples
        .iter()
        .zip(1..)
        .map(|(sample, number)| {
            format!(
                "{number}. {}\n   - reference: {}\n   - **translation: {}**\n",
                plain(&sample.source),
                plain(&sample.reference),
                plain(&sample.hypothesis)
            )
        })
        .collect()
}

fn outcome(outcome: &Outcome, training: &Training) -> String {
    match outcome {
        Outcome::Finished => format!(
            "Finished: {} steps in {}.",
            thousands(training.steps),
            duration(training.seconds)
        ),
        Outcome::Stopped { step } => format!(
            "Stopped with a checkpoint at step {} of {}; launch it again to resume.",
            thousands(*step),
            thousands(training.planned_steps)
        ),
        Outcome::Failed { step, message } => format!(
            "**Failed** at step {} of {}:\n\n{}",
            thousands(*step),
            thousands(training.planned_steps),
            fenced(message)
        ),
    }
}

fn scores(test: &Test) -> String {
    let mut text = String::from(
        "| score | | n-gram precisions | brevity penalty | hypothesis length | reference length |\n\
         |--|--:|--|--:|--:|--:|\n",
    );
    let forms = [
        ("BLEU, 13a", Some(&test.scores.bleu_13a)),
        ("BLEU, tokenised", Some(&test.scores.bleu_tokenized)),
        ("BLEU, compounds split", test.scores.bleu_compounds.as_ref()),
    ];
    for (name, bleu) in forms.into_iter().filter_map(|(name, bleu)| Some((name, bleu?))) {
        let Bleu { score, precisions: [p1, p2, p3, p4], brevity_penalty, .. } = bleu;
        text += &format!(
            "| {name} | **{score:.2}** | {p1:.1} / {p2:.1} / {p3:.1} / {p4:.1} | {brevity_penalty:.3} \
             | {} | {} |\n",
            thousands(bleu.hypothesis_length),
            thousands(bleu.reference_length)
        );
    }
    text += &format!("| chrF2 | **{:.2}** | | | | |\n\n", test.scores.chrf.score);
    text += &format!(
        "- BLEU, 13a: sacreBLEU's default, on detokenised text, `{}`\n\
         - BLEU, tokenised: as in the paper, on BERT's basic tokens, `{}`; \
         not comparable with BLEU on other tokens\n\
         - chrF2: `{}`\n",
        test.scores.bleu_13a.signature,
        test.scores.bleu_tokenized.signature,
        test.scores.chrf.signature
    );
    if let Some(bleu) = &test.scores.bleu_compounds {
        text += &format!(
            "- BLEU, compounds split: as in earlier papers on English-German, `{}`, \
             but on 13a's tokens instead of Moses'\n",
            bleu.signature
        );
    }
    let (bleu, chrf) = &test.copied;
    text += &format!(
        "- Copying the sources instead: BLEU 13a {:.2}, chrF2 {:.2}\n",
        bleu.score, chrf.score
    );
    if let [first, .., last] = test.averaged[..] {
        text += &format!(
            "- Evaluated: the average of {} checkpoints, steps {} to {}\n",
            test.averaged.len(),
            thousands(first),
            thousands(last)
        );
    } else if let [step] = test.averaged[..] {
        text += &format!("- Evaluated: the checkpoint of step {}\n", thousands(step));
    }
    if let Some(accuracy) = test.length_accuracy {
        text += &format!(
            "- As many tokens as the reference: {:.1} % of the translations\n",
            100.0 * accuracy
        );
    }
    if let Some(latency) = &test.latency {
        text += &format!(
            "- Latency, one sentence at a time: median {:.1} ms, 90 % within {:.1} ms ({} sentences)\n",
            latency.median_ms, latency.p90_ms, latency.sentences
        );
    }
    if let Some(speed) = test.sentences_per_second {
        text += &format!("- Throughput, full batches: {speed:.1} sentences/s over all ranks\n");
    }
    // Older scores have no rows, and call them passes.
    if let (Some(passes), Some(rows)) = (test.passes, test.decoder_rows) {
        text += &format!(
            "- Decoder passes per sentence: {passes:.1} on average, over {rows:.1} rows in all\n"
        );
    }
    text
}

fn samples(test: &Test) -> String {
    samples_markdown(&test.samples)
}

fn validation(validations: &[Validation]) -> String {
    let best = validations
        .iter()
        .filter_map(|v| Some((v.step, v.scores.as_ref()?.bleu_13a.score)))
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(step, _)| step);
    let stride = validations.len().div_ceil(MAX_ROWS).max(1);
    let shown = validations.iter().enumerate().filter(|(index, v)| {
        (index + 1).is_multiple_of(stride) || Some(v.step) == best || index + 1 == validations.len()
    });
    let mut text = String::new();
    for (_, v) in shown {
        let mark = if Some(v.step) == best { " (best)" } else { "" };
        text += &format!("| {}{mark} | {:.3} |", thousands(v.step), v.loss);
        match &v.scores {
            Some(scores) => {
                let bleu = &scores.bleu_13a;
                text += &format!(
                    " {:.2} | {:.3} | {:.2} | {:.2} |\n",
                    bleu.score,
                    bleu.brevity_penalty,
                    scores.bleu_tokenized.score,
                    scores.chrf.score
                );
            }
            None => text += " | | | |\n",
        }
    }
    if text.is_empty() {
        return text;
    }
    String::from(
        "| step | loss | BLEU, 13a | brevity penalty | BLEU, tokenised | chrF2 |\n\
         |--:|--:|--:|--:|--:|--:|\n",
    ) + &text
}

fn model(input: &ReportInput) -> String {
    let total = (input.trained + input.frozen).max(1);
    let mut text: String =
        input.model.iter().map(|(part, what)| format!("- {part}: {}\n", plain(what))).collect();
    text += &format!(
        "- {} parameters trained ({:.1} %), {} frozen\n",
        thousands(input.trained),
        100.0 * input.trained as f64 / total as f64,
        thousands(input.frozen)
    );
    text
}

fn split(split: &DataReport) -> String {
    let mut text = format!(
        "- `{}`: {} samples of {} lines, {} dropped, {} source and {} target tokens\n",
        split.split,
        thousands(split.kept),
        thousands(split.read),
        thousands(split.dropped),
        thousands(split.source_tokens),
        thousands(split.target_tokens)
    );
    if split.cut > 0 {
        text += &format!("  - {} cut to fit\n", thousands(split.cut));
    }
    for (problem, counted) in &split.problems {
        text += &format!("  - {} {}", thousands(counted.count), problem.describe_lines());
        for (example, joint) in counted.examples.iter().zip([": ", "; ", "; "]) {
            text += &format!("{joint}line {}: {}", example.line, plain(example.text.trim()));
        }
        text.push('\n');
    }
    text
}

fn distillation(stats: &DistillationStats) -> String {
    let teacher = stats.teacher.display();
    let count = |count: usize| thousands(count as u64);
    let sentences = count(stats.sentences);
    let mixed = stats
        .ratio
        .map_or(String::new(), |ratio| format!(", at most {ratio} for each pair of `data.train`"));
    let mut text =
        format!("- `{}`: {teacher} translated {sentences} sentences{mixed}\n", stats.key);
    let of = match &stats.scores {
        Some(scores) => {
            text += &format!(
                "  - teacher BLEU {:.2} (13a), {:.2} (tokenised), chrF2 {:.2}, against the \
                 references\n",
                scores.bleu_13a.score, scores.bleu_tokenized.score, scores.chrf.score
            );
            "the references"
        }
        None => "the text",
    };
    text += &format!("  - {:.3} words per word of {of}\n", stats.length_ratio);
    let among = stats.reference_duplicates.map_or(String::new(), |references| {
        format!(" (among the references {})", count(references))
    });
    text += &format!(
        "  - {} duplicates{among}, {} empty or too long to translate\n",
        count(stats.duplicates),
        count(stats.empty)
    );
    text
}

fn training(training: &Training) -> String {
    let mut text = format!(
        "- {} of {} steps in {}, {} target tokens/s over {} rank{} ({})\n",
        thousands(training.steps),
        thousands(training.planned_steps),
        duration(training.seconds),
        thousands(training.tokens_per_second.round() as u64),
        training.world_size,
        if training.world_size == 1 { "" } else { "s" },
        training.device
    );
    if training.attempts.len() > 1 {
        text += "\n| attempt | from step | to step | end |\n|--:|--:|--:|--|\n";
        for (attempt, number) in training.attempts.iter().zip(1..) {
            text += &format!(
                "| {number} | {} | {} | {} |\n",
                thousands(attempt.from_step),
                thousands(attempt.to_step),
                plain(&attempt.end)
            );
        }
    }
    text
}

/// Where the time went, over all launches.
fn time(accounts: &[(String, f64)]) -> String {
    let total: f64 = accounts.iter().map(|(_, seconds)| seconds).sum();
    if total <= 0.0 {
        return String::new();
    }
    let mut text = String::from("| | seconds | share |\n|--|--:|--:|\n");
    for (name, seconds) in accounts {
        text += &format!("| {name} | {seconds:.1} | {:.1} % |\n", 100.0 * seconds / total);
    }
    text + &format!("| all | {total:.1} | 100.0 % |\n")
}

fn commands(input: &ReportInput) -> String {
    let folder = input.folder.display();
    let mut text = format!("```sh\ntensorboard --logdir {folder}/tensorboard    # all curves\n");
    if input.test.is_some() {
        text += &format!("echo 'Ein Satz.' | tandem translate {folder}    # translate with it\n");
    }
    text + "```\n"
}

/// `text` on one line, escaped for Markdown and HTML.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' => plain.push(' '),
            '&' => plain.push_str("&amp;"),
            '<' => plain.push_str("&lt;"),
            '\\' | '|' | '*' | '_' | '`' | '[' | ']' | '~' => plain.extend(['\\', c]),
            _ => plain.push(c),
        }
    }
    plain
}

/// `text` in a code block whose fence does not occur in it.
fn fenced(text: &str) -> String {
    let mut fence = "```".to_owned();
    while text.contains(&fence) {
        fence.push('`');
    }
    format!("{fence}text\n{}\n{fence}", text.trim_end())
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;
    use super::*;

    #[test]
    fn every_section_is_there() {
        insta::assert_snapshot!(markdown(&example()));
    }

    #[test]
    fn split_compounds_have_a_row_if_they_were_scored() {
        let mut input = example();
        assert!(!markdown(&input).contains("compounds"));
        let scores = &mut input.test.as_mut().unwrap().scores;
        scores.bleu_compounds = Some(Bleu { score: 27.03, ..scores.bleu_tokenized.clone() });
        let report = markdown(&input);
        assert!(report.contains("| BLEU, compounds split | **27.03** |"), "{report}");
        assert!(report.contains("on 13a's tokens instead of Moses'"), "{report}");
    }

    #[test]
    fn a_failed_run_says_why_and_leaves_out_empty_sections() {
        let input = ReportInput {
            run: "demo".into(),
            outcome: Outcome::Failed { step: 7, message: "rank 1: ```no``` memory".into() },
            ..ReportInput::default()
        };
        insta::assert_snapshot!(markdown(&input));
    }

    #[test]
    fn a_long_run_has_a_short_table() {
        let mut input = example();
        let last = input.validations.last().cloned().unwrap();
        input.validations = (1..=500).map(|step| Validation { step, ..last.clone() }).collect();
        assert!(validation(&input.validations).lines().count() <= MAX_ROWS + 4);
    }

    #[test]
    fn durations_read_well() {
        assert_eq!([59.6, 61.0, 7384.0].map(duration), ["1 min 0 s", "1 min 1 s", "2 h 3 min"]);
    }
}
