//! `tandem status`: the state and progress of a run.

use std::path::PathBuf;

use serde_json::json;
use tandem_cluster::run::folder::RunFolder;

use crate::journal::ending::Next;
use crate::journal::{Stage, State, Status, load_state};
use crate::prepare;
use crate::slurm::job;
use crate::terminal::exit::{Exit, Refused};
use crate::terminal::output;
use crate::terminal::progress::duration;

/// Print the state and progress of a run.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run's folder, or its name in `runs`; by default the newest run.
    run: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let run = prepare::find_or_newest(self.run.as_deref())?;
        let state = load_state(&run).map_err(|error| Refused(error.to_string()))?;
        let Some(state) = state else {
            let path = run.path().display();
            return Err(Refused(format!("{path} has no state.json: it was never launched")).into());
        };
        let holder = run.holder();
        // Without an answer from Slurm, the run's own state is printed.
        let waiting = match holder {
            None => job::waiting(&state).ok(),
            Some(_) => None,
        };
        // Listed by name: verifying large checkpoints, as resuming does, takes long.
        let checkpoints = run.store().steps()?;
        if self.json {
            let mut value = serde_json::to_value(&state)?;
            value["launcher"] = json!(holder);
            value["waiting_job"] = json!(waiting.flatten());
            value["checkpoints"] = json!(checkpoints);
            output::print(serde_json::to_string_pretty(&value)?)?;
            return Ok(Exit::Done);
        }
        output::print(text(&run, &state, holder.is_some(), waiting, &checkpoints))?;
        Ok(Exit::Done)
    }
}

/// The printed text. `waiting` is the queued job that will resume the run, `None` if Slurm was not
/// asked.
fn text(
    run: &RunFolder,
    state: &State,
    is_live: bool,
    waiting: Option<Option<String>>,
    checkpoints: &[u64],
) -> String {
    let mut lines = Vec::new();
    lines.push(format!("run         {}", run.path().display()));
    let description = match waiting.as_ref().and_then(Option::as_ref) {
        Some(id) => format!("stopped; job {id} is in the queue and will resume it"),
        None => match &state.needed {
            Some(needed) if is_live => {
                format!("{} is trained first ({})", needed.run.display(), needed.key)
            }
            _ => describe(state, is_live).into(),
        },
    };
    lines.push(format!("state       {description}"));
    lines.push(format!("step        {} of {}", state.step, state.steps));
    if let (Some(loss), Some(rate)) = (state.loss, state.tokens_per_second) {
        lines.push(format!("loss        {loss:.4}, {rate:.0} tokens/s"));
    }
    if let (Some(left), true) = (state.seconds_left, is_live) {
        lines.push(format!("time left   {}", duration(left)));
    }
    let plural = if state.restarts == 1 { "" } else { "s" };
    lines.push(format!("attempt     {}, after {} restart{plural}", state.attempt, state.restarts));
    let step = |step: Option<u64>| step.map_or("none".to_owned(), |step| step.to_string());
    let all: Vec<String> = checkpoints.iter().map(u64::to_string).collect();
    lines.push(format!("checkpoints latest {}, best {}", step(state.latest), step(state.best)));
    lines.push(format!("            of steps {}", all.join(", ")));
    for (rank, known) in state.ranks.iter().filter(|(_, known)| is_live && known.is_straggler) {
        let times = known.slowdown.unwrap_or(1.0);
        let host = &known.host;
        lines
            .push(format!("straggler   rank {rank} on {host}: {times:.2} times as long as others"));
    }
    for report in &state.data {
        lines.push(format!("data        {}", report.summary()));
    }
    for (name, label) in [("bleu", "BLEU"), ("chrf", "chrF"), ("loss", "loss")] {
        if let Some(value) = state.test.get(name) {
            lines.push(format!("test        {label} {value:.2}"));
        }
    }
    if let Some(failure) = &state.failure {
        let cause = failure.message.lines().next().unwrap_or_default();
        lines.push(format!("last fault  {}: {cause}", failure.headline()));
    }
    if let Some(ending) = state.job_endings.last() {
        let over = match &ending.next {
            Next::Chained { job } if waiting == Some(None) => {
                format!("; job {job} is no longer in the queue")
            }
            _ => String::new(),
        };
        lines.push(format!("last job    {ending}{over}"));
    }
    lines.join("\n")
}

