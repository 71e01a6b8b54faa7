//! Whether the files and BERTs that a config names are there, and what shape the BERTs have.

use std::path::Path;

use crate::bases::locate;
use crate::bert::BertFolder;
use crate::checks::Report;
use crate::data::Text;
use crate::model::{Decoder, Encoder, Vocabulary};
use crate::run::RunConfig;

/// What the checks need to know of a BERT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Number of layers.
    pub layers: usize,
    /// Width of the hidden states.
    pub hidden: usize,
    /// Number of positions.
    pub positions: usize,
}

/// The BERTs' shapes, as far as they are known on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shapes {
    /// The source side's.
    pub encoder: Option<Shape>,
    /// The target side's.
    pub decoder: Option<Shape>,
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
    let mut shapes = Shapes::default();
    let Encoder::Bert(encoder) = &run.model.encoder;
    if let Some(name) = &encoder.pretrained {
        shapes.encoder = bert(name, "model.encoder.bert.pretrained", report);
    } else if let Some(new) = &encoder.new {
        let (layers, hidden, positions) = (new.layers, new.hidden, new.positions);
        shapes.encoder = Some(Shape { layers, hidden, positions });
        if let Vocabulary::File { path, .. } = &new.vocabulary {
            file(path, "model.encoder.bert.new.vocabulary.file.path", report);
        }
    }
    if let Some(Decoder::Bert(decoder)) = &run.model.decoder {
        shapes.decoder = bert(&decoder.pretrained, "model.decoder.bert.pretrained", report);
    }
    shapes
}

fn file(path: &Path, key: &str, report: &mut Report) {
    if path.is_dir() {
        report.missing(key, format!("{} is a folder, must be a file", path.display()));
    } else if !path.exists() {
        report.missing(key, format!("there is no file {}", path.display()));
    }
}

/// The shape of a BERT, if it is on this machine.
fn bert(name: &str, key: &str, report: &mut Report) -> Option<Shape> {
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
    match BertFolder::open(&path) {
        Ok(folder) => Some(Shape {
            layers: folder.config.num_hidden_layers,
            hidden: folder.config.hidden_size,
            positions: folder.config.max_position_embeddings,
        }),
        Err(error) => {
            report.conflict(key, error.to_string());
            None
        }
    }
}
