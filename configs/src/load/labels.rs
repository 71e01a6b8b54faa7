//! Where the run of the BERT that labels a run's pairs puts that BERT.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::schema::model::Model;
use crate::schema::run::{Run, names};

/// Makes the teacher's path absolute and names the BERT that its run exports.
pub(super) fn resolve(model: &mut Model, absolute: &dyn Fn(&mut PathBuf)) {
    let Some(labels) = model.soft_labels_mut() else { return };
    if let Some(teacher) = &mut labels.teacher {
        absolute(teacher);
    }
    if labels.pretrained.is_none() {
        let export = labels.teacher.as_deref().and_then(export_of);
        labels.pretrained = export.map(|path| path.to_string_lossy().into_owned());
    }
}

/// Where the run of a run file or folder exports its BERT; none where the file cannot be read.
fn export_of(teacher: &Path) -> Option<PathBuf> {
    /// The part of a run file that says where the run lies: a teacher that names itself as its own
    /// teacher must not be read without end.
    #[derive(Deserialize)]
    struct Head {
        run: Run,
    }

    if teacher.is_dir() {
        return Some(teacher.join(names::EXPORT));
    }
    let text = std::fs::read_to_string(teacher).ok()?;
    let head: Head = serde_yaml::from_str(&text).ok()?;
    std::path::absolute(head.run.path().join(names::EXPORT)).ok()
}
