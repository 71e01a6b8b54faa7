//! What the coordinator does while workers train: publishes checkpoints, keeps the curves, scores
//! evaluations.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::json;
use tandem_cluster::run::atomic;
use tandem_cluster::run::control::{Phase, Report};
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::records::{TrainingMetrics, Translation};
use tandem_cluster::run::store::{Retention, Store};
use tandem_config::RunConfig;

use super::evaluation::{self, Collector, Evaluation, Merged, Part};
use super::group::Listener;
use super::restarts::Restarts;
use super::stragglers::Stragglers;
use crate::journal::ending::Ending;
use crate::journal::figures::Figures;
use crate::journal::ledger::Activity;
use crate::journal::{Journal, Pace, Rank, now};
use crate::score::Scoring;
use crate::tensorboard::Writer;
use crate::terminal::progress::{Progress, Standing};

/// Follows one attempt at training.
pub(crate) struct Training<'a> {
    pub run: &'a RunFolder,
    /// What it is.
    pub config: &'a RunConfig,
    pub attempt: u64,
    /// Number of ranks.
    pub ranks: usize,
    /// Where the run stands.
    pub journal: &'a mut Journal,
    /// The curves.
    pub writer: &'a mut Writer,
    /// The progress line.
    pub progress: &'a mut Progress,
    /// The budget of restarts, which each checkpoint refills.
    pub restarts: &'a mut Restarts,
    /// Evaluations that are not complete.
    pub collector: Collector,
    /// Who is slower than the others.
    pub stragglers: Stragglers,
    /// When the workers began to train.
    pub started: Option<Instant>,
    /// The step of the newest checkpoint that this attempt has published, or went on from.
    pub saved: u64,
}

impl Listener for Training<'_> {
    fn joined(&mut self, rank: usize, host: &str, device: &str) {
        self.journal.event("joined", json!({ "rank": rank, "host": host, "device": device }));
        let (host, device) = (host.to_owned(), device.to_owned());
        self.journal.state.ranks.insert(rank, Rank { host, device, ..Rank::default() });
    }

    fn all_joined(&mut self) {
        self.started = Some(Instant::now());
    }

    fn beat(&mut self, rank: usize, phase: Phase) {
        if rank > 0 {
            return;
        }
        let activity = match phase {
            Phase::Start => return,
            Phase::Train | Phase::Data | Phase::Reduce => Activity::Train,
            Phase::Save | Phase::Finish => Activity::Save,
            Phase::Evaluate | Phase::Translate => Activity::Evaluate,
        };
        if activity != self.journal.state.ledger.activity() {
            self.journal.state.ledger.turn(activity, Instant::now());
        }
    }

    fn report(&mut self, rank: usize, report: Report) {
        match report {
            Report::Plan { trained, frozen } => {
                self.journal.state.trained = Some(trained);
                self.journal.state.frozen = Some(frozen);
                self.journal.event("plan", json!({ "trained": trained, "frozen": frozen }));
            }
            Report::Metrics { step, metrics } => self.measured(step, &metrics),
            Report::GradientNorm { step, norm } => self.writer.gradient_norm(step, norm),
            Report::CheckpointWritten { step } => self.publish(step),
            Report::Evaluated { step, split, rank, part, sums } => {
                let part = Part { path: part, sums };
                let key = (split.clone(), step);
                if let Some(parts) = self.collector.add(key, rank, part, self.ranks) {
                    self.evaluated(&split, step, &parts);
                }
            }
            Report::Data { report } => {
                let text = serde_json::to_string_pretty(&report).unwrap_or_default();
                if let Err(error) = atomic::write(&self.run.data_report(), &(text + "\n")) {
                    self.notice(&error.to_string());
                }
                self.journal.event("data", json!({ "report": report }));
                if !self.journal.state.data.contains(&report) {
                    self.progress.say(&format!("data.{}", report.summary()));
                }
                self.journal.state.add_data(report);
            }
            Report::Labelled { chunk, chunks } => {
                self.journal.event("labelled", json!({ "chunk": chunk, "chunks": chunks }));
                let line = format!("soft labels: chunk {} of {chunks} is made", chunk + 1);
                self.progress.show_line(&line, chunk + 1 == chunks);
            }
            Report::Notice { text } => self.notice(&format!("rank {rank}: {text}")),
            Report::Pace { step, data, compute, memory } => {
                self.paced(rank, Pace { step, data, compute, memory });
            }
            // The group's own business, and another verb's.
            Report::Failed { .. }
            | Report::Identity { .. }
            | Report::Preflight { .. }
            | Report::Translated { .. }
            | Report::Serving { .. }
            | Report::Began { .. }
            | Report::Answered { .. } => {}
        }
    }

    fn measured(&mut self, figures: Vec<Figures>, findings: &[String], seconds: f64) {
        self.journal.event(
            "preflight",
            json!({ "seconds": seconds, "ranks": figures, "findings": findings }),
        );
        match findings {
            [] => self.progress.say(&format!(
                "preflight: nothing conspicuous on {} ranks, in {seconds:.1} s",
                figures.len()
            )),
            _ => findings.iter().for_each(|text| self.notice(text)),
        }
        self.journal.state.preflight = figures;
    }

    fn stopping(&mut self) {
        self.journal.event("stopping", json!({}));
        self.progress.say("stopping: the workers write a checkpoint; press Ctrl-C again to kill");
    }

    fn job_ends(&mut self, ending: Ending) {
        if self.journal.state.job_endings.last() != Some(&ending) {
            self.journal.event("job_ends", json!(ending));
            self.journal.state.add_ending(ending);
            self.journal.save();
        }
    }

    fn tick(&mut self) {
        self.journal.state.ledger.book(Instant::now());
        self.journal.save_sometimes();
        let warnings = [self.journal.warning(), self.writer.warning()];
        for warning in warnings.into_iter().flatten() {
            self.progress.say(&format!("warning: {warning}"));
        }
    }
}

