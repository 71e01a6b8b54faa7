//! Whether the files and BERTs that a config names are there, and what shape the sides have.

use std::path::Path;

use crate::load::checks::Report;
use crate::pretrained::bases::locate;
use crate::pretrained::bert::{BertError, BertFolder};
use crate::pretrained::gpt2::{Gpt2Config, Gpt2Folder};
use crate::schema::data::Text;
use crate::schema::model::{Decoder, Encoder, Vocabulary};
use crate::schema::run::{RunConfig, names};
use crate::schema::soft_labels::SoftLabels;
use crate::schema::transformer::Transformer;

/// What the checks need to know of a BERT or Transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// `BERT` or `Transformer`.
    pub kind: &'static str,
    /// Number of layers.
    pub layers: usize,
    /// Width of the hidden states.
    pub hidden: usize,
    /// Number of positions.
    pub positions: usize,
}

/// The sides' shapes, as far as they are known on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shapes {
    /// The source side's.
    pub encoder: Option<Shape>,
    /// The target side's.
    pub decoder: Option<Shape>,
    /// That of the BERT that Transformers are fused with or trained together with.
    pub fused: Option<Shape>,
}

/// Looks at every file and folder that the config names.
pub fn check(run: &RunConfig, report: &mut Report) -> Shapes {
    for (split, text) in run.data.splits() {
        match text {
            Text::Files { source, target } => {
                file(source, &format!("data.{split}.files.source"), report);
                file(target, &format!("data.{split}.files.target"), report);
            }
            Text::Tsv { path, .. } => file(path, &format!("data.{split}.tsv.path"), report),
            Text::Jsonl { path, .. } => file(path, &format!("data.{split}.jsonl.path"), report),
            Text::Lines { path } => file(path, &format!("data.{split}.lines.path"), report),
        }
    }
    if let Some(distillation) = &run.data.distillation {
        teacher(&distillation.teacher, "data.distillation.teacher", report);
    }
    if let Some(back_translation) = &run.data.back_translation {
        teacher(&back_translation.teacher, "data.back_translation.teacher", report);
        file(&back_translation.text, "data.back_translation.text", report);
    }
    let encoder = match &run.model.encoder {
        Encoder::Bert(encoder) => match (&encoder.pretrained, &encoder.new) {
            (Some(name), _) => {
                let key = "model.encoder.bert.pretrained";
                let folder = opened(name, key, BertFolder::open, report);
                if let Some(folder) = folder.as_ref().filter(|_| run.model.joins_pairs()) {
                    token_types(folder, key, report);
                }
                folder.map(|folder| shape(&folder))
            }
            (None, Some(new)) => {
                vocabulary(&new.vocabulary, "model.encoder.bert.new.vocabulary", report);
                let (layers, hidden, positions) = (new.layers, new.hidden, new.positions);
                Some(Shape { kind: "BERT", layers, hidden, positions })
            }
            (None, None) => None,
        },
        Encoder::Transformer(shape) => Some(transformer(shape, "model.encoder", report)),
    };
    let decoder = match &run.model.decoder {
        Some(Decoder::Bert(decoder)) => {
            bert(&decoder.pretrained, "model.decoder.bert.pretrained", report)
        }
        Some(Decoder::Transformer(shape)) => Some(transformer(shape, "model.decoder", report)),
        Some(Decoder::Gpt2(decoder)) => {
            gpt2(&decoder.pretrained, "model.decoder.gpt2.pretrained", report)
        }
        None => None,
    };
    let mut fused = None;
    for (side, config) in run.model.bert_fused() {
        let key = format!("model.{side}.transformer.bert_fused.pretrained");
        fused = bert(&config.pretrained, &key, report);
    }
    if let Some(ct_nmt) = run.model.ct_nmt() {
        fused = bert(&ct_nmt.pretrained, "model.encoder.transformer.ct_nmt.pretrained", report);
    }
    if let Some(labels) = run.model.soft_labels() {
        soft_labels(labels, report);
    }
    if let Some(folder) = &run.model.init
        && !folder.join(names::CHECKPOINTS).is_dir()
        && !folder.join(names::WEIGHTS).is_file()
    {
        let message =
            format!("{} is neither a trained run's folder nor an exported model", folder.display());
        report.missing("model.init", message);
    }
    Shapes { encoder, decoder, fused }
}

