//! Translating sentences as they come: `tandem serve`.
//!
//! Sentences that wait together are cut into batches as those of a file are, and decoded by the same
//! [`Translator`].

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tandem_cluster::run::control::{Answer, HEARTBEAT, Phase, Report, Sentence, Translated};

use crate::data::batches::Lengths;
use crate::data::split::Side;
use crate::inference::{Translator, language_model};
use crate::session::trained::Trained;
use crate::session::worker::{Ending, Worker};

/// How long a sentence waits for others to fill its batch.
const GATHER: Duration = Duration::from_millis(4);

/// A sentence that waits to be translated.
struct Waiting {
    id: u64,
    /// Source ids with `[SEP]`.
    ids: Vec<u32>,
    is_cut: bool,
    since: Instant,
}

/// Translates what the coordinator sends, until it asks to stop.
///
/// # Errors
/// A model that does not translate, or no coordinator.
pub fn run(worker: &Worker, trained: &Trained) -> anyhow::Result<Ending> {
    let Some(session) = worker.session() else {
        bail!("sentences come from a coordinator, and there is none: use `tandem serve`");
    };
    let decoding = &worker.config.decoding;
    let language_model = language_model::open(worker, &trained.languages, decoding)?;
    let (translator, target) =
        Translator::of(trained, decoding, language_model.as_ref(), worker.device)?;
    let longest = trained.languages.max_lengths(worker).0;
    let source = Side { tokenizer: &trained.languages.source, max_length: longest };
    worker.report(Report::Serving { batch_tokens: translator.batch_tokens(), longest });
    // The oldest first.
    let mut waiting: Vec<Waiting> = Vec::new();
    // Waiting is progress, too.
    while worker.goes_on(Phase::Translate, trained.step) {
        let patience = match waiting.first() {
            Some(oldest) => GATHER.saturating_sub(oldest.since.elapsed()),
            None => HEARTBEAT,
        };
        admit(worker, source, session.sentences(patience), &mut waiting);
        let Some(oldest) = waiting.first() else { continue };
        let lengths: Vec<Lengths> =
            waiting.iter().map(|sentence| (sentence.ids.len() as u32, 0)).collect();
        let batches = translator.batches(&lengths);
        if batches.len() == 1 && oldest.since.elapsed() < GATHER {
            continue;
        }
        let mut chosen =
            batches.into_iter().find(|batch| batch.contains(&0)).context("all have a batch")?;
        chosen.sort_unstable();
        let batch: Vec<Waiting> =
            chosen.iter().rev().map(|&place| waiting.remove(place as usize)).collect();
        worker.report(Report::Began {
            sentences: batch.iter().map(|sentence| sentence.id).collect(),
        });
        let sources: Vec<&[u32]> = batch.iter().map(|sentence| &*sentence.ids).collect();
        let mut poll = || worker.goes_on(Phase::Translate, trained.step);
        let Some(found) = translator.translate(&sources, &[], &mut poll) else {
            return Ok(Ending::Stopped);
        };
        let answer = |(sentence, translation): (&Waiting, crate::inference::Translation)| {
            let text = target.text(&translation.ids).replace(['\n', '\r'], " ");
            Answer { id: sentence.id, outcome: Ok(Translated { text, is_cut: sentence.is_cut }) }
        };
        worker.report(Report::Answered { answers: batch.iter().zip(found).map(answer).collect() });
    }
    Ok(Ending::Stopped)
}

/// Tokenises sentences that have come; those that cannot be are answered at once.
fn admit(worker: &Worker, source: Side<'_>, sentences: Vec<Sentence>, waiting: &mut Vec<Waiting>) {
    // It remembers every word that it has seen, which must not grow without end.
    let mut encoder = source.tokenizer.encoder();
    let mut answers = Vec::new();
    for Sentence { id, text } in sentences {
        match encoder.encode(&text) {
            Ok(ids) => {
                let (ids, is_cut) = source.sentence(ids);
                waiting.push(Waiting { id, ids, is_cut, since: Instant::now() });
            }
            Err(error) => answers.push(Answer { id, outcome: Err(error.to_string()) }),
        }
    }
    if !answers.is_empty() {
        worker.report(Report::Answered { answers });
    }
}
