//! A worker's end of the control channel.
//!
//! Training never waits for it: phases are atomics, reports are queued, and two threads do the
//! talking. When the coordinator is gone the process ends at once, wherever it is.

use std::collections::VecDeque;
use std::io::{self, BufReader};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::message::{Downward, Hello, Phase, Report, Sentence, Upward, receive, send};
use super::{ADDRESS_VARIABLE, ATTEMPT_VARIABLE, SECRET_VARIABLE, WORLD_SIZE_VARIABLE};
use super::{CONNECTION_TIMEOUT, ControlError, HEARTBEAT};
use crate::hosts::network;
use crate::process;
use crate::run::exit::Exit;
use crate::slurm;

/// How long connecting and the coordinator's answer may take.
const JOIN_DEADLINE: Duration = Duration::from_secs(30);
/// How long a goodbye waits for its reports to arrive.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(10);

/// What the launcher's variables say: which group of workers this one belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The coordinator's addresses, with commas between.
    pub address: String,
    /// The group's secret.
    pub secret: String,
    /// The number of the group's attempt.
    pub attempt: u64,
    /// How many workers the launcher started.
    pub world_size: usize,
}

impl Invitation {
    /// Reads the variables; none where there is no launcher.
    ///
    /// # Errors
    /// Incomplete variables.
    pub fn from_env() -> Result<Option<Self>, ControlError> {
        Self::read(&|variable| std::env::var(variable).ok())
    }

    fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, ControlError> {
        let Some(address) = variable(ADDRESS_VARIABLE) else { return Ok(None) };
        Ok(Some(Self {
            address,
            secret: variable(SECRET_VARIABLE).unwrap_or_default(),
            attempt: number(variable, ATTEMPT_VARIABLE)?,
            world_size: number(variable, WORLD_SIZE_VARIABLE)? as usize,
        }))
    }
}

/// How many workers were started together: by the launcher, or by an mpirun that sets the variable; else
/// one.
///
/// # Errors
/// A variable that is no number.
pub fn world_size() -> Result<usize, ControlError> {
    let variable = |variable: &str| std::env::var(variable).ok();
    match variable(WORLD_SIZE_VARIABLE) {
        Some(_) => Ok(number(&variable, WORLD_SIZE_VARIABLE)? as usize),
        None => Ok(1),
    }
}

fn number(
    variable: &dyn Fn(&str) -> Option<String>,
    name: &'static str,
) -> Result<u64, ControlError> {
    let value = variable(name).unwrap_or_default();
    let expected = "a number";
    value.parse().map_err(|_| ControlError::Variable { variable: name, value, expected })
}

/// A worker's connection to its coordinator. Clones are the same session.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
}

struct Shared {
    stream: TcpStream,
    queue: Mutex<Queue>,
    changed: Condvar,
    inbox: Mutex<Vec<Sentence>>,
    /// The inbox has something, or the worker is to stop.
    called: Condvar,
    phase: AtomicU8,
    step: AtomicU64,
    progress: AtomicU64,
    stop: AtomicBool,
    checkpoint: AtomicBool,
    leaving: AtomicBool,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Upward>,
    /// How many reports have been queued.
    queued: u64,
    /// How many of them the coordinator has.
    received: u64,
}

impl Session {
    /// Joins the coordinator that invited this rank, which computes on `device`.
    ///
    /// # Errors
    /// A coordinator that cannot be reached or that refuses this worker.
    pub fn start(invitation: &Invitation, rank: usize, device: &str) -> Result<Self, ControlError> {
        let hello = Hello {
            secret: invitation.secret.clone(),
            attempt: invitation.attempt,
            rank,
            world_size: invitation.world_size,
            host: network::own_name(),
            pid: std::process::id(),
            number_space: process::number_space(),
            device: device.into(),
        };
        if slurm::Job::this().is_some() {
            // Slurm signals every process of the job; the signal is for the launcher.
            process::ignore_requests_to_end();
        }
        // A stopped process cannot see that the connection is closed; the kernel ends it.
        if let Err(error) = process::die_with_parent() {
            process::say(format_args!(
                "control: this worker may outlive its launcher while stopped: {error}"
            ));
        }
        Self::join(&invitation.address, hello, end_process)
    }

