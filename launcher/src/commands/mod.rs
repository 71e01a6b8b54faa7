//! The commands of `tandem`: one file each, with its arguments and one call.

mod average;
mod completions;
mod data;
mod doctor;
mod evaluate;
mod export;
mod init;
mod launch;
mod logs;
mod man;
mod plan;
mod reproduce;
mod score;
mod serve;
mod slurm;
mod status;
mod stop;
mod trained;
mod translate;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use tandem_cluster::process::{end_on_panic, say};

use crate::prepare::hub::HubError;
use crate::terminal::exit::{Exit, Refused};
use tandem_cluster::error::with_causes;

/// Train translation models from two frozen BERTs, on one machine or on a cluster.
#[derive(Debug, Parser)]
#[command(name = "tandem", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Finds a path of the repository, relative to the working directory or else to a folder above this
/// program.
fn in_repository(path: &Path) -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let places = program.ancestors().skip(1).map(|place| place.join(path));
    let found = [path.to_owned()].into_iter().chain(places).find(|path| path.exists());
    found.unwrap_or_else(|| path.to_owned())
}

/// The exit code for an error.
fn exit_of(error: &anyhow::Error) -> Exit {
    let is_final =
        error.is::<Refused>() || error.downcast_ref::<HubError>().is_some_and(HubError::is_final);
    if is_final { Exit::Usage } else { Exit::Failed }
}

const EXIT_CODES: &str = "Exit codes:
  0    done
  1    failed; trying again may help
  2    invalid command line, config or data; nothing was trained
  75   stopped, with a checkpoint if it was training; run the same command again to resume
  93   failed, and would fail again
  124  did not stop in time when asked to
  130  killed by a second Ctrl-C";

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Args),
    Launch(launch::Args),
    Slurm(slurm::Args),
    Plan(plan::Args),
    Doctor(doctor::Args),
    Status(status::Args),
    Logs(logs::Args),
    Stop(stop::Args),
    Translate(translate::Args),
    Serve(serve::Args),
    Evaluate(evaluate::Args),
    Score(score::Args),
    Average(average::Args),
    Export(export::Args),
    Reproduce(reproduce::Args),
    Data(data::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    end_on_panic();
    let result = match Cli::parse().command {
        Command::Init(args) => args.run(),
        Command::Launch(args) => args.run(),
        Command::Slurm(args) => args.run(),
        Command::Plan(args) => args.run(),
        Command::Doctor(args) => args.run(),
        Command::Status(args) => args.run(),
        Command::Logs(args) => args.run(),
        Command::Stop(args) => args.run(),
        Command::Translate(args) => args.run(),
        Command::Serve(args) => args.run(),
        Command::Evaluate(args) => args.run(),
        Command::Score(args) => args.run(),
        Command::Average(args) => args.run(),
        Command::Export(args) => args.run(),
        Command::Reproduce(args) => args.run(),
        Command::Data(args) => args.run(),
        Command::Completions(args) => args.run(),
        Command::Man(args) => args.run(),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            say(format_args!("error: {}", with_causes(error.as_ref())));
            exit_of(&error).into()
        }
    }
}
