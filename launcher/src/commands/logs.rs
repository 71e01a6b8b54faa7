//! `tandem logs`: what the ranks have said.

use std::path::PathBuf;
use std::time::Duration;

use tandem_cluster::process::say;

use crate::prepare;
use crate::report::logs::Logs;
use crate::terminal::exit::{Exit, Refused};
use crate::terminal::output;

/// How often the logs are polled.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Print the logs of a run's newest workers; what several ranks say is shown once.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's folder, or its name below `runs`; without it the newest run.
    run: Option<PathBuf>,
    /// Only this rank's.
    #[arg(long)]
    rank: Option<usize>,
    /// Go on printing until the launcher ends, attempt after attempt.
    #[arg(long)]
    follow: bool,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// No such run or rank, or logs that cannot be read.
    pub fn run(self) -> anyhow::Result<Exit> {
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
                let goes_on = self.follow && live && newest == attempt;
                let lines = logs.read(!goes_on)?;
                if !lines.is_empty() && !output::print(lines.join("\n"))? {
                    return Ok(Exit::Done);
                }
                if !goes_on {
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
