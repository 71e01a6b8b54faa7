//! `tandem logs`: prints the logs of a run's ranks.

use std::path::PathBuf;
use std::time::Duration;

use tandem_cluster::process::say;

use crate::prepare;
use crate::report::logs::Logs;
use crate::terminal::exit::{Exit, Refused};
use crate::terminal::output;

/// How often the logs are polled.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Print the logs of a run's latest attempt; lines that several ranks have in common appear once.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run's folder, or its name in `runs`; by default the newest run.
    run: Option<PathBuf>,
    /// Print only this rank's log.
    #[arg(long)]
    rank: Option<usize>,
    /// Keep printing new lines until the launcher ends, across attempts.
    #[arg(long)]
    follow: bool,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let run = prepare::find_or_newest(self.run.as_deref())?;
        let mut attempt = run.newest_attempt();
        loop {
            let folder = run.attempt_logs(attempt);
            let mut logs = Logs::open(folder.clone(), self.rank)?;
            if logs.is_empty() && !self.follow {
                let rank = self.rank.map_or("no rank".into(), |rank| format!("no rank {rank}"));
                return Err(Refused(format!("{rank} has a log in {}", folder.display())).into());
            }
            let followed = loop {
                let (newest, live) = (run.newest_attempt(), run.holder().is_some());
                let is_growing = self.follow && live && newest == attempt;
                let lines = logs.read(!is_growing)?;
                if !lines.is_empty() && !output::print(lines.join("\n"))? {
                    return Ok(Exit::Done);
                }
                if !is_growing {
                    break self.follow && newest > attempt;
                }
                std::thread::sleep(POLL_INTERVAL);
            };
            if !followed {
                return Ok(Exit::Done);
            }
            attempt += 1;
            say(format_args!("attempt {attempt}"));
        }
    }
}
