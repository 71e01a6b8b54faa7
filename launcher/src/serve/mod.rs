//! `tandem serve`: a model that translates what is asked over HTTP.
//!
//! - [`http`] answers requests, in a thread of its own. It puts their sentences into the
//! - [`queue`], from which another thread sends them to the worker.
//! - This file keeps a worker running, as long as it should.

mod http;
mod metrics;
mod queue;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use tandem_cluster::process::say;
use tandem_cluster::run::control::{Link, Report};
use tandem_cluster::run::folder::RunFolder;
use tandem_config::RunConfig;
use tokio::sync::oneshot;

use crate::coordinator::group::{End, Listener};
use crate::coordinator::restarts::{Decision, Restarts};
use crate::coordinator::session::Session;
use crate::journal::failure::Failure;
use crate::prepare::worker::Work;
use crate::terminal::exit::{Exit, Refused};
use crate::terminal::interrupts::Interrupts;
use http::Service;
use metrics::Metrics;
use queue::{Queue, Unanswered};

/// How long the first restart waits; each further one without an answer in between waits twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait for a restart.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How often a wait looks for signals.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long the answers of a failed server may take to be written.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// The model that translates.
pub(crate) struct Model {
    /// Its run, or the folder that it was exported to.
    pub run: RunFolder,
    /// The config that it is used with.
    pub config: RunConfig,
    /// Its verified checkpoint.
    pub checkpoint: PathBuf,
}

/// How it is served.
pub(crate) struct Settings {
    /// Where to listen.
    pub bind: String,
    /// Characters of a request, at most.
    pub max_chars: usize,
    /// Sentences that may wait, at most.
    pub queue: usize,
    /// How long a request may take.
    pub timeout: Duration,
    /// The codes of both languages, if they are known.
    pub languages: Option<(String, String)>,
}

/// Translates what is asked, until a signal asks to stop.
///
/// # Errors
/// Whatever keeps the server or its worker from starting.
pub(crate) fn serve(
    model: Model,
    settings: Settings,
    interrupts: &Interrupts,
) -> anyhow::Result<Exit> {
    let Model { run, config, checkpoint } = model;
    let (max_restarts, stop) = (config.cluster.max_restarts, config.cluster.deadlines.stop);
    let listener = Listening::open(&settings.bind)?;
    // Signals do not reach the worker before it has answered what is queued.
    let of_worker = Interrupts::default();
    let work = Work::Serve { model: run.path().to_owned(), checkpoint };
    let session = Session::new(&run, config, of_worker.clone())?;
    if session.ranks() != 1 {
        let message = "`tandem serve` translates with one worker: leave cluster.workers out";
        return Err(Refused(message.into()).into());
    }

    let metrics = Arc::new(Metrics::default());
    let queue = Arc::new(Queue::new(settings.queue, Arc::clone(&metrics)));
    let sender = Arc::clone(&queue);
    thread::Builder::new().name("serve-send".into()).spawn(move || sender.send_all())?;
    let settings = Arc::new(settings);
    let service = Service::new(settings, Arc::clone(&queue), Arc::clone(&metrics));
    let bound = listener.address;
    let server = listener.serve(service).context("cannot serve")?;
    say(format_args!("serving on http://{bound}, as soon as the model is loaded"));

    let deadline = Duration::from_secs_f64(stop);
    let mut stopping =
        Stopping { interrupts, of_worker, queue: &queue, deadline, since: None, server };
    let mut failures = 0;
    let failed = loop {
        let mut serving =
            Serving { stopping: &mut stopping, metrics: &metrics, link: None, has_answered: false };
        let end = session.attempt(&work, &mut serving);
        if serving.has_answered {
            failures = 0;
        }
        metrics.ready(false);
        let failure = match end {
            Ok(End::Failed(failure)) if !stopping.look() => failure,
            Ok(_) => break None,
            Err(error) => {
                queue.end(&Unanswered::Failed(error.to_string()));
                stopping.server.end(LAST_ANSWERS, || false);
                return Err(error);
            }
        };
        failures += 1;
        let cause = cause(&failure);
        // Whether it can ever succeed. What a sentence does to the worker is over with that sentence.
        let exit = match Restarts::new(1).after(&failure) {
            Decision::GiveUp { exit, .. } => Some(exit),
            Decision::Again { .. } => (failures > max_restarts).then_some(Exit::Failed),
        };
        if let Some(exit) = exit {
            break Some((exit, failure, cause));
        }
        queue.lost(&cause);
        metrics.restart();
        let wait = LONGEST_WAIT.min(FIRST_WAIT * 2u32.saturating_pow(failures as u32 - 1));
        let seconds = wait.as_secs_f64();
        let left = max_restarts - failures;
        say(failure.report(&format!(
            "starting the worker again in {seconds} s; {left} more restarts without an answer in between"
        )));
        let until = Instant::now() + wait;
        while Instant::now() < until && !stopping.look() {
            thread::sleep(POLL_INTERVAL);
        }
        if stopping.look() {
            break None;
        }
    };
    if let Some((exit, mut failure, cause)) = failed {
        queue.end(&Unanswered::Failed(cause));
        stopping.server.end(LAST_ANSWERS, || false);
        session.keep_log(&mut failure);
        say(failure.report(match exit {
            Exit::Failed => "giving up (cluster.max_restarts); start `tandem serve` again",
            _ => "fix that first",
        }));
        return Ok(exit);
    }
    Ok(stopping.finish())
}

