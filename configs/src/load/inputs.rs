//! Whether the files and pre-trained models that a config names are there, and what shape the sides have.

use std::path::Path;

use crate::load::report::Report;
use crate::load::run_of;
use crate::pretrained::Side;
use crate::pretrained::bert::{BertConfig, BertFolder};
use crate::pretrained::folder::FolderError;
use crate::pretrained::hub::locate;
use crate::pretrained::network::Shape;
use crate::schema::data::Text;
use crate::schema::model::{Encoder, Vocabulary};
use crate::schema::run::{RunConfig, names};
use crate::schema::transformer::Transformer;

/// The shapes of a model's networks, as far as they are known on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Shapes {
    /// The source side's.
    pub encoder: Option<Shape>,
    /// The target side's.
    pub decoder: Option<Shape>,
    /// That of the BERT beside the encoder.
    pub beside: Option<Shape>,
}

/// Looks at every file and folder that the config names.
pub(super) fn check(run: &RunConfig, report: &mut Report) -> Shapes {
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
                folder.map(|folder| folder.config.shape())
            }
            (None, Some(new)) => {
                vocabulary(&new.vocabulary, "model.encoder.bert.new.vocabulary", report);
                Some(BertConfig::of_new(new, 0).shape())
            }
            (None, None) => None,
        },
        Encoder::Transformer(config) => Some(transformer(config, "model.encoder", report)),
    };
    let decoder = match run.model.decoder.as_ref().map(Side::of) {
        Some(Side::Pretrained(kind, settings)) => {
            let key = format!("model.decoder.{}.pretrained", kind.key);
            let model = opened(&settings.pretrained, &key, kind.open, report);
            model.map(|model| model.shape())
        }
        Some(Side::Transformer(config)) => Some(transformer(config, "model.decoder", report)),
        None => None,
    };
    let mut beside = None;
    for (path, settings) in run.model.besides() {
        beside = bert(&settings.pretrained, &format!("{path}.pretrained"), report);
    }
    if let Some(path) = &run.model.init {
        init(path, report);
    }
    Shapes { encoder, decoder, beside }
}

/// What a model starts from: a run file, or a folder that has weights.
fn init(path: &Path, report: &mut Report) {
    let has_weights =
        || path.join(names::CHECKPOINTS).is_dir() || path.join(names::WEIGHTS).is_file();
    if path.is_dir() && !has_weights() {
        let message =
            format!("{} is neither a trained run's folder nor an exported model", path.display());
        report.missing("model.init", message);
    } else if !path.exists() {
        let message = format!(
            "there is no {}, must be a trained run's folder, an exported model's, or a run file",
            path.display()
        );
        report.missing("model.init", message);
    } else if run_of(path).is_none() {
        let message =
            format!("{} does not say where its run lies, must be a run file", path.display());
        report.conflict("model.init", message);
    }
}

fn transformer(config: &Transformer, key: &str, report: &mut Report) -> Shape {
    vocabulary(&config.vocabulary, &format!("{key}.transformer.vocabulary"), report);
    Shape::from(config)
}

fn vocabulary(vocabulary: &Vocabulary, key: &str, report: &mut Report) {
    match vocabulary {
        Vocabulary::File { path, .. } => file(path, &format!("{key}.file.path"), report),
        Vocabulary::Bert(name) => drop(bert(name, &format!("{key}.bert"), report)),
        Vocabulary::Learn { .. } => {}
    }
}

/// A run file, or the folder of a run.
pub(super) fn teacher(path: &Path, key: &str, report: &mut Report) {
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
    opened(name, key, BertFolder::open, report).map(|folder| folder.config.shape())
}

/// A BERT that reads pairs distinguishes their sides.
pub(super) fn token_types(folder: &BertFolder, key: &str, report: &mut Report) {
    if folder.config.type_vocab_size < 2 {
        let message = format!(
            "{} has one token type, must be a BERT with two: of sources and of targets",
            folder.path.display()
        );
        report.conflict(key, message);
    }
}

/// A pre-trained model's folder, if it is on this machine.
pub(super) fn opened<F>(
    name: &str,
    key: &str,
    open: impl Fn(&Path) -> Result<F, FolderError>,
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
