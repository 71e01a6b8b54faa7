//! `tandem score`: scores translations from any system.

use std::path::PathBuf;

use serde_json::json;
use tandem_cluster::run::records::Translation;

use crate::score::{Scores, Scoring, corpus};
use crate::terminal::exit::{Exit, Refused};
use crate::terminal::output;
use crate::terminal::text;

/// Score translations from any system against references, with the metrics of evaluations.
///
/// Both files are plain text with one sentence a line. BLEU (13a) and chrF2 are sacreBLEU's, each with
/// its signature. The tokenised BLEU that `tandem evaluate` compares with the paper's is left out: it
/// needs the vocabulary of a model.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// File with the translations.
    hypotheses: PathBuf,
    /// File with their references, in the same order.
    references: PathBuf,
    /// Ignore case, as with evaluation.lowercase.
    #[arg(long)]
    lowercase: bool,
    /// Also print BLEU with split compounds, as with evaluation.split_compounds.
    #[arg(long)]
    split_compounds: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let [hypotheses, references] =
            [text::read(&self.hypotheses)?, text::read(&self.references)?];
        let counts = [&hypotheses, &references].map(|text| text.lines().count());
        if counts[0] != counts[1] || counts[0] == 0 {
            let [hypotheses, references] =
                [&self.hypotheses, &self.references].map(|p| p.display());
            return Err(Refused(format!(
                "{hypotheses} has {} lines and {references} has {}: each translation needs a \
                 reference on the same line",
                counts[0], counts[1]
            ))
            .into());
        }
        let pairs = hypotheses.lines().zip(references.lines()).enumerate();
        let translations: Vec<Translation> = pairs
            .map(|(index, (hypothesis, reference))| Translation {
                index,
                hypothesis: hypothesis.into(),
                reference: reference.into(),
                ..Translation::default()
            })
            .collect();
        let Self { lowercase, split_compounds, json, .. } = self;
        let scores = corpus(&translations, Scoring { lowercase, split_compounds });
        match json {
            true => output::print(format_args!("{:#}", as_json(&scores)))?,
            false => output::print(as_text(&scores))?,
        };
        Ok(Exit::Done)
    }
}

fn as_json(scores: &Scores) -> serde_json::Value {
    let Scores { sentences, bleu_13a, bleu_compounds, chrf, .. } = scores;
    let mut json = json!({ "sentences": sentences, "bleu_13a": bleu_13a, "chrf": chrf });
    if let Some(bleu) = bleu_compounds {
        json["bleu_compounds"] = json!(bleu);
    }
    json
}

fn as_text(scores: &Scores) -> String {
    let mut lines = vec![
        format!("{} sentences", scores.sentences),
        scores.bleu_13a.to_string(),
        format!("  {}", scores.bleu_13a.signature),
    ];
    if let Some(bleu) = &scores.bleu_compounds {
        lines.extend([format!("compounds split: {bleu}"), format!("  {}", bleu.signature)]);
    }
    lines.extend([scores.chrf.to_string(), format!("  {}", scores.chrf.signature)]);
    lines.join("\n")
}