/// The cause of a failure on one line, for those whose sentences it concerns.
fn cause(failure: &Failure) -> String {
    let first = failure.message.lines().next().unwrap_or("it did not say why");
    format!("{}: {first}", failure.headline())
}

/// An address that is listened on.
struct Listening {
    listener: TcpListener,
    address: SocketAddr,
    runtime: tokio::runtime::Runtime,
}

impl Listening {
    fn open(address: &str) -> Result<Self, Refused> {
        let refused = |error: io::Error| {
            Refused(format!(
                "cannot listen on {address}: {error}; `--bind` takes an address of this machine and a free \
                 port, such as 127.0.0.1:8080, or port 0"
            ))
        };
        let listener = TcpListener::bind(address).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
        Ok(Self { listener, address, runtime })
    }

    /// Answers requests in another thread.
    fn serve(self, service: Service) -> io::Result<Server> {
        let Self { listener, runtime, .. } = self;
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = channel();
        let listener = {
            let _guard = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        thread::Builder::new().name("serve-http".into()).spawn(move || {
            runtime.block_on(http::serve(listener, service, stopped));
            drop(end);
        })?;
        Ok(Server { stop: Some(stop), ended })
    }
}

/// The thread that answers requests.
struct Server {
    stop: Option<oneshot::Sender<Infallible>>,
    /// Closed when the thread has ended.
    ended: Receiver<Infallible>,
}

impl Server {
    /// Accepts no further connection.
    fn close(&mut self) {
        self.stop = None;
    }

    /// The same, and waits so long for the answers to be written; [`LAST_ANSWERS`] once it is killed.
    fn end(&mut self, patience: Duration, is_killed: impl Fn() -> bool) {
        self.close();
        let mut until = Instant::now() + patience;
        while Instant::now() < until
            && self.ended.recv_timeout(POLL_INTERVAL) == Err(RecvTimeoutError::Timeout)
        {
            if is_killed() {
                until = until.min(Instant::now() + LAST_ANSWERS);
            }
        }
    }
}

/// When the server stops: after SIGTERM or the like, as soon as what is queued is answered.
struct Stopping<'a> {
    interrupts: &'a Interrupts,
    of_worker: Interrupts,
    queue: &'a Queue,
    deadline: Duration,
    since: Option<Instant>,
    server: Server,
}

impl Stopping<'_> {
    /// Does what signals ask for; answers whether the worker is to stop, too.
    fn look(&mut self) -> bool {
        if self.since.is_none() && self.interrupts.stop_requested() {
            self.since = Some(Instant::now());
            self.queue.close();
            self.server.close();
            say("stopping: what is queued is still translated; press Ctrl-C again to kill");
        }
        let Some(since) = self.since else { return false };
        if self.interrupts.kill_requested() || since.elapsed() >= self.deadline {
            self.of_worker.kill();
        } else if self.queue.is_empty() {
            self.of_worker.stop();
        }
        self.of_worker.stop_requested()
    }

    /// The end, when no worker is left.
    fn finish(mut self) -> Exit {
        let is_drained = self.queue.is_empty();
        self.queue.end(&Unanswered::Stopping);
        let left = self
            .since
            .map_or(Duration::ZERO, |since| self.deadline.saturating_sub(since.elapsed()));
        let is_killed = || self.interrupts.kill_requested();
        self.server.end(left.max(LAST_ANSWERS), is_killed);
        if is_drained {
            say("stopped; everything was answered");
            return Exit::Done;
        }
        if self.interrupts.kill_requested() {
            say("killed; not everything was answered");
            return Exit::Interrupted;
        }
        say(format_args!(
            "error: not everything was answered within {} s (cluster.deadlines.stop)",
            self.deadline.as_secs_f64()
        ));
        Exit::Deadline
    }
}

/// Follows a worker that serves.
struct Serving<'a, 'b> {
    stopping: &'a mut Stopping<'b>,
    metrics: &'a Metrics,
    link: Option<Link>,
    has_answered: bool,
}

impl Listener for Serving<'_, '_> {
    fn opened(&mut self, link: Link) {
        self.link = Some(link);
    }

    fn joined(&mut self, _rank: usize, host: &str, device: &str) {
        say(format_args!("loading the model on {host} ({device})"));
    }

    fn report(&mut self, _rank: usize, report: Report) {
        let queue = self.stopping.queue;
        match report {
            Report::Serving { batch_tokens, longest } => {
                if let Some(link) = &self.link {
                    queue.ready(link.clone(), batch_tokens, longest);
                    self.metrics.ready(true);
                    say("ready");
                }
            }
            Report::Began { sentences } => queue.began(&sentences),
            Report::Answered { answers } => {
                self.has_answered = true;
                queue.answered(answers);
            }
            Report::Notice { text } => say(format_args!("note: {text}")),
            _ => {}
        }
    }

    fn tick(&mut self) {
        self.stopping.look();
    }
}