    /// `lost` runs on a thread of the session when the coordinator has gone.
    pub(super) fn join(address: &str, hello: Hello, lost: fn(&str)) -> Result<Self, ControlError> {
        let unreachable = |source| ControlError::Unreachable { address: address.into(), source };
        let stream = connect(address).map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        // Heartbeats that nobody acknowledges end a worker whose network is gone.
        socket2::SockRef::from(&stream)
            .set_tcp_user_timeout(Some(CONNECTION_TIMEOUT))
            .map_err(unreachable)?;
        stream.set_read_timeout(Some(JOIN_DEADLINE)).map_err(unreachable)?;
        send(&stream, &Upward::Hello(hello)).map_err(unreachable)?;
        let mut incoming = BufReader::new(stream.try_clone().map_err(unreachable)?);
        match receive(&mut incoming) {
            Ok(Some(Downward::Welcome)) => {}
            Ok(Some(Downward::Refused { reason })) => {
                return Err(ControlError::Refused { address: address.into(), reason });
            }
            Ok(other) => {
                let reason = format!("it said {other:?} instead of a welcome");
                return Err(ControlError::Protocol { address: address.into(), reason });
            }
            Err(error) => {
                let reason = error.to_string();
                return Err(ControlError::Protocol { address: address.into(), reason });
            }
        }
        stream.set_read_timeout(None).map_err(unreachable)?;

        let shared = Arc::new(Shared {
            stream,
            queue: Mutex::default(),
            changed: Condvar::new(),
            inbox: Mutex::default(),
            called: Condvar::new(),
            phase: AtomicU8::new(Phase::Start.number()),
            step: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            checkpoint: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
        });
        let speaker = Arc::clone(&shared);
        let listener = Arc::clone(&shared);
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        thread("control-send").spawn(move || speaker.speak(lost)).map_err(unreachable)?;
        thread("control-receive")
            .spawn(move || listener.listen(incoming, lost))
            .map_err(unreachable)?;
        Ok(Self { shared })
    }

    /// What this rank does now. Each call counts as progress.
    pub fn phase(&self, phase: Phase, step: u64) {
        self.shared.phase.store(phase.number(), Ordering::Relaxed);
        self.shared.step.store(step, Ordering::Relaxed);
        self.shared.progress.fetch_add(1, Ordering::Release);
    }

    /// Queues a report; never waits.
    pub fn report(&self, report: Report) {
        self.shared.enqueue(|sequence| Upward::Report { sequence, report });
    }

