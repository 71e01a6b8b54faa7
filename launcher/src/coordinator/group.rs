//! One group of workers, from its start to its end.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use tandem_cluster::engine::{self, EngineError, Job, Process};
use tandem_cluster::hosts::network::Ways;
use tandem_cluster::process;
use tandem_cluster::run::control::{Event, Link, PREFLIGHT_VARIABLE, Phase, Report, Server};
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::records::PreflightStage;
use tandem_cluster::topology::Topology;
use tandem_config::schema::cluster::{Deadlines, Preflight as When};

use super::engine_log::{death, describe_signal, lost_host, start_failure};
use super::members::{Members, Overdue};
use super::preflight::{self, Late, Preflight};
use crate::journal;
use crate::journal::ending::Ending;
use crate::journal::failure::{Failure, FailureKind};
use crate::journal::figures::Figures;
use crate::prepare::worker::Work;
use crate::terminal::exit::Exit;
use crate::terminal::interrupts::Interrupts;

/// How often interrupts, deadlines and the engine are polled.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long the messages of a failing group are collected after the first failure.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(300);
/// How long mpirun may take to report which signal ended a worker.
const ENGINE_REPORT_TIMEOUT: Duration = Duration::from_millis(2500);
/// How long workers that were asked to stop may take to report that they have finished loading.
const START_STOP: Duration = Duration::from_secs(2);
/// How long an engine may outlive its workers after success.
const ENGINE_END: Duration = Duration::from_secs(30);
/// A longer pause between two polls means that the launcher itself was suspended.
const SUSPEND_THRESHOLD: Duration = Duration::from_secs(2);

