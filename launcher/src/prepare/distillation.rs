//! Synthetic data that a teacher writes before training begins: sequence-level distillation (Kim and Rush
//! 2016) and back-translation (Sennrich et al. 2016); and the BERT whose soft labels a run learns from
//! (Chen et al. 2020).
//!
//! Here are the jobs and what they ask of their teachers; [`crate::coordinator::teacher`] runs them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::records::Translation;
use tandem_cluster::run::store::{AVERAGE, Checkpoint};
use tandem_cluster::run::synthetic::{self, Pair};
use tandem_cluster::run::task::Input;
use tandem_config::RunConfig;
use tandem_config::schema::decoding::{BeamSearch, CtcSearch, Decoding};
use tandem_config::schema::model::Objective;

use crate::prepare::dependency::Dependency;
use crate::score::Scores;
use crate::terminal::exit::Refused;

/// The key of the run that trains the BERT of soft labels.
pub(crate) const SOFT_LABELS: &str = "model.objective.autoregressive.soft_labels.teacher";
/// The file of the statistics on a teacher's pairs.
pub(crate) const SCORES: &str = "scores.json";

/// Synthetic data that a teacher writes.
pub(crate) struct DistillationJob {
    /// Its key in the config.
    pub(crate) key: &'static str,
    pub(crate) teacher: PathBuf,
    pub(crate) beam: Option<usize>,
    /// Sentences that are kept at once.
    pub(crate) chunk: usize,
    pub(crate) input: Input,
    /// The folder for the pairs.
    pub(crate) folder: PathBuf,
    /// Makes a training pair of a translation.
    pub(crate) pair: Box<dyn Fn(Translation) -> Pair>,
}

/// Statistics on a teacher's synthetic data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DistillationStats {
    /// The config's key that asked for it.
    pub key: String,
    pub teacher: PathBuf,
    /// Sentences translated.
    pub sentences: usize,
    /// For back-translation: the most sentences for each pair of `data.train`.
    #[serde(default)]
    pub ratio: Option<f64>,
    /// Sentences without a translation, such as those too long for the teacher. They are not
    /// trained on.
    pub empty: usize,
    /// Translations that are equal to an earlier one.
    pub duplicates: usize,
    /// References that are equal to an earlier one, if there are references.
    pub reference_duplicates: Option<usize>,
    /// Words of the translations per word of the references, or of the translated text if there are no
    /// references.
    pub length_ratio: f64,
    /// The scores of the translations, if there are references.
    pub scores: Option<Scores>,
}

pub(crate) fn jobs(config: &RunConfig) -> Vec<DistillationJob> {
    let run = RunFolder::new(config.run.path());
    let mut jobs = Vec::new();
    if let Some(distillation) = &config.data.distillation {
        jobs.push(DistillationJob {
            key: "data.distillation",
            teacher: distillation.teacher.clone(),
            beam: distillation.beam,
            chunk: distillation.chunk,
            input: Input::Sources(config.data.train.clone()),
            folder: run.distilled(),
            pair: Box::new(|translation| Pair {
                source: translation.source,
                target: translation.hypothesis,
            }),
        });
    }
    if let Some(back_translation) = &config.data.back_translation {
        let tag = match &back_translation.tag {
            Some(tag) => format!("{tag} "),
            None => String::new(),
        };
        jobs.push(DistillationJob {
            key: "data.back_translation",
            teacher: back_translation.teacher.clone(),
            beam: back_translation.beam,
            chunk: back_translation.chunk,
            input: Input::Choice {
                path: back_translation.text.clone(),
                ratio: back_translation.ratio,
                of: config.data.train.clone(),
            },
            folder: run.back_translated(),
            // An empty source gets no tag, so that the pair is dropped when it is read.
            pair: Box::new(move |translation| Pair {
                source: match translation.hypothesis.is_empty() {
                    true => String::new(),
                    false => tag.clone() + &translation.hypothesis,
                },
                target: translation.source,
            }),
        });
    }
    jobs
}

