//! `tandem serve`: translates what is asked over HTTP.

use std::time::Duration;

use clap::value_parser;

use super::trained::Trained;
use crate::prepare;
use crate::serve::{self, Model, Settings};
use crate::terminal::exit::Exit;
use crate::terminal::interrupts::Interrupts;

/// Translate over HTTP, with LibreTranslate's interface (docs/serve.md).
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: Trained,
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
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let (run, config) = self.model.load(&["cluster.workers=1"])?;
        prepare::refuse_without_translations(&config)?;
        let checkpoint = self.model.checkpoint(&run)?;
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