fn describe(state: &State, live: bool) -> &'static str {
    match (state.status, state.stage, live) {
        (Status::Prepared | Status::Running, Stage::Data, true) => {
            "a teacher is preparing its data"
        }
        (Status::Prepared | Status::Running, Stage::Train, true) => "training",
        (Status::Prepared | Status::Running, _, true) => "evaluating",
        (Status::Prepared | Status::Running, _, false) => {
            "its launcher was killed; launch it again to resume"
        }
        (Status::Stopped, _, _) => "stopped; launch it again to resume",
        (Status::Failed, _, _) => "failed",
        (Status::Done, _, _) => "done",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::journal::ending::Ending;
    use crate::journal::failure::{Failure, FailureKind};
    use crate::journal::{Needed, Rank};

    fn shown(state: &State, is_live: bool, waiting: Option<Option<String>>) -> String {
        let run = RunFolder::new("runs/demo".into());
        text(&run, state, is_live, waiting, &[200, 400, 600])
    }

    #[test]
    fn a_run_in_training_after_a_fault_and_a_job() {
        let failure = Failure {
            kind: FailureKind::Death,
            attempt: 2,
            rank: Some(1),
            host: Some("n2".into()),
            phase: Some("train".into()),
            step: 431,
            message: "killed by signal 9 (SIGKILL)\nsee the log for details".into(),
            exit_code: None,
            consequences: vec![0],
            log: Path::new("runs/demo/logs/attempt-2/rank-1.log").into(),
        };
        let ending = Ending {
            job: "71".into(),
            restarts: 0,
            cause: Some(tandem_cluster::slurm::Cause::TimeLimit),
            next: Next::Chained { job: "72".into() },
            latest: Some(400),
            steps: Some(400),
            time: 0.0,
        };
        let rank = |slowdown, is_straggler| {
            let host = "n2".into();
            Rank { host, slowdown: Some(slowdown), is_straggler, ..Rank::default() }
        };
        let mut state = State {
            status: Status::Running,
            stage: Stage::Train,
            step: 612,
            steps: 900,
            loss: Some(2.345_67),
            tokens_per_second: Some(12_345.6),
            seconds_left: Some(125.0),
            attempt: 3,
            restarts: 1,
            latest: Some(600),
            best: Some(400),
            failure: Some(failure),
            ranks: [(0, rank(1.0, false)), (1, rank(1.25, true))].into(),
            ..State::default()
        };
        state.add_ending(ending);
        insta::assert_snapshot!(shown(&state, true, None));
        state.status = Status::Stopped;
        insta::assert_snapshot!(
            "stopped_with_a_job_that_waits",
            shown(&state, false, Some(Some("72".into())))
        );
        insta::assert_snapshot!("stopped_and_its_job_is_gone", shown(&state, false, Some(None)));
    }

    #[test]
    fn a_run_that_needs_another_one_first() {
        let needed =
            Needed { key: "model.init".into(), run: Path::new("runs/transformer").to_owned() };
        let state = State { status: Status::Running, needed: Some(needed), ..State::default() };
        let line = |is_live: bool| {
            let text = shown(&state, is_live, None);
            text.lines().find(|line| line.starts_with("state ")).unwrap().to_owned()
        };
        assert_eq!(line(true), "state       runs/transformer is trained first (model.init)");
        assert_eq!(line(false), "state       its launcher was killed; launch it again to resume");
    }

    #[test]
    fn a_finished_run() {
        let test = [("bleu", 12.68), ("chrf", 33.92), ("loss", 4.5)];
        let state = State {
            status: Status::Done,
            stage: Stage::Finished,
            step: 900,
            steps: 900,
            attempt: 2,
            latest: Some(600),
            test: test.map(|(name, value)| (name.to_owned(), value)).into(),
            ..State::default()
        };
        insta::assert_snapshot!(shown(&state, false, None));
    }
}
