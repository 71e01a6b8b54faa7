//! `tandem score`: scores of translations that no run has made.

use std::path::PathBuf;

use serde_json::json;
use tandem_cluster::run::records::Translation;

use crate::score::{Scores, Scoring, corpus};
use crate::terminal::exit::{Exit, Refused};
use crate::terminal::output;
use crate::terminal::text;

/// Score translations of any origin against references, on the same terms as evaluations.
///
/// Both files have a sentence a line, as plain text. BLEU (13a) and chrF2 are sacreBLEU's, each with its
/// signature. The tokenised BLEU of evaluations, which is to be held beside the paper's, is not here:
/// its references are spelt with the vocabulary of a model.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The translations.
    hypotheses: PathBuf,
    /// Their references, line by line.
    references: PathBuf,
    /// Ignore the case of letters, as with evaluation.lowercase.
    #[arg(long)]
    lowercase: bool,
    /// Tell BLEU with split compounds, too, as with evaluation.split_compounds.
    #[arg(long)]
    split_compounds: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// Files that cannot be read, or that have other numbers of lines.
    pub fn run(self) -> anyhow::Result<Exit> {
        let [hypotheses, references] =
            [text::read(&self.hypotheses)?, text::read(&self.references)?];
        let counts = [&hypotheses, &references].map(|text| text.lines().count());
        if counts[0] != counts[1] || counts[0] == 0 {
            let [hypotheses, references] =
                [&self.hypotheses, &self.references].map(|p| p.display());
            return Err(Refused(format!(
                "{hypotheses} has {} lines and {references} has {}: each translation needs its \
                 reference in the same line",
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
            false => output::print(with_causes(&scores))?,
        };
        Ok(Exit::Done)
    }
}

fn as_json(scores: &Scores) -> serde_json::Value {
    let Scores { sentences, bleu_13a, bleu_compounds, chrf, .. } = scores;
    let mut told = json!({ "sentences": sentences, "bleu_13a": bleu_13a, "chrf": chrf });
    if let Some(bleu) = bleu_compounds {
        told["bleu_compounds"] = json!(bleu);
    }
    told
}

fn with_causes(scores: &Scores) -> String {
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
