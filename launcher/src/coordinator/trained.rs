//! Scoring a model that has been trained, translated as its run says or in another way.

use tandem_cluster::run::evaluation::EvaluationFolder;
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::store::Checkpoint;
use tandem_config::RunConfig;

use super::evaluation::{self, Evaluation};
use super::session::Session;
use crate::prepare::worker::Work;
use crate::score::Scoring;
use crate::terminal::exit::Exit;
use crate::terminal::interrupts::Interrupts;

/// Where a checkpoint's scores on a split lie when it is used with these overrides.
pub(crate) fn folder<'a>(
    run: &RunFolder,
    split: &str,
    checkpoint: &str,
    overrides: impl Iterator<Item = &'a String>,
) -> EvaluationFolder {
    let overrides: String = overrides.map(|text| format!("-{}", text.replace('/', "_"))).collect();
    run.named_evaluation(&format!("{split}-{checkpoint}{overrides}"))
}

/// Scores a checkpoint of `run` on a split into `folder`, as `config` says, or with what the workers ended.
///
/// # Errors
/// Workers that cannot be started, or an evaluation that cannot be put together.
pub(crate) fn evaluate(
    run: &RunFolder,
    config: RunConfig,
    checkpoint: &Checkpoint,
    split: &str,
    folder: &EvaluationFolder,
    interrupts: Interrupts,
) -> anyhow::Result<Result<Evaluation, Exit>> {
    let work = Work::Evaluate {
        model: Some(run.path().to_owned()),
        checkpoint: Some(checkpoint.folder().to_owned()),
        split: split.into(),
        output: folder.path().to_owned(),
        decoding: Some(config.decoding.clone()),
    };
    let scoring = Scoring::from(&config.evaluation);
    let done = match Session::new(run, config, interrupts)?.work(&work)? {
        Ok(done) => done,
        Err(exit) => return Ok(Err(exit)),
    };
    let step = checkpoint.step();
    Ok(Ok(evaluation::finish(folder, split, step, &done.parts, scoring)?.0))
}