impl Training<'_> {
    fn store(&self) -> Store {
        self.run.store()
    }

    fn measured(&mut self, step: u64, metrics: &TrainingMetrics) {
        self.writer.training(step, metrics);
        let TrainingMetrics { steps, loss, tokens_per_second, time, .. } = *metrics;
        let left = self.progress.show(Standing { step, steps, loss, tokens_per_second });
        let state = &mut self.journal.state;
        state.ledger.measured(time, Instant::now());
        state.add_loss(step, loss);
        (state.step, state.steps, state.seconds_left) = (step, steps, left);
        state.loss = Some(loss).filter(|loss| loss.is_finite());
        state.tokens_per_second = Some(tokens_per_second).filter(|rate| rate.is_finite());
        state.step_seconds = Some(time.total_ms / 1e3);
        state.stepped = Some(now());
    }

    fn paced(&mut self, rank: usize, pace: Pace) {
        for (rank, words) in self.stragglers.add(rank, pace) {
            self.notice(&format!("rank {rank} is {words}, up to step {}", pace.step));
        }
        for (rank, known) in &mut self.journal.state.ranks {
            known.slowdown = self.stragglers.slowdown(*rank);
            known.is_straggler = self.stragglers.is_slow(*rank);
        }
        if let Some(known) = self.journal.state.ranks.get_mut(&rank) {
            known.pace = Some(pace);
        }
    }

    fn notice(&mut self, text: &str) {
        self.progress.say(&format!("note: {text}"));
        self.journal.state.add_notice(text);
        self.journal.event("notice", json!({ "text": text }));
    }

    fn publish(&mut self, step: u64) {
        match self.store().publish(step, self.attempt) {
            Ok(_) => {
                self.restarts.progress();
                self.note_unsaved(step);
                self.journal.state.ledger.save(Instant::now());
                let totals = self.journal.state.ledger.totals().into_iter();
                let named = totals.map(|(account, seconds)| (account.name(), seconds));
                self.writer.time(step, named);
                self.journal.state.latest = Some(step);
                self.journal.event("published", json!({ "step": step }));
                if let Err(error) = self.store().mark_latest() {
                    self.notice(&error.to_string());
                }
                self.choose_best();
                self.retain();
            }
            Err(error) => self.notice(&format!(
                "the checkpoint of step {step} is not published, training continues: {error}"
            )),
        }
        self.journal.save();
    }

    /// Notes which checkpoints should have come before the one of `step`, which has come.
    fn note_unsaved(&mut self, step: u64) {
        let RunConfig { checkpoints, training, .. } = self.config;
        let between = self.saved + 1..step;
        let unsaved = &mut self.journal.state.unsaved;
        unsaved.extend(between.filter(|step| checkpoints.is_due(*step, training.steps)));
        unsaved.remove(&step);
        self.saved = step;
    }

    /// Moves `best` to the best of the checkpoints that there are.
    fn choose_best(&mut self) {
        let Ok(published) = self.store().steps() else { return };
        let metric = self.config.evaluation.metric;
        let mut ranking = evaluation::best_steps(&self.journal.state.valid, metric).into_iter();
        let Some(best) = ranking.find(|step| published.contains(step)) else { return };
        if self.store().best() != Some(best) {
            match self.store().mark_best(best) {
                Ok(()) => self.journal.event("best", json!({ "step": best })),
                Err(error) => self.notice(&error.to_string()),
            }
        }
        self.journal.state.best = Some(best);
    }

    fn retain(&mut self) {
        let RunConfig { checkpoints: settings, evaluation: scoring, training, .. } = self.config;
        let Ok(published) = self.store().steps() else { return };
        let valid = &self.journal.state.valid;
        let mut best = evaluation::best_steps(valid, scoring.metric);
        best.retain(|step| published.contains(step));
        best.truncate(settings.keep_best);
        // The newest evaluation may still be under way; then it may be the best.
        let evaluated = |step: &&u64| scoring.is_due(**step, training.steps);
        best.extend(
            published.iter().rev().find(evaluated).filter(|step| !valid.contains_key(step)),
        );
        // The average at the end needs its checkpoints.
        let last = settings.keep_last.max(settings.average);
        let extra = extra(self.config, &published);
        let keep = Retention { last, extra, best, every: settings.keep_every };
        match self.store().retain(&keep, self.attempt) {
            Ok(gone) if gone.is_empty() => {}
            Ok(gone) => self.journal.event("removed", json!({ "steps": gone })),
            Err(error) => self.notice(&error.to_string()),
        }
    }

    fn evaluated(&mut self, split: &str, step: u64, parts: &[Part]) {
        let folder = self.run.evaluation(split, step);
        let scoring = Scoring::from(&self.config.evaluation);
        match evaluation::merge(&folder, split, step, parts, scoring) {
            Ok(Merged { evaluation, translations, lines }) => {
                // A disk that is full for a while costs the files, not the point of the curves.
                if let Err(error) = evaluation::write(&folder, &evaluation, &lines, parts) {
                    self.notice(&error.to_string());
                }
                self.writer.evaluation(split, step, &evaluation.figures);
                if let Some(samples) = samples(&translations, self.config.evaluation.samples) {
                    self.writer.samples(step, &samples);
                }
                self.writer.flush();
                self.progress.say(&summary(&evaluation));
                let figures = evaluation.figures;
                self.journal.event(
                    "evaluated",
                    json!({ "split": split, "step": step, "figures": figures }),
                );
                self.journal.state.valid.insert(step, figures);
                self.choose_best();
                self.retain();
            }
            Err(error) => self.notice(&error.to_string()),
        }
        self.journal.save();
    }
}

