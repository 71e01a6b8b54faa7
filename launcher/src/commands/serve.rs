//! `tandem serve`: translates what is asked over HTTP.

use std::path::PathBuf;
use std::time::Duration;

use clap::value_parser;
use tandem_cluster::run::store::AVERAGE;

use crate::prepare;
use crate::serve::{self, Model, Settings};
use crate::terminal::exit::Exit;
use crate::terminal::interrupts::Interrupts;

/// Translate over HTTP, with LibreTranslate's interface (docs/serve.md).
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run's folder, or its name in `runs`; or a folder written by `tandem export`.
    run: PathBuf,
    /// Address to listen on. There is no authentication: use a private address, or a proxy in front. Port 0
    /// takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    bind: String,
    /// Characters of a request, and of a line of a stream, at most.
    #[arg(long, value_name = "CHARS", default_value_t = 5000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    max_chars: u32,
    /// Lines that may wait for their translation; requests beyond that are answered with 503.
    #[arg(long, value_name = "LINES", default_value_t = 1024, value_parser = value_parser!(u32).range(1..=1_000_000))]
    queue: u32,
    /// How long a request may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u32).range(1..=86_400))]
    timeout: u32,
    /// The language that the model translates from, such as `de`. Requests for another one are then refused.
    #[arg(long, value_name = "CODE", requires = "target")]
    source: Option<String>,
    /// The language that the model translates to, such as `en`.
    #[arg(long, value_name = "CODE", requires = "source")]
    target: Option<String>,
    /// `average`, `best`, `latest` or a step.
    #[arg(long, default_value = AVERAGE)]
    checkpoint: String,
    /// Change the decoding, the hardware or the place of a BERT: decoding.path.to.key=value,
    /// cluster.key=value or model.path.to.pretrained=FOLDER. By default one GPU or all CPUs of this machine
    /// are used, whatever the run was trained on.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let run = prepare::find(&self.run)?;
        let one = "cluster.workers=1".to_owned();
        let overrides: Vec<String> = [one].into_iter().chain(self.overrides).collect();
        let config = prepare::load_to_use(&run, &overrides)?;
        prepare::refuse_without_translations(&config)?;
        let checkpoint = prepare::model(&run, &self.checkpoint)?;
        let settings = Settings {
            bind: self.bind,
            max_chars: self.max_chars as usize,
            queue: self.queue as usize,
            timeout: Duration::from_secs(self.timeout.into()),
            languages: self.source.zip(self.target),
        };
        let model = Model { run, config, checkpoint: checkpoint.folder().to_owned() };
        serve::serve(model, settings, &Interrupts::catch()?)
    }
}
