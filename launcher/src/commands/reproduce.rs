//! `tandem reproduce`: runs a table of the paper and compares the numbers.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tandem_cluster::process::say;
use tandem_config::RunConfig;
use tandem_config::schema::cluster::Device;

use super::exit_of;
use super::in_repository;
use crate::launch::launch;
use crate::prepare;
use crate::prepare::dependency;
use crate::prepare::worker;
use crate::reproduce::chart::draw;
use crate::reproduce::difference::add_differences;
use crate::reproduce::page::{html, markdown};
use crate::reproduce::results::{self, Outcome};
use crate::reproduce::speed;
use crate::reproduce::table::{Row, Table};
use crate::terminal::exit::{Exit, Refused};
use crate::terminal::interrupts::Interrupts;
use crate::terminal::output;
use tandem_cluster::error::with_causes;

/// Run the rows of a table of the paper, and print the results next to the paper's numbers.
///
/// Rows whose run has finished are only read; the others are launched one after the other. Running the
/// same command again resumes a row that was stopped, or that needs more steps than it has.
///
/// A run's numbers are used for a row only if the run has the row's settings, by the same rule as in
/// `tandem launch`, no more steps than the row, and was scored with the row's decoding,
/// checkpoints.every, checkpoints.average, evaluation.lowercase and evaluation.sentences. Otherwise the
/// row shows what differs instead of numbers. To use other settings, give them another folder with
/// --set run.folder=... Speed is also measured only once; the result is used if model, decoding,
/// workers, device, threads and evaluation.latency_sentences are the row's.
///
/// The exit code is 2 if a row cannot be launched, because data are missing or its folder holds
/// another run; the other rows are launched nevertheless. With --read it is 0.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// 1, 2, 3a, 3b, figure-2, figure-3a, figure-3b, beside or latency; or a table in --configs, such as
    /// few-passes in configs/proof.
    table: String,
    /// Launch nothing, and only read the results of existing runs.
    #[arg(long)]
    read: bool,
    /// Launch only rows whose system, data or run contains this text, and read the others; can be
    /// repeated.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Change a key of every row's config: path.to.key=value.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Folder with the run files, and with the tables in its subfolder `tables`.
    #[arg(long, value_name = "FOLDER", default_value = "configs/paper")]
    configs: PathBuf,
    /// Folder for the results, as Markdown, SVG and HTML.
    #[arg(long, value_name = "FOLDER", default_value = "runs/reproduce")]
    output: PathBuf,
}

impl Args {
    pub(super) fn run(mut self) -> anyhow::Result<Exit> {
        self.configs = in_repository(&self.configs);
        let table = Table::read(&self.configs, &self.table)?;
        tandem_config::check_overrides(&self.overrides)
            .map_err(|problems| Refused(problems.to_string()))?;
        if self.overrides.iter().any(|text| text.starts_with("run.name=")) {
            let message = "--set run.name would give all rows the same folder; set run.folder";
            return Err(Refused(message.into()).into());
        }
        if !table.rows.iter().any(|row| self.is_wanted(row)) {
            return Err(Refused("no row matches --only".into()).into());
        }
        let interrupts = Interrupts::catch()?;
        let (mut outcomes, mut exit) = (Vec::new(), Exit::Done);
        for row in &table.rows {
            let (outcome, end) = match () {
                () if self.read || !self.is_wanted(row) => (self.read(&table, row), Exit::Done),
                () if interrupts.stop_requested() => (self.read(&table, row), Exit::Stopped),
                () => self.outcome(&table, row, &interrupts),
            };
            outcomes.push(outcome);
            exit = graver(exit, end);
        }
        add_differences(&table, &mut outcomes);
        let name = table.title.split(':').next().unwrap_or_default().to_lowercase();
        let name = name.replace(' ', "-");
        let text = markdown(&table, &outcomes, &self.overrides, &format!("{name}.svg"));
        let base = self.output.join(name);
        write(&base.with_extension("md"), &text)?;
        write(&base.with_extension("svg"), &draw(&table, &outcomes))?;
        let page = base.with_extension("html");
        write(&page, &html(&table, &outcomes, &self.overrides))?;
        output::print(format_args!("{text}\n{}", page.display()))?;
        Ok(exit)
    }

    fn is_wanted(&self, row: &Row) -> bool {
        let names = [&row.system, &row.data, &row.run];
        self.only.is_empty() || self.only.iter().any(|text| names.iter().any(|n| n.contains(text)))
    }

