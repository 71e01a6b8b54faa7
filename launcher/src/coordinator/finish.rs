//! What comes after training: the average of the last checkpoints, its scores on the test split,
//! and the folder that is handed on.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use serde_json::json;
use tandem_cluster::run::atomic;
use tandem_cluster::run::control::Report;
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::records::Translation;
use tandem_cluster::run::store::{ADAPTERS, Checkpoint, Manifest};
use tandem_config::RunConfig;

use super::evaluation::{self, Evaluation, Part};
use super::group::Listener;
use super::restarts::Restarts;
use super::training::{extra, summary};
use super::{Coordinator, Halt};
use crate::export::copy_language_model;
use crate::journal::ledger::Activity;
use crate::prepare::worker::Work;
use crate::report::pick_samples;
use crate::score::Scoring;
use crate::tensorboard::Writer;
use crate::terminal::exit::Refused;

/// Averages, scores and exports the trained model.
pub(super) fn complete(coordinator: &mut Coordinator) -> Result<(), Halt> {
    let average = average(coordinator)?;
    if coordinator.config.data.test.is_some() {
        score_test(coordinator, &average)?;
    }
    export(&coordinator.run, &coordinator.config, &average, &coordinator.run.export())?;
    let folder = coordinator.run.export();
    coordinator.progress.say(&format!("the trained weights are in {}", folder.display()));
    Ok(())
}

fn average(coordinator: &mut Coordinator) -> Result<Checkpoint, Halt> {
    let count = coordinator.config.checkpoints.average;
    let attempt = coordinator.journal.state.attempt;
    let store = coordinator.run.store();
    let extra = extra(&coordinator.config, &store.steps()?);
    let average = store.average(count, &extra, attempt)?;
    let steps = &average.manifest().average_of;
    coordinator.progress.say(&format!(
        "averaged {} checkpoints: steps {}",
        steps.len(),
        steps.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
    ));
    coordinator.journal.event("averaged", json!({ "steps": steps }));
    Ok(average)
}

/// Scores the model on the test split with a second group of workers.
fn score_test(coordinator: &mut Coordinator, average: &Checkpoint) -> Result<(), Halt> {
    let mut restarts = Restarts::new(coordinator.config.cluster.max_restarts);
    loop {
        let attempt = coordinator.begin_attempt("evaluate")?;
        coordinator.journal.state.ledger.turn(Activity::Evaluate, Instant::now());
        let output = coordinator.run.evaluation("test", average.step());
        let work = Work::Evaluate {
            model: None,
            checkpoint: Some(average.folder().to_owned()),
            split: "test".into(),
            output: output.path().to_owned(),
            decoding: None,
        };
        let mut parts = Parts::default();
        let end = coordinator.workers.run(&coordinator.run, attempt, &work, &mut parts);
        for notice in parts.notices.drain(..) {
            coordinator.progress.say(&format!("note: {notice}"));
        }
        if coordinator.handle(end, &mut restarts)? {
            let scoring = Scoring::from(&coordinator.config.evaluation);
            let (evaluation, translations) =
                evaluation::finish(&output, "test", average.step(), &parts.parts, scoring)?;
            let mut writer = Writer::open(&coordinator.run.tensorboard(), Some(average.step()));
            writer.evaluation("test", average.step(), &evaluation.figures);
            writer.flush();
            for sample in pick_samples(&translations, coordinator.config.evaluation.samples) {
                coordinator.progress.say(&beside(&sample));
            }
            coordinator.progress.say(&summary(&evaluation));
            coordinator.journal.event("tested", json!({ "figures": evaluation.figures }));
            coordinator.journal.state.test = evaluation.figures;
            return Ok(());
        }
    }
}

/// A translation next to its source and reference.
fn beside(sample: &Translation) -> String {
    let Translation { source, reference, hypothesis, .. } = sample;
    format!("  source       {source}\n  reference    {reference}\n  translation  {hypothesis}\n")
}

/// Collects the parts of the one evaluation that a group was started for.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// What the ranks have done.
    pub parts: Vec<Part>,
    /// What they warned of.
    pub notices: Vec<String>,
}

impl Listener for Parts {
    fn joined(&mut self, _rank: usize, _host: &str, _device: &str) {}

    fn report(&mut self, rank: usize, report: Report) {
        match report {
            Report::Evaluated { part, sums, .. } => self.parts.push(Part { path: part, sums }),
            Report::Notice { text } => self.notices.push(format!("rank {rank}: {text}")),
            _ => {}
        }
    }
}

