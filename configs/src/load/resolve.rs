//! Makes the paths of a config absolute, so that it does not depend on the working directory.

use std::path::{Path, PathBuf};

use crate::load::labels;
use crate::schema::data::Text;
use crate::schema::evaluation::Metric;
use crate::schema::model::{Objective, Vocabulary};
use crate::schema::run::RunConfig;

/// Makes the paths of data, vocabularies and pre-trained models absolute, taking them from `folder`.
pub(super) fn resolve(run: &mut RunConfig, folder: &Path) {
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
    labels::resolve(&mut run.model, &|path| absolute(path, folder));
    for name in run.model.pretrained_mut() {
        pretrained(name, folder);
    }
    for vocabulary in run.model.vocabularies_mut() {
        if let Vocabulary::File { path, .. } = vocabulary {
            absolute(path, folder);
        }
    }
    if let Objective::Mlm(_) = run.model.objective {
        run.evaluation.metric = Metric::Loss;
    }
}

/// A name that looks like a path, or is one, becomes absolute; a name on the hub stays.
fn pretrained(name: &mut String, folder: &Path) {
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
