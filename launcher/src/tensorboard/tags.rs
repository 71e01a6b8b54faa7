//! Under which tags a run's figures are found in TensorBoard.

use std::collections::BTreeMap;

use tandem_cluster::run::records::{StepTime, TrainingMetrics};

use super::Writer;

impl Writer {
    /// Figures of a training step.
    pub fn training(&mut self, step: u64, metrics: &TrainingMetrics) {
        let StepTime { total_ms, data_ms, communication_ms } = metrics.time;
        let figures = [
            ("train/loss", Some(metrics.loss)),
            ("train/nll_loss", Some(metrics.nll)),
            ("train/ppl", Some(metrics.nll.exp())),
            ("train/lr", Some(metrics.learning_rate)),
            ("train/skipped_steps", Some(metrics.skipped as f64)),
            ("train/length_loss", metrics.length_loss),
            ("train/soft_label_loss", metrics.soft_label_loss),
            ("train/distillation_loss", metrics.distillation_loss),
            ("perf/tokens_per_sec", Some(metrics.tokens_per_second)),
            ("perf/step_time_ms", Some(total_ms)),
            ("perf/data_wait_ms", Some(data_ms)),
            ("perf/comm_exposed_ms", Some(communication_ms)),
            ("mem/peak_rss_gib", Some(metrics.peak_memory as f64 / (1u64 << 30) as f64)),
        ];
        for (tag, value) in figures {
            if let Some(value) = value {
                self.scalar(tag, step, value);
            }
        }
    }

    /// The norm of a step's gradient.
    pub fn gradient_norm(&mut self, step: u64, norm: f64) {
        self.scalar("train/grad_norm", step, norm);
    }

    /// What the run's time went into so far: seconds by the account's name.
    pub fn time<'a>(&mut self, step: u64, accounts: impl Iterator<Item = (&'a str, f64)>) {
        for (account, seconds) in accounts {
            self.scalar(&format!("time/{account}"), step, seconds);
        }
    }

    /// Restarts after failures so far.
    pub fn restarts(&mut self, step: u64, restarts: u64) {
        self.scalar("ft/restarts", step, restarts as f64);
    }

    /// An evaluation's figures by name.
    pub fn evaluation(&mut self, split: &str, step: u64, figures: &BTreeMap<String, f64>) {
        let family = if split == "valid" { "eval" } else { split };
        for (name, value) in figures {
            self.scalar(&format!("{family}/{name}"), step, *value);
        }
    }

    /// Sample translations, as Markdown.
    pub fn samples(&mut self, step: u64, markdown: &str) {
        self.text("eval/samples", step, markdown);
    }
}
