//! Makes the paths of a config absolute, so that it does not depend on the working directory.

use std::path::{Path, PathBuf};

use crate::schema::data::Text;
use crate::schema::evaluation::Metric;
use crate::schema::model::{Decoder, Encoder, Objective, Vocabulary};
use crate::schema::run::RunConfig;

/// Makes the paths of data, vocabulary and BERTs absolute; they are relative to `folder`.
pub fn resolve(run: &mut RunConfig, folder: &Path) {
    let data = &mut run.data;
    for text in [Some(&mut data.train), data.valid.as_mut(), data.test.as_mut()] {
        match text {
            Some(Text::Files { source, target }) => {
                absolute(source, folder);
                absolute(target, folder);
            }
            Some(Text::Tsv { path, .. } | Text::Jsonl { path, .. } | Text::Lines { path }) => {
                absolute(path, folder);
            }
            None => {}
        }
    }
    let distillation = data.distillation.as_mut().map(|config| &mut config.teacher);
    let back_translation = data.back_translation.as_mut().into_iter();
    let back_translation =
        back_translation.flat_map(|config| [&mut config.teacher, &mut config.text]);
    for path in data.cache.iter_mut().chain(distillation).chain(back_translation) {
        absolute(path, folder);
    }
    if let Some(hostfile) = &mut run.cluster.hostfile {
        absolute(hostfile, folder);
    }
    if let Some(init) = &mut run.model.init {
        absolute(init, folder);
    }
    if let Some(labels) = run.model.soft_labels_mut() {
        if let Some(teacher) = &mut labels.teacher {
            absolute(teacher, folder);
        }
        if labels.pretrained.is_none() {
            let export = labels.export();
            labels.pretrained = export.map(|path| path.to_string_lossy().into_owned());
        }
    }
    for name in run.model.berts_mut() {
        bert(name, folder);
    }
    let encoder = match &mut run.model.encoder {
        Encoder::Bert(encoder) => encoder.new.as_mut().map(|new| &mut new.vocabulary),
        Encoder::Transformer(transformer) => Some(&mut transformer.vocabulary),
    };
    let decoder = match &mut run.model.decoder {
        Some(Decoder::Transformer(transformer)) => Some(&mut transformer.vocabulary),
        Some(Decoder::Bert(_) | Decoder::Gpt2(_)) | None => None,
    };
    for vocabulary in [encoder, decoder].into_iter().flatten() {
        if let Vocabulary::File { path, .. } = vocabulary {
            absolute(path, folder);
        }
    }
    if let Objective::Mlm(_) = run.model.objective {
        run.evaluation.metric = Metric::Loss;
    }
}

/// Makes a name absolute if it is or looks like a path, but not a name on the hub.
fn bert(name: &mut String, folder: &Path) {
    if name.starts_with(['.', '/']) || folder.join(&*name).is_dir() {
        let mut path = PathBuf::from(&*name);
        absolute(&mut path, folder);
        *name = path.to_string_lossy().into_owned();
    }
}

fn absolute(path: &mut PathBuf, folder: &Path) {
    let joined = folder.join(&*path);
    *path = std::path::absolute(&joined).unwrap_or(joined);
}