/// The BERT that labels the data, which its run may be about to make.
fn soft_labels(labels: &SoftLabels, report: &mut Report) {
    let section = "model.objective.autoregressive.soft_labels";
    let mut key = format!("{section}.pretrained");
    if let Some(run) = &labels.teacher {
        key = format!("{section}.teacher");
        teacher(run, &key, report);
        // What the run of a run file makes is judged by its objective, whether it is there or not.
        if run.is_file() || !run.exists() {
            return;
        }
    }
    // Without a name there is another problem, see the checks.
    let Some(name) = &labels.pretrained else { return };
    let Some(folder) = opened(name, &key, BertFolder::open, report) else { return };
    token_types(&folder, &key, report);
    if !folder.has_mlm_head() {
        let message = format!(
            "{} has no head that predicts words, must be the export of a run with the mlm \
             objective and `conditional: true`",
            folder.path.display()
        );
        report.conflict(&key, message);
    }
}

fn transformer(shape: &Transformer, key: &str, report: &mut Report) -> Shape {
    vocabulary(&shape.vocabulary, &format!("{key}.transformer.vocabulary"), report);
    let Transformer { layers, hidden, max_length, .. } = *shape;
    Shape { kind: "Transformer", layers, hidden, positions: max_length }
}

fn vocabulary(vocabulary: &Vocabulary, key: &str, report: &mut Report) {
    match vocabulary {
        Vocabulary::File { path, .. } => file(path, &format!("{key}.file.path"), report),
        Vocabulary::Bert(name) => drop(bert(name, &format!("{key}.bert"), report)),
        Vocabulary::Learn { .. } => {}
    }
}

/// A run file, or the folder of a run.
fn teacher(path: &Path, key: &str, report: &mut Report) {
    if path.is_dir() && !path.join(names::CONFIG).is_file() {
        let message = format!("{} is no run folder: it has no config.yaml", path.display());
        report.missing(key, message);
    } else if !path.exists() {
        let message =
            format!("there is no {}, must be a run's folder or a run file", path.display());
        report.missing(key, message);
    }
}

fn file(path: &Path, key: &str, report: &mut Report) {
    if path.is_dir() {
        report.missing(key, format!("{} is a folder, must be a file", path.display()));
    } else if !path.exists() {
        report.missing(key, format!("there is no file {}{}", path.display(), recipe_hint(path)));
    }
}

/// What makes the file, as the end of a message: the tables of a corpus lie in a folder beside its
/// recipe, under the recipe's name.
fn recipe_hint(path: &Path) -> String {
    let is_table = ["train.tsv", "valid.tsv", "test.tsv"].iter().any(|table| path.ends_with(table));
    let recipe = path.parent().map(|folder| folder.with_added_extension("yaml"));
    match recipe.filter(|recipe| is_table && recipe.is_file()) {
        Some(recipe) => format!(", `tandem data {}` makes it", recipe.display()),
        None => String::new(),
    }
}

/// The shape of a BERT, if it is on this machine.
fn bert(name: &str, key: &str, report: &mut Report) -> Option<Shape> {
    opened(name, key, BertFolder::open, report).map(|folder| shape(&folder))
}

fn shape(folder: &BertFolder) -> Shape {
    Shape {
        kind: "BERT",
        layers: folder.config.num_hidden_layers,
        hidden: folder.config.hidden_size,
        positions: folder.config.positions(),
    }
}

/// A BERT that reads pairs tells their sides apart.
fn token_types(folder: &BertFolder, key: &str, report: &mut Report) {
    if folder.config.type_vocab_size < 2 {
        let message = format!(
            "{} has one token type, must be a BERT with two: of sources and of targets",
            folder.path.display()
        );
        report.conflict(key, message);
    }
}

/// The shape of a GPT-2, if it is on this machine.
fn gpt2(name: &str, key: &str, report: &mut Report) -> Option<Shape> {
    let Gpt2Config { n_layer, n_embd, n_positions, .. } =
        opened(name, key, Gpt2Folder::open, report)?.config;
    Some(Shape { kind: "GPT-2", layers: n_layer, hidden: n_embd, positions: n_positions })
}

/// A pre-trained model's folder, if it is on this machine.
fn opened<F>(
    name: &str,
    key: &str,
    open: impl Fn(&Path) -> Result<F, BertError>,
    report: &mut Report,
) -> Option<F> {
    let Some(path) = locate(name) else {
        // A name on the hub has at most one slash: it can still be downloaded.
        if Path::new(name).is_absolute() || name.matches('/').count() > 1 {
            let message = format!(
                "there is no folder {name}, must be a Hugging Face folder (beside this file, \
                 or an absolute path) or a model's name on the hub"
            );
            report.missing(key, message);
        }
        return None;
    };
    open(&path).map_err(|error| report.conflict(key, error.to_string())).ok()
}