/// Writes the folder that is handed on: the weights, the config, vocabularies that the run has made, and
/// what all that is. Whatever uses the model of a run uses that of such a folder, too.
///
/// # Errors
/// Where the file system refuses.
pub(crate) fn export(
    run: &RunFolder,
    config: &RunConfig,
    model: &Checkpoint,
    folder: &Path,
) -> anyhow::Result<()> {
    refuse_runs(folder, &run.export())?;
    // First what may be missing: a folder with weights is taken for a model.
    if let Some(model) = config.decoding.language_model() {
        let to = RunFolder::new(folder.to_owned()).language_model(model.order);
        copy_language_model(run, &config.decoding, &to)?;
    }
    model.export(folder)?;
    let files = run.vocabulary_files();
    for file in files.with_context(|| format!("cannot read {}", run.vocabulary().display()))? {
        let (from, to) = (run.path().join(&file), folder.join(&file));
        to.parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| atomic::copy(&from, &to))
            .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    }
    atomic::write(&RunFolder::new(folder.to_owned()).config(), &config.to_yaml()?)?;
    Ok(atomic::write(&folder.join("README.md"), &readme(config, model))?)
}

/// Refuses to write a model over a run, or into one: it would be taken for the run's. `usual` is where it
/// is written by itself.
///
/// # Errors
/// The same as an error.
pub(crate) fn refuse_runs(folder: &Path, usual: &Path) -> Result<(), Refused> {
    // Links lead where they lead.
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let real = absolute.ancestors().find_map(|above| {
        Some(above.canonicalize().ok()?.join(absolute.strip_prefix(above).ok()?))
    });
    let folder = real.unwrap_or(absolute);
    let is_run = |run: &RunFolder| run.config().is_file() && run.state().is_file();
    let mut above = folder.ancestors().map(|path| RunFolder::new(path.to_owned()));
    match above.find(is_run) {
        Some(run) if !folder.starts_with(run.export()) => Err(Refused(format!(
            "{} is the folder of a run, or in one: name another folder for the model, or leave \
             --output out, and it is {}",
            folder.display(),
            usual.display()
        ))),
        _ => Ok(()),
    }
}

/// Which steps' weights a model has.
pub(crate) fn averaged(manifest: &Manifest) -> String {
    match manifest.average_of.as_slice() {
        [] => format!("the model of step {}", manifest.step),
        steps => {
            let steps: Vec<String> = steps.iter().map(u64::to_string).collect();
            format!("the average of the models of steps {}", steps.join(", "))
        }
    }
}

fn readme(config: &RunConfig, model: &Checkpoint) -> String {
    let manifest = model.manifest();
    let bases: Vec<String> =
        manifest.bases.iter().map(|base| format!("- {}: `{}`\n", base.side, base.sha256)).collect();
    let adapters = manifest.files.get(ADAPTERS).map_or("", |file| file.sha256.as_str());
    format!(
        "# {name}\n\n\
         Trained by Tandem; {what}.\n\n\
         - `{ADAPTERS}`: every trained weight, in 32-bit floats, by the names of the model's \
         parameters. SHA-256 `{adapters}`.\n\
         - `config.yaml`: the whole run; `model` says what the weights belong to, and what they \
         stand on.\n\
         - `manifest.json`: hashes, by which damaged weights and other BERTs are detected.\n\n\
         `tandem translate` and `evaluate` use this folder as they use a run's.\n\n\
         The weights work with exactly these BERTs (SHA-256 of their model.safetensors) and \
         vocabularies:\n\n\
         {bases}",
        name = config.run.name,
        what = averaged(manifest),
        bases = bases.concat(),
    )
}

/// Prints an evaluation's figures, one a line.
pub(crate) fn table(evaluation: &Evaluation) -> String {
    let mut lines = vec![format!("{} at step {}", evaluation.split, evaluation.step)];
    for (name, value) in &evaluation.figures {
        lines.push(format!("  {name:<22} {value:.4}"));
    }
    if let Some(scores) = &evaluation.scores {
        let signatures = [
            ("BLEU", Some(&scores.bleu_13a.signature)),
            ("BLEU, tokenised", Some(&scores.bleu_tokenized.signature)),
            ("BLEU, compounds split", scores.bleu_compounds.as_ref().map(|bleu| &bleu.signature)),
            ("chrF", Some(&scores.chrf.signature)),
        ];
        for (name, signature) in
            signatures.into_iter().filter_map(|(name, signature)| Some((name, signature?)))
        {
            lines.push(format!("  {name:<22} {signature}"));
        }
    }
    lines.join("\n")
}