    /// The sentences that the coordinator has sent since this was last read; waits up to `wait` for the first
    /// one, or until the worker is to stop.
    pub fn sentences(&self, wait: Duration) -> Vec<Sentence> {
        let inbox = self.shared.inbox();
        let is_quiet = |inbox: &mut Vec<Sentence>| inbox.is_empty() && !self.stop_requested();
        let (mut inbox, _) = self
            .shared
            .called
            .wait_timeout_while(inbox, wait, is_quiet)
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut inbox)
    }

    /// Whether the coordinator asked to write a checkpoint and stop.
    pub fn stop_requested(&self) -> bool {
        self.shared.stop.load(Ordering::Acquire)
    }

    /// Whether the coordinator asked for a checkpoint since this was last read.
    pub fn checkpoint_requested(&self) -> bool {
        self.shared.checkpoint.swap(false, Ordering::AcqRel)
    }

    /// Waits until the coordinator has every report queued so far.
    ///
    /// # Errors
    /// When it has not after `deadline`.
    pub fn wait_delivered(&self, deadline: Duration) -> Result<(), ControlError> {
        let queue = self.shared.queue();
        let last = queue.queued;
        let (queue, _) = self
            .shared
            .changed
            .wait_timeout_while(queue, deadline, |queue| queue.received < last)
            .unwrap_or_else(PoisonError::into_inner);
        match last.saturating_sub(queue.received) {
            0 => Ok(()),
            waiting => Err(ControlError::NotDelivered { waiting, deadline }),
        }
    }

    /// Takes leave: sends what is queued, then how this process will end.
    pub fn goodbye(self, exit: Exit) {
        let exit_code = exit.code().into();
        self.shared.leaving.store(true, Ordering::Release);
        self.shared.enqueue(|sequence| Upward::Goodbye { sequence, exit_code });
        // A coordinator that does not answer now will see the connection close instead.
        if let Err(error) = self.wait_delivered(GOODBYE_DEADLINE) {
            process::say(format_args!("control: took leave without an answer: {error}"));
        }
        let _ = self.shared.stream.shutdown(Shutdown::Both);
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inbox(&self) -> MutexGuard<'_, Vec<Sentence>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(&self, message: impl FnOnce(u64) -> Upward) {
        let mut queue = self.queue();
        queue.queued += 1;
        let message = message(queue.queued);
        queue.waiting.push_back(message);
        self.changed.notify_all();
    }

    fn speak(&self, lost: fn(&str)) {
        let mut next_beat = Instant::now();
        loop {
            let wait = next_beat.saturating_duration_since(Instant::now());
            let messages = {
                let (mut queue, _) = self
                    .changed
                    .wait_timeout_while(self.queue(), wait, |queue| queue.waiting.is_empty())
                    .unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut queue.waiting)
            };
            next_beat = Instant::now() + HEARTBEAT;
            // First of all where this rank is, so that reports are seen in their place.
            let mut sent = self.beat().and_then(|beat| send(&self.stream, &beat));
            for message in messages {
                sent = sent.and_then(|()| send(&self.stream, &message));
            }
            if let Err(error) = sent {
                return self.end(lost, &error.to_string());
            }
        }
    }

    fn beat(&self) -> io::Result<Upward> {
        let progress = self.progress.load(Ordering::Acquire);
        let phase = Phase::try_from(self.phase.load(Ordering::Relaxed));
        let phase = phase.map_err(io::Error::other)?;
        Ok(Upward::Beat { phase, step: self.step.load(Ordering::Relaxed), progress })
    }

    fn listen(&self, mut incoming: BufReader<TcpStream>, lost: fn(&str)) {
        loop {
            match receive(&mut incoming) {
                Ok(Some(Downward::Received { sequence })) => {
                    self.queue().received = sequence;
                    self.changed.notify_all();
                }
                Ok(Some(Downward::Stop)) => {
                    // Under the lock: whoever waits for sentences must not miss it.
                    let _inbox = self.inbox();
                    self.stop.store(true, Ordering::Release);
                    self.called.notify_all();
                }
                Ok(Some(Downward::Translate { sentences })) => {
                    self.inbox().extend(sentences);
                    self.called.notify_all();
                }
                Ok(Some(Downward::Checkpoint)) => self.checkpoint.store(true, Ordering::Release),
                Ok(Some(Downward::Welcome | Downward::Refused { .. })) => {}
                Ok(None) => return self.end(lost, "the connection was closed"),
                Err(error) => return self.end(lost, &error.to_string()),
            }
        }
    }

    fn end(&self, lost: fn(&str), reason: &str) {
        if !self.leaving.load(Ordering::Acquire) {
            lost(reason);
        }
    }
}