    /// The config of a row, or why it cannot be launched.
    fn config(&self, row: &Row) -> Result<RunConfig, String> {
        let overrides = row.overrides(&self.overrides);
        prepare::load(&row.file(&self.configs), &overrides).map_err(|error| {
            let text = error.to_string();
            let lines: Vec<&str> = text.lines().collect();
            let more = match lines.len().saturating_sub(2) {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            let first = lines.get(1).or(lines.first()).copied().unwrap_or_default();
            format!("cannot be launched: {first}{more}")
        })
    }

    /// The results of a row that are already there.
    fn read(&self, table: &Table, row: &Row) -> Outcome {
        match self.config(row) {
            Ok(config) => reached(table, row, &config),
            Err(reason) => Outcome::Nothing(reason),
        }
    }

    /// The results of a row, which is launched if necessary.
    fn outcome(&self, table: &Table, row: &Row, interrupts: &Interrupts) -> (Outcome, Exit) {
        let config = match self.config(row) {
            Ok(config) => config,
            Err(reason) => return (Outcome::Nothing(reason), Exit::Usage),
        };
        if !row.decode.is_empty() {
            return self.decoded(table, row, config, interrupts);
        }
        match reached(table, row, &config) {
            Outcome::Measured(run) if table.untrained || run.steps >= config.training.steps => {
                return (Outcome::Measured(run), Exit::Done);
            }
            other @ Outcome::Other { resumes: false, .. } => return (other, Exit::Usage),
            _ => {}
        }
        if row.device == Some(Device::Cuda) && speed::lacks_gpu(&config) {
            return (Outcome::Nothing("this machine has no GPU".into()), Exit::Done);
        }
        say(format_args!("{}: {}", row.data, row.system));
        let ended = match table.untrained {
            true => speed::measure(config, interrupts),
            false => train(config, interrupts),
        };
        self.ended(table, row, ended)
    }

    /// The results of a row whose run is translated in a way of its own, trained first if necessary.
    fn decoded(
        &self,
        table: &Table,
        row: &Row,
        config: RunConfig,
        interrupts: &Interrupts,
    ) -> (Outcome, Exit) {
        let is_trained = match results::outcome(&config) {
            Outcome::Measured(run) => run.steps >= config.training.steps,
            other @ Outcome::Other { resumes: false, .. } => return (other, Exit::Usage),
            _ => false,
        };
        match reached(table, row, &config) {
            measured @ Outcome::Measured(_) if is_trained => return (measured, Exit::Done),
            _ => say(format_args!("{}: {}", row.data, row.system)),
        }
        let trained = match is_trained {
            true => Ok(Exit::Done),
            false => train(config.clone(), interrupts),
        };
        let ended = match trained {
            Ok(Exit::Done) => results::decode(&config, &row.decode, interrupts),
            ended => ended,
        };
        self.ended(table, row, ended)
    }

    /// The results of a row whose work has ended.
    fn ended(&self, table: &Table, row: &Row, ended: anyhow::Result<Exit>) -> (Outcome, Exit) {
        match ended {
            Ok(Exit::Done) => (self.read(table, row), Exit::Done),
            Ok(exit) => {
                (Outcome::Nothing(format!("its run ended with exit code {}", exit.code())), exit)
            }
            Err(error) => {
                say(format_args!("error: {}", with_causes(error.as_ref())));
                let exit = exit_of(&error);
                (Outcome::Nothing(format!("its run failed: {}", with_causes(error.as_ref()))), exit)
            }
        }
    }
}

fn reached(table: &Table, row: &Row, config: &RunConfig) -> Outcome {
    match table.untrained {
        true => speed::outcome(config),
        false if row.decode.is_empty() => results::outcome(config),
        false => results::decoded(config, &row.decode),
    }
}

fn train(config: RunConfig, interrupts: &Interrupts) -> anyhow::Result<Exit> {
    dependency::check(&config)?;
    launch(config, false, worker::find()?, interrupts.clone())
}

/// The exit code of a table, from those of two of its rows: being stopped outranks a failure, which
/// outranks a row that cannot be launched.
fn graver(one: Exit, other: Exit) -> Exit {
    const BY_GRAVITY: [Exit; 7] = [
        Exit::Done,
        Exit::Usage,
        Exit::DoNotRetry,
        Exit::Failed,
        Exit::Stopped,
        Exit::Deadline,
        Exit::Interrupted,
    ];
    let gravity = |exit: Exit| BY_GRAVITY.iter().position(|known| *known == exit);
    if gravity(other) > gravity(one) { other } else { one }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(path, text))
        .with_context(|| format!("cannot write {}", path.display()))
}