/// Why a group could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GroupError {
    /// There is no free port, or there are no random numbers.
    #[error("cannot open the control channel: {0}")]
    Control(#[from] io::Error),
    /// The engine did not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// How a group of workers ended.
#[derive(Debug)]
pub(crate) enum End {
    /// All workers have done their work.
    Done,
    /// They wrote a checkpoint and stopped, as they were asked to.
    Stopped,
    /// They were asked to stop and did not within `cluster.deadlines.stop`.
    StopOverdue,
    /// Ctrl-C was pressed twice.
    Interrupted,
    /// A rank failed.
    Failed(Failure),
}

/// Receives what the workers of a group report.
pub(crate) trait Listener {
    /// The group is about to be started; `link` leads to its workers.
    fn opened(&mut self, link: Link) {
        let _ = link;
    }
    /// A rank has connected.
    fn joined(&mut self, rank: usize, host: &str, device: &str);
    /// Every rank has connected.
    fn all_joined(&mut self) {}
    /// A rank has sent a heartbeat with its phase.
    fn beat(&mut self, rank: usize, phase: Phase) {
        let _ = (rank, phase);
    }
    /// A rank reports.
    fn report(&mut self, rank: usize, report: Report);
    /// The hosts were measured before anything was loaded, in so many seconds.
    fn measured(&mut self, figures: Vec<Figures>, findings: &[String], seconds: f64) {
        let _ = (figures, findings, seconds);
    }
    /// The group was asked to stop.
    fn stopping(&mut self) {}
    /// The Slurm job of the launcher ends; called repeatedly from then on.
    fn job_ends(&mut self, ending: Ending) {
        let _ = ending;
    }
    /// Some time has passed.
    fn tick(&mut self) {}
}

/// What every group of workers of a run has in common.
pub(crate) struct Workers {
    /// The worker program.
    pub program: PathBuf,
    /// Where the ranks go.
    pub topology: Topology,
    /// How long each phase may make no progress.
    pub deadlines: Deadlines,
    /// The launcher's signals.
    pub interrupts: Interrupts,
    /// Whether their hosts are measured before they train.
    pub preflight: When,
    /// What the plan says that a rank takes of its device's memory, in bytes.
    pub memory_per_rank: u64,
}

impl Workers {
    /// Has a group of workers, the `attempt`-th of the run, do some work; no process of it is left
    /// afterwards.
    ///
    /// # Errors
    /// When the group cannot even be started.
    pub(crate) fn run(
        &self,
        run: &RunFolder,
        attempt: u64,
        work: &Work,
        listener: &mut dyn Listener,
    ) -> Result<End, GroupError> {
        let mut job = work.job(&self.program, run.path(), &self.topology);
        let preflight = self.has_preflight(work).then(|| {
            job.environment.push((PREFLIGHT_VARIABLE.to_owned(), "1".to_owned()));
            Preflight::new(self.topology.ranks, self.deadlines.preflight)
        });
        supervise(self, run, attempt, job, preflight, listener)
    }

    fn has_preflight(&self, work: &Work) -> bool {
        let is_wanted = match self.preflight {
            When::Auto => self.topology.hosts.len() > 1,
            When::Always => self.topology.ranks > 1,
            When::Never => false,
        };
        is_wanted && matches!(work, Work::Train { .. })
    }
}

fn supervise(
    workers: &Workers,
    run: &RunFolder,
    attempt: u64,
    mut job: Job,
    preflight: Option<Preflight>,
    listener: &mut dyn Listener,
) -> Result<End, GroupError> {
    let Workers { topology, deadlines, interrupts, .. } = workers;
    let secret = process::random_name()?;
    let ways = Ways::to(topology.host_names())?;
    let server = Server::bind(&ways.addresses, attempt, secret, topology.ranks)?;
    let variables = server.environment();
    job.environment.extend(variables.into_iter().map(|(name, value)| (name.to_owned(), value)));
    job.environment.extend(ways.environment());
    listener.opened(server.link());
    let log = run.engine_log(attempt);
    let mut group = engine::start(topology, &job, &log)?;
    let mut watch = Watch {
        run,
        attempt,
        members: Members::new(topology.ranks, Instant::now()),
        failures: Vec::new(),
        identity: BTreeMap::new(),
        preflight,
        memory_per_rank: workers.memory_per_rank,
        ways,
        listener,
    };

    let mut looked = Instant::now();
    let mut stopping: Option<Instant> = None;
    let mut engine_ended: Option<Instant> = None;
    let end = loop {
        watch.listen(&server, POLL_INTERVAL);
        let now = Instant::now();
        if now - looked > SUSPEND_THRESHOLD {
            watch.members.forgive(now - looked);
            if let Some(preflight) = &mut watch.preflight {
                preflight.forgive(now - looked);
            }
        }
        looked = now;
        watch.listener.tick();
        if let Some(ending) = interrupts.ending() {
            watch.listener.job_ends(ending);
        }

        if !watch.failures.is_empty() {
            break None;
        }
        if watch.members.all_left() {
            break Some(watch.good_end());
        }
        if interrupts.kill_requested() {
            break Some(End::Interrupted);
        }
        match stopping {
            None if interrupts.stop_requested() => {
                stopping = Some(now);
                server.stop();
                watch.listener.stopping();
            }
            // There is nothing to save, and a rank that is loading does not check whether to stop.
            Some(since) if now - since > START_STOP && watch.members.all_start() => {
                break Some(End::Stopped);
            }
            Some(since) if (now - since).as_secs_f64() > deadlines.stop => {
                break Some(End::StopOverdue);
            }
            _ => {}
        }
        if let Some(late) = watch.preflight.as_ref().and_then(|preflight| preflight.overdue(now)) {
            watch.late(late);
            break None;
        }
        if let Some(overdue) = watch.members.overdue(deadlines, now) {
            watch.hung(overdue);
            break None;
        }
        if let Ok(Some(status)) = group.poll()
            && now - *engine_ended.get_or_insert(now) > DRAIN_TIMEOUT
        {
            watch.engine_gone(status);
            break None;
        }
    };

    if end.is_none() {
        watch.drain_messages(&server);
    }
    let death = watch.failures.first().is_some_and(|failure| failure.kind == FailureKind::Death);
    let status = match &end {
        Some(End::Done | End::Stopped) if watch.members.all_left() => group.wait(ENGINE_END),
        None if death => group.wait(ENGINE_REPORT_TIMEOUT),
        _ => None,
    };
    let workers: Vec<Process> =
        watch.members.present().filter_map(|(_, member)| member.process.clone()).collect();
    // Workers that are still running see their connection close, and exit.
    drop(server);
    group.end(&workers);
    Ok(end.unwrap_or_else(|| End::Failed(watch.failure(status, &log))))
}

/// What is known about a running group.
struct Watch<'a> {
    run: &'a RunFolder,
    attempt: u64,
    members: Members,
    /// In the order in which they happened; the first is the cause.
    failures: Vec<Failure>,
    /// What has to be the same on every rank, and the first one that said what that is.
    identity: BTreeMap<String, (usize, String)>,
    /// How far the ranks have come in it, where there is one.
    preflight: Option<Preflight>,
    memory_per_rank: u64,
    ways: Ways,
    listener: &'a mut dyn Listener,
}