/// Connects to the first of these addresses that answers.
fn connect(addresses: &str) -> io::Result<TcpStream> {
    let addresses = socket_addresses(addresses);
    let each = JOIN_DEADLINE / addresses.len().max(1) as u32;
    let mut failure = io::Error::new(io::ErrorKind::InvalidInput, "it is no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, each) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn socket_addresses(list: &str) -> Vec<SocketAddr> {
    list.split(',').filter_map(|address| address.parse().ok()).collect()
}

/// The interface by which a worker reaches its coordinator on another machine.
pub fn interface() -> Option<String> {
    let addresses = socket_addresses(&std::env::var(ADDRESS_VARIABLE).ok()?);
    network::interface_towards(addresses.iter().map(SocketAddr::ip))
}

fn end_process(reason: &str) {
    process::say(format_args!("control: lost the coordinator ({reason}); this worker ends"));
    process::exit_now(Exit::Failed.code().into())
}

#[cfg(test)]
mod tests {
    use super::super::server::{Event, Server};
    use super::*;
    use std::net::{IpAddr, Ipv4Addr, TcpListener};

    const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const PATIENCE: Duration = Duration::from_secs(10);

    fn server(world_size: usize) -> Server {
        Server::bind(&[], 4, "secret".into(), world_size).unwrap()
    }

    fn hello(rank: usize, world_size: usize) -> Hello {
        Hello {
            secret: "secret".into(),
            attempt: 4,
            rank,
            world_size,
            host: "here".into(),
            pid: 1,
            number_space: process::number_space(),
            device: "cpu".into(),
        }
    }

    fn join(server: &Server, hello: Hello) -> Result<Session, ControlError> {
        Session::join(&server.address(), hello, |_| {})
    }

    /// The next event that is no heartbeat.
    fn next(server: &Server) -> Event {
        loop {
            match server.next(PATIENCE).expect("something happens") {
                Event::Beat { .. } => {}
                event => return event,
            }
        }
    }

    fn eventually(mut fact: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !fact() {
            assert!(Instant::now() < deadline, "it never came true");
            std::thread::yield_now();
        }
    }

    #[test]
    fn an_invitation_is_complete_or_an_error() {
        let whole = [
            (ADDRESS_VARIABLE, "1.2.3.4:5"),
            (SECRET_VARIABLE, "secret"),
            (ATTEMPT_VARIABLE, "7"),
            (WORLD_SIZE_VARIABLE, "2"),
        ];
        let read = |variables: &[(&str, &str)]| {
            let found = |name: &str| variables.iter().find(|(known, _)| *known == name);
            Invitation::read(&|name| found(name).map(|(_, value)| (*value).to_owned()))
        };
        let invitation = read(&whole).unwrap().unwrap();
        assert_eq!((invitation.attempt, invitation.world_size), (7, 2));
        assert_eq!(read(&[]).unwrap(), None);
        for missing in [ATTEMPT_VARIABLE, WORLD_SIZE_VARIABLE] {
            let rest: Vec<_> = whole.into_iter().filter(|(name, _)| *name != missing).collect();
            let error = read(&rest).unwrap_err().to_string();
            assert!(error.contains(&format!("{missing} is ``, which is not a number")), "{error}");
        }
    }

    #[test]
    fn reports_arrive_in_order_and_before_the_goodbye() {
        let server = server(1);
        let session = join(&server, hello(0, 1)).unwrap();
        assert!(matches!(next(&server), Event::Joined { rank: 0, .. }));
        for step in 1..=100 {
            session.report(Report::CheckpointWritten { step });
        }
        session.wait_delivered(PATIENCE).unwrap();
        session.report(Report::Notice { text: "bye".into() });
        session.goodbye(Exit::Stopped);
        for step in 1..=100 {
            let report = Report::CheckpointWritten { step };
            assert_eq!(next(&server), Event::Report { rank: 0, report });
        }
        let report = Report::Notice { text: "bye".into() };
        assert_eq!(next(&server), Event::Report { rank: 0, report });
        assert_eq!(
            next(&server),
            Event::Left { rank: 0, goodbye: Some(Exit::Stopped.code().into()) }
        );
    }

    #[test]
    fn a_process_is_known_by_its_number_on_this_machine_alone() {
        let server = server(2);
        let of_another = Hello { number_space: "elsewhere".into(), ..hello(1, 2) };
        for (hello, number) in [(hello(0, 2), Some(1)), (of_another, None)] {
            let _session = join(&server, hello).unwrap();
            let joined = std::iter::repeat_with(|| next(&server)).find_map(|event| match event {
                Event::Joined { address, pid, .. } => Some((address, pid)),
                _ => None,
            });
            assert_eq!(joined, Some((HOST, number)));
        }
    }

    #[test]
    fn heartbeats_carry_phase_step_and_progress() {
        let server = server(1);
        let session = join(&server, hello(0, 1)).unwrap();
        session.phase(Phase::Start, 0);
        session.phase(Phase::Train, 9);
        let wanted = Event::Beat { rank: 0, phase: Phase::Train, step: 9, progress: 2 };
        eventually(|| server.next(PATIENCE) == Some(wanted.clone()));
    }

    #[test]
    fn strangers_are_refused_with_the_reason() {
        let server = server(2);
        let _first = join(&server, hello(0, 2)).unwrap();
        let cases = [
            (Hello { secret: "guess".into(), ..hello(1, 2) }, "another secret"),
            (Hello { attempt: 3, ..hello(1, 2) }, "attempt 3, and this is attempt 4"),
            (hello(1, 3), "rank 1 of 3, and this group has 2"),
            (hello(2, 2), "rank 2 of 2"),
            (hello(0, 2), "there is a rank 0 already"),
        ];
        assert!(matches!(next(&server), Event::Joined { rank: 0, .. }));
        for (stranger, wanted) in cases {
            let error = join(&server, stranger).err().expect("refused").to_string();
            assert!(error.contains(wanted), "{error}");
            assert!(
                matches!(next(&server), Event::Refused { reason, .. } if reason.contains(wanted))
            );
        }
    }

    #[test]
    fn a_death_is_a_close_without_goodbye() {
        let server = server(1);
        let session = join(&server, hello(0, 1)).unwrap();
        session.shared.stream.shutdown(Shutdown::Both).unwrap();
        assert!(matches!(next(&server), Event::Joined { rank: 0, .. }));
        assert_eq!(next(&server), Event::Left { rank: 0, goodbye: None });
    }

    #[test]
    fn a_stop_reaches_those_who_are_here_and_those_who_come() {
        let server = server(2);
        let here = join(&server, hello(0, 2)).unwrap();
        assert!(!here.stop_requested());
        server.stop();
        eventually(|| here.stop_requested());
        let late = join(&server, hello(1, 2)).unwrap();
        eventually(|| late.stop_requested());
    }

    #[test]
    fn a_checkpoint_is_asked_for_once() {
        let server = server(1);
        let session = join(&server, hello(0, 1)).unwrap();
        server.checkpoint();
        eventually(|| session.checkpoint_requested());
        assert!(!session.checkpoint_requested());
    }

    #[test]
    fn sentences_arrive_in_order_and_a_stop_ends_the_wait_for_them() {
        let server = server(1);
        let session = join(&server, hello(0, 1)).unwrap();
        assert_eq!(session.sentences(Duration::ZERO), []);
        let sentence = |id| Sentence { id, text: format!("Satz {id}\u{2028}") };
        let link = server.link();
        for id in 0..10 {
            link.translate(vec![sentence(2 * id), sentence(2 * id + 1)]);
        }
        let mut found = Vec::new();
        while found.len() < 20 {
            let more = session.sentences(PATIENCE);
            assert!(!more.is_empty(), "only {} sentences have arrived", found.len());
            found.extend(more);
        }
        assert_eq!(found, (0..20).map(sentence).collect::<Vec<_>>());
        let waiting = std::thread::spawn({
            let session = session.clone();
            move || session.sentences(100 * PATIENCE)
        });
        server.stop();
        assert_eq!(waiting.join().unwrap(), []);
    }

    #[test]
    fn a_lost_coordinator_is_noticed() {
        static LOST: AtomicBool = AtomicBool::new(false);
        let server = server(1);
        let address = server.address();
        let lost = |_: &str| LOST.store(true, Ordering::SeqCst);
        let _session = Session::join(&address, hello(0, 1), lost).unwrap();
        drop(server);
        eventually(|| LOST.load(Ordering::SeqCst));
        assert!(Session::join(&address, hello(0, 1), |_| {}).is_err());
    }

    #[test]
    fn a_coordinator_that_reads_nothing_holds_nobody_up() {
        let listener = TcpListener::bind((HOST, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let door = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            send(&stream, &Downward::Welcome).unwrap();
            stream
        });
        let session = Session::join(&address, hello(0, 1), |_| {}).unwrap();
        let _silent = door.join().unwrap();
        for _ in 0..1000 {
            session.report(Report::Notice { text: "x".repeat(10_000) });
        }
        let error = session.wait_delivered(Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("1000 reports were not acknowledged"), "{error}");
    }
}
