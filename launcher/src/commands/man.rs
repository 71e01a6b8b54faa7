//! `tandem man`: manual pages.

use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;

use crate::terminal::exit::Exit;
use crate::terminal::output;

/// Write the manual pages, `tandem.1` and one for each command.
#[derive(Debug, clap::Args)]
#[command(after_help = "For `man tandem`: tandem man ~/.local/share/man/man1")]
pub(super) struct Args {
    /// Where to; made if need be.
    folder: PathBuf,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let failed = || format!("cannot write manual pages into {}", self.folder.display());
        std::fs::create_dir_all(&self.folder).with_context(failed)?;
        clap_mangen::generate_to(super::Cli::command(), &self.folder).with_context(failed)?;
        output::print(self.folder.display())?;
        Ok(Exit::Done)
    }
}