/// The run that trains the BERT of soft labels, if the config names one.
pub(crate) fn soft_labels_teacher(config: &RunConfig) -> Result<Option<Dependency>, Refused> {
    let Some(labels) = config.model.soft_labels() else { return Ok(None) };
    let Some(path) = &labels.teacher else { return Ok(None) };
    let teacher = Dependency::find(path)?;
    if !teacher.config.model.joins_pairs() {
        return Err(Refused(format!(
            "{SOFT_LABELS}: {} does not read pairs; it must have the mlm objective with \
             `conditional: true`",
            path.display()
        )));
    }
    let export = teacher.run.export();
    if export != Path::new(labels.bert()) {
        return Err(Refused(format!(
            "{SOFT_LABELS}: {} trains the BERT {}, but `pretrained` is {}: leave out `pretrained`",
            path.display(),
            export.display(),
            labels.bert()
        )));
    }
    Ok(Some(teacher))
}

impl DistillationJob {
    /// The decoding of its teacher.
    pub(crate) fn decoding(&self, teacher: &Dependency) -> Result<Decoding, Refused> {
        let (key, name) = (self.key, self.teacher.display());
        if let Objective::Mlm(_) = teacher.config.model.objective {
            return Err(Refused(format!(
                "{key}.teacher: {name} has the mlm objective and cannot translate"
            )));
        }
        match (teacher.config.decoding.clone(), self.beam) {
            (decoding, None) => Ok(decoding),
            (Decoding::BeamSearch(search), Some(width)) => {
                Ok(Decoding::BeamSearch(BeamSearch { width, ..search }))
            }
            (Decoding::Ctc(search), Some(1))
                if search.token_bonus > 0.0 || search.language_model.is_some() =>
            {
                let what = match search.language_model {
                    Some(_) => "language_model".into(),
                    None => format!("token_bonus {}", search.token_bonus),
                };
                Err(Refused(format!(
                    "{key}.beam: found 1, which searches for nothing, but the teacher {name} has \
                     decoding.ctc.{what}; must be at least 2, or left out"
                )))
            }
            (Decoding::Ctc(search), Some(width)) => {
                Ok(Decoding::Ctc(CtcSearch { width, ..search }))
            }
            (Decoding::MaskPredict(_), Some(_)) => Err(Refused(format!(
                "{key}.beam: the teacher {name} has the masked objective and does not use beam \
                 search; leave it out"
            ))),
        }
    }
}

/// The checkpoint with which a teacher translates.
///
/// # Errors
/// It has not finished, or the checkpoint is damaged.
pub(crate) fn teacher_checkpoint(teacher: &Dependency) -> anyhow::Result<Checkpoint> {
    teacher.run.model(AVERAGE).with_context(|| {
        let path = teacher.run.path().display();
        format!(
            "{path} is not a finished run: launch it first, or give its run file as the teacher"
        )
    })
}

/// Notes on what a launch would do with each teacher.
pub(crate) fn notes(config: &RunConfig) -> Vec<String> {
    let note = |job: DistillationJob| {
        let (key, teacher) = (job.key, job.teacher.display());
        match (synthetic::verified(&job.folder).is_some(), job.teacher.is_dir()) {
            (true, _) => format!("{key}: already in {}", job.folder.display()),
            (false, true) => {
                format!("{key}: {teacher} translates first, unless it has done so for another run")
            }
            (false, false) => {
                format!("{key}: {teacher} is trained first, then translates, unless that is done")
            }
        }
    };
    let missing = soft_labels_teacher(config).ok().flatten().filter(Dependency::is_missing);
    let labels = missing
        .map(|teacher| format!("{SOFT_LABELS}: {} is trained first", teacher.run.path().display()));
    labels.into_iter().chain(jobs(config).into_iter().map(note)).collect()
}

/// The statistics on all synthetic data of a run.
pub(crate) fn stats(config: &RunConfig) -> Vec<DistillationStats> {
    let read = |job: DistillationJob| {
        serde_json::from_str(&fs::read_to_string(job.folder.join(SCORES)).ok()?).ok()
    };
    jobs(config).into_iter().filter_map(read).collect()
}