impl Watch<'_> {
    /// Handles all that has happened, waiting up to `longest` for the first event.
    fn listen(&mut self, server: &Server, longest: Duration) {
        let mut wait = longest;
        while let Some(event) = server.next(wait) {
            wait = Duration::ZERO;
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Joined { rank, host, address, pid, device } => {
                let host = self.ways.host_at(address).map_or(host, str::to_owned);
                let process = pid.and_then(Process::find);
                self.listener.joined(rank, &host, &device);
                if let Some(preflight) = &mut self.preflight {
                    preflight.joined(rank, &host, now);
                }
                self.members.join(rank, host, process, now);
                if self.members.complete() {
                    self.listener.all_joined();
                }
            }
            Event::Beat { rank, phase, step, progress } => {
                self.members.beat(rank, phase, step, progress, now);
                self.listener.beat(rank, phase);
            }
            Event::Report { rank, report: Report::Failed { message, .. } } => {
                self.fail(FailureKind::Error, Some(rank), message, None);
            }
            Event::Report { rank, report: Report::Identity { facts } } => {
                self.compare(rank, facts);
            }
            Event::Report { rank, report: Report::Preflight { stage } } => {
                self.reached(rank, stage, now);
            }
            Event::Report { rank, report } => self.listener.report(rank, report),
            Event::Left { rank, goodbye } => {
                self.members.leave(rank, goodbye);
                self.left(rank, goodbye);
            }
            Event::Refused { peer, reason } => {
                let text = format!("turned {peer} away from the control channel: {reason}");
                self.listener.report(0, Report::Notice { text });
            }
        }
    }

    /// Every rank must have the same identity as the first one that reported it.
    fn compare(&mut self, rank: usize, facts: BTreeMap<String, String>) {
        for (name, here) in facts {
            let (first, there) =
                self.identity.entry(name.clone()).or_insert_with(|| (rank, here.clone()));
            if here != *there {
                let host = self.members.get(*first).map(|first| format!(" on {}", first.host));
                let (here, there) = (beginning(&here), beginning(there));
                let message = format!(
                    "its {name} is {here}, and on rank {first}{} {there}: all must be the same, so copy \
                     it from one host to the other",
                    host.unwrap_or_default()
                );
                let code = Exit::Usage.code().into();
                return self.fail(FailureKind::Error, Some(rank), message, Some(code));
            }
        }
    }

    /// A rank has come so far in the preflight. When the last one has done everything, all are compared.
    fn reached(&mut self, rank: usize, stage: PreflightStage, now: Instant) {
        let Some(preflight) = &mut self.preflight else { return };
        let is_over = preflight.reached(rank, stage, (now, journal::now()));
        if is_over {
            let (figures, seconds) = (preflight.figures(), preflight.spent(now).as_secs_f64());
            let findings = preflight::compare(&figures, self.memory_per_rank);
            self.listener.measured(figures, &findings, seconds);
        } else if preflight.is_full(rank)
            && let Some((rank, text)) = preflight::full_disk(&preflight.figures())
        {
            let code = Exit::Usage.code().into();
            self.fail(FailureKind::Error, Some(rank), text, Some(code));
        }
    }

    /// Some ranks have not got through the preflight in time.
    fn late(&mut self, late: Late) {
        let mut reason = late.reason;
        if let (true, Some(ways)) = (late.is_network, self.ways.describe()) {
            reason += &format!("; {ways}");
        }
        self.fail(FailureKind::Hang, Some(late.rank), reason, None);
    }

    fn left(&mut self, rank: usize, goodbye: Option<i32>) {
        match goodbye {
            Some(code) if matches!(Exit::from_code(code), Some(Exit::Done | Exit::Stopped)) => {}
            Some(code) => {
                self.fail(FailureKind::Error, Some(rank), format!("exit code {code}"), Some(code));
            }
            None => {
                let message = "its process ended without reporting an error".into();
                self.fail(FailureKind::Death, Some(rank), message, None);
            }
        }
    }

    /// Notes a failure, or completes what is known about the failure of this rank.
    fn fail(
        &mut self,
        kind: FailureKind,
        rank: Option<usize>,
        message: String,
        exit_code: Option<i32>,
    ) {
        let known = self.failures.iter_mut().find(|failure| failure.rank == rank);
        if let Some(failure) = known {
            failure.exit_code = failure.exit_code.or(exit_code);
            if failure.kind == FailureKind::Death && kind == FailureKind::Error {
                (failure.kind, failure.message) = (kind, message);
            }
            return;
        }
        let member = rank.and_then(|rank| self.members.get(rank));
        self.failures.push(Failure {
            kind,
            attempt: self.attempt,
            rank,
            host: member.map(|member| member.host.clone()),
            phase: member.map(|member| member.phase.to_string()),
            step: member.map_or(0, |member| member.step),
            message,
            exit_code,
            consequences: Vec::new(),
            log: match rank {
                Some(rank) if member.is_some() => self.run.rank_log(self.attempt, rank),
                _ => self.run.engine_log(self.attempt),
            },
        });
    }

    fn hung(&mut self, overdue: Overdue) {
        let mut reason = overdue.reason;
        let phase = self.members.get(overdue.rank).map(|member| member.phase);
        if let (Some(Phase::Reduce), Some(ways)) = (phase, self.ways.describe()) {
            reason += &format!("; {ways}");
        }
        self.fail(FailureKind::Hang, Some(overdue.rank), reason, None);
    }

    fn engine_gone(&mut self, status: ExitStatus) {
        if let Some(signal) = status.signal() {
            let message = format!("the engine was {}", describe_signal(signal));
            return self.fail(FailureKind::Engine, None, message, None);
        }
        if self.members.complete() {
            let message = "the engine ended before the workers".to_owned();
            return self.fail(FailureKind::Engine, None, message, None);
        }
        let log = text_of(&self.run.engine_log(self.attempt));
        let (rank, message) = start_failure(&log, self.members.only_missing(), status.code());
        self.fail(FailureKind::Engine, rank, message, None);
    }

    /// Collects the remaining messages of a failing group, until the first failing rank has left.
    fn drain_messages(&mut self, server: &Server) {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        while Instant::now() < deadline {
            let first = self.failures.first().and_then(|failure| failure.rank);
            let gone = first.and_then(|rank| self.members.get(rank)).map(|member| member.left);
            if matches!(gone, Some(Some(_))) && self.failures[0].kind == FailureKind::Error {
                return;
            }
            self.listen(server, POLL_INTERVAL);
        }
    }

    fn good_end(&self) -> End {
        let code = i32::from(Exit::Stopped.code());
        let stopped = |left: Option<Option<i32>>| left == Some(Some(code));
        match self.members.present().any(|(_, member)| stopped(member.left)) {
            true => End::Stopped,
            false => End::Done,
        }
    }

    /// The cause, with what the engine knows about it and its consequences.
    fn failure(self, status: Option<ExitStatus>, engine_log: &Path) -> Failure {
        let mut failures = self.failures.into_iter();
        let Some(mut first) = failures.next() else {
            unreachable!("a group without a good end has a failure")
        };
        first.consequences = failures.filter_map(|failure| failure.rank).collect();
        first.consequences.sort_unstable();
        let signal = status.and_then(|status| status.signal());
        if let (FailureKind::Death, Some(signal), 2..) = (first.kind, signal, self.members.size()) {
            // mpirun itself was killed, and took its workers along.
            first.consequences.extend(first.rank.take());
            first.consequences.sort_unstable();
            (first.kind, first.host) = (FailureKind::Engine, None);
            first.message = format!("mpirun was {}", describe_signal(signal));
            first.log = engine_log.to_owned();
        }
        let log = text_of(engine_log);
        if first.kind == FailureKind::Death
            && let Some(host) = lost_host(&log)
        {
            // mpirun and srun end the others when they have lost a host.
            let host = self.ways.host_called(&host).map_or(host.clone(), str::to_owned);
            first.consequences.extend(first.rank.take());
            let rank = self.members.present().find(|(_, member)| member.host == host);
            first.rank = rank.map(|(rank, _)| rank);
            first.consequences.retain(|rank| first.rank != Some(*rank));
            first.consequences.sort_unstable();
            (first.kind, first.host) = (FailureKind::Hang, Some(host));
            first.message = "its host is cut off, or without power".into();
            first.log = engine_log.to_owned();
        } else if first.kind == FailureKind::Death
            && let code = status.and_then(|status| status.code())
            && let missing = self.members.only_missing()
            && let (Some(rank), message) = start_failure(&log, missing, code)
            && self.members.get(rank).is_none()
        {
            // mpirun and srun end the others when one of them has not started.
            first.consequences.extend(first.rank.replace(rank));
            first.consequences.sort_unstable();
            (first.kind, first.host, first.phase) = (FailureKind::Engine, None, None);
            first.message = message;
            first.log = engine_log.to_owned();
        } else if first.kind == FailureKind::Death {
            let by_signal = signal.map(describe_signal);
            let words = by_signal.or_else(|| death(&log, first.rank?));
            if let Some(words) = words {
                first.message += &format!(": {words}");
            }
        }
        first
    }
}

/// The output of the engine.
fn text_of(engine_log: &Path) -> String {
    fs::read_to_string(engine_log).unwrap_or_default()
}

/// What tells a fact apart: of a SHA-256 its first digits, so that the message keeps its end.
fn beginning(fact: &str) -> &str {
    let is_hash = fact.len() == 64 && fact.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash { &fact[..16] } else { fact }
}