/// Which of the published checkpoints are not of the schedule, but of evaluations and stops: they
/// count neither among the newest nor for the average, which no stop may change.
pub(crate) fn extra(config: &RunConfig, published: &[u64]) -> Vec<u64> {
    let scheduled = |step: &u64| config.checkpoints.is_due(*step, config.training.steps);
    published.iter().copied().filter(|step| !scheduled(step)).collect()
}

/// The first few translations as a table; none of none.
fn samples(translations: &[Translation], count: usize) -> Option<String> {
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    let rows: Vec<String> = translations
        .iter()
        .take(count)
        .map(|t| {
            let texts = [&t.source, &t.reference, &t.hypothesis].map(|text| cell(text));
            format!("| {} |", texts.join(" | "))
        })
        .collect();
    let head = "| source | reference | translation |\n|---|---|---|\n";
    (!rows.is_empty()).then(|| head.to_owned() + &rows.join("\n"))
}

/// An evaluation in one line.
pub(crate) fn summary(evaluation: &Evaluation) -> String {
    let figures: &BTreeMap<String, f64> = &evaluation.figures;
    let shown = [
        ("loss", "loss"),
        ("bleu", "BLEU"),
        ("bleu_tokenized", "tokenised"),
        ("bleu_compounds", "compounds split"),
        ("chrf", "chrF"),
    ];
    let words: Vec<String> = shown
        .iter()
        .filter_map(|(name, label)| Some(format!("{label} {:.2}", figures.get(*name)?)))
        .collect();
    format!("{} at step {}: {}", evaluation.split, evaluation.step, words.join("  "))
}
