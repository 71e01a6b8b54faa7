//! Where the run of the BERT that labels a run's pairs puts that BERT.

use std::path::PathBuf;

use crate::load::run_of;
use crate::schema::model::Model;
use crate::schema::run::names;

/// Makes the teacher's path absolute and names the BERT that its run exports.
pub(super) fn resolve(model: &mut Model, absolute: &dyn Fn(&mut PathBuf)) {
    let Some(labels) = model.soft_labels_mut() else { return };
    if let Some(teacher) = &mut labels.teacher {
        absolute(teacher);
    }
    if labels.pretrained.is_none() {
        let run = labels.teacher.as_deref().and_then(run_of);
        let export = run.map(|run| run.join(names::EXPORT));
        labels.pretrained = export.map(|path| path.to_string_lossy().into_owned());
    }
}
