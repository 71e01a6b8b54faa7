//! A teacher's translations: made by groups of workers, chunk by chunk, and kept between runs, so that
//! students of one teacher, text and way to decode have it translate once.

use std::fs;
use std::path::Path;

use serde_json::json;
use tandem_cluster::run::chunks::Chunks;
use tandem_cluster::run::control::Report;
use tandem_cluster::run::records::Translation;
use tandem_cluster::run::task::Task;

use super::group::Listener;
use super::restarts::Restarts;
use super::{Coordinator, Halt};
use crate::journal::Journal;
use crate::prepare::worker::Work;
use crate::terminal::progress::Progress;

/// All translations of the task in `folder`, in the order of its text: those that an earlier run has
/// kept, or else made now. `key` is the config's.
pub(super) fn of(
    coordinator: &mut Coordinator,
    key: &'static str,
    folder: &Path,
    task: &Task,
) -> Result<Vec<Translation>, Halt> {
    let kept = task.kept(&coordinator.config.data.cache(coordinator.run.path()));
    let lines = match reuse(coordinator, key, &kept)? {
        Some(lines) => lines,
        None => {
            translate(coordinator, key, folder, task)?;
            let chunks = task.chunks(folder);
            if let Err(error) = chunks.link(&kept) {
                let note = format!("note: {key}: other runs translate again: {error}");
                coordinator.progress.say(&note);
            }
            chunks.merge()?
        }
    };
    Ok(lines.iter().map(|line| serde_json::from_str(line)).collect::<Result<_, _>>()?)
}

/// What an earlier run has kept; damaged chunks go.
fn reuse(
    coordinator: &mut Coordinator,
    key: &'static str,
    kept: &Chunks,
) -> Result<Option<Vec<String>>, Halt> {
    let folder = kept.folder();
    if !folder.exists() {
        return Ok(None);
    }
    match kept.merge() {
        Ok(lines) => {
            let what = format!("{key}: translated before, in {}", folder.display());
            coordinator.progress.say(&what);
            coordinator.journal.event("reused", json!({ "key": key, "folder": folder }));
            Ok(Some(lines))
        }
        Err(damage) => {
            coordinator.progress.say(&format!("warning: {damage}; translated again"));
            coordinator.journal.event("damaged", json!({ "message": damage.to_string() }));
            fs::remove_dir_all(folder)?;
            Ok(None)
        }
    }
}

/// Runs groups of workers until every chunk is there.
fn translate(
    coordinator: &mut Coordinator,
    key: &'static str,
    folder: &Path,
    task: &Task,
) -> Result<(), Halt> {
    let chunks = task.chunks(folder);
    let mut restarts = Restarts::new(coordinator.config.cluster.max_restarts);
    loop {
        let (whole, damaged) = chunks.clean()?;
        for damage in damaged {
            coordinator.progress.say(&format!("warning: {damage}; it is translated again"));
            coordinator.journal.event("damaged", json!({ "message": damage.to_string() }));
        }
        if whole > 0 {
            coordinator.progress.say(&format!("{key}: {whole} chunks are there"));
        }
        let attempt = coordinator.begin_attempt("translate")?;
        let work = Work::Translate { task: folder.to_owned() };
        let mut listener = Counting {
            key,
            whole,
            journal: &mut coordinator.journal,
            progress: &mut coordinator.progress,
            restarts: &mut restarts,
        };
        let end = coordinator.workers.run(&coordinator.run, attempt, &work, &mut listener);
        if coordinator.handle(end, &mut restarts)? {
            return Ok(());
        }
    }
}

/// Follows a group of workers that translates.
struct Counting<'a> {
    key: &'static str,
    whole: usize,
    journal: &'a mut Journal,
    progress: &'a mut Progress,
    restarts: &'a mut Restarts,
}

impl Listener for Counting<'_> {
    fn joined(&mut self, rank: usize, host: &str, device: &str) {
        self.journal.event("joined", json!({ "rank": rank, "host": host, "device": device }));
    }

    fn report(&mut self, rank: usize, report: Report) {
        match report {
            Report::Translated { chunk, chunks } => {
                self.whole += 1;
                self.restarts.progress();
                self.journal.event("translated", json!({ "chunk": chunk }));
                let line = format!("{}: {} of {chunks} chunks translated", self.key, self.whole);
                self.progress.show_line(&line, self.whole == chunks);
            }
            Report::Notice { text } => {
                let text = format!("rank {rank}: {text}");
                self.progress.say(&format!("note: {text}"));
                self.journal.state.add_notice(&text);
            }
            _ => {}
        }
    }

    fn stopping(&mut self) {
        self.journal.event("stopping", json!({}));
        self.progress.say("stopping: finished chunks are kept; press Ctrl-C again to kill");
    }

    fn tick(&mut self) {
        self.journal.save_sometimes();
    }
}
