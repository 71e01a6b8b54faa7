//! `tandem completions`: what completes the command line in a shell.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::terminal::exit::Exit;
use crate::terminal::output;

/// Print a script that completes `tandem`'s commands and options in a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "For bash, in ~/.bashrc: source <(tandem completions bash)")]
pub(super) struct Args {
    /// The shell.
    shell: Shell,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::Cli::command(), "tandem", &mut script);
        output::write(String::from_utf8_lossy(&script))?;
        Ok(Exit::Done)
    }
}
