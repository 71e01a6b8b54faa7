//! The coordinator's end of the control channel: one server for each group of workers.

use std::collections::BTreeMap;
use std::io::{self, BufReader};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::message::{Downward, Hello, Phase, Report, Sentence, Upward, receive, send};
use super::{ADDRESS_VARIABLE, ATTEMPT_VARIABLE, SECRET_VARIABLE, WORLD_SIZE_VARIABLE};
use crate::hosts::network;
use crate::process;

/// How long a connection may stay silent before its hello.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// How long a write to one worker may take; its socket's buffer holds thousands of messages.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);

/// How many connections may wait to be accepted; the system may allow fewer.
const BACKLOG: i32 = 4096;
/// How long nothing is accepted after a connection could not be.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// What happened to a group of workers.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A rank has connected.
    Joined {
        /// Which one.
        rank: usize,
        /// What its machine calls itself.
        host: String,
        /// From where it has connected.
        address: IpAddr,
        /// The number of its process, if that is on this machine.
        pid: Option<u32>,
        /// What it computes on.
        device: String,
    },
    /// A rank's heartbeat.
    Beat {
        /// Which one.
        rank: usize,
        /// What it does.
        phase: Phase,
        /// At which optimizer step.
        step: u64,
        /// How often it has set its phase: this grows as long as the rank makes progress.
        progress: u64,
    },
    /// A rank's report.
    Report {
        /// Which one.
        rank: usize,
        /// What it says.
        report: Report,
    },
    /// A rank's connection is closed.
    Left {
        /// Which one.
        rank: usize,
        /// The exit code that it announced; none is a death.
        goodbye: Option<i32>,
    },
    /// Somebody was turned away.
    Refused {
        /// From where.
        peer: SocketAddr,
        /// Why.
        reason: String,
    },
}

/// By which other threads than a [`Server`]'s give its workers something to do.
#[derive(Clone)]
pub struct Link {
    shared: Arc<Shared>,
}

impl Link {
    /// Sends sentences to a group of one worker, which reports what becomes of each. What a worker does not
    /// get, because it is gone, is not told here: its end is an event.
    pub fn translate(&self, sentences: Vec<Sentence>) {
        self.shared.send_all(&Downward::Translate { sentences });
    }
}

/// Listens for the workers of one attempt.
pub struct Server {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    events: Receiver<Event>,
}

struct Shared {
    secret: String,
    attempt: u64,
    world_size: usize,
    members: Mutex<BTreeMap<usize, Arc<TcpStream>>>,
    stopping: AtomicBool,
    closed: AtomicBool,
}

impl Server {
    /// Listens on a free port: for all machines where others see this one by `addresses`, else for
    /// this machine alone.
    ///
    /// # Errors
    /// Where the system gives no port.
    pub fn bind(
        addresses: &[IpAddr],
        attempt: u64,
        secret: String,
        world_size: usize,
    ) -> io::Result<Self> {
        // MPI, too, needs the way to this machine.
        let here = network::listen_here()?;
        let listener = match addresses {
            [] => here,
            _ => network::listen_to_all()?,
        };
        let_many_connect(&listener)?;
        let own = listener.local_addr()?;
        let seen = |address: &IpAddr| SocketAddr::new(*address, own.port());
        let addresses = match addresses {
            [] => vec![own],
            _ => addresses.iter().map(seen).collect(),
        };
        let shared = Arc::new(Shared {
            secret,
            attempt,
            world_size,
            members: Mutex::default(),
            stopping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        });
        let (sender, events) = channel();
        let door = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("control-accept".into())
            .spawn(move || door.accept(&listener, &sender))?;
        Ok(Self { addresses, shared, events })
    }

    /// Where workers connect to: one of these, with commas between.
    pub fn address(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(SocketAddr::to_string).collect();
        addresses.join(",")
    }

    /// The variables by which workers find this server.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            (ADDRESS_VARIABLE, self.address()),
            (SECRET_VARIABLE, self.shared.secret.clone()),
            (ATTEMPT_VARIABLE, self.shared.attempt.to_string()),
            (WORLD_SIZE_VARIABLE, self.shared.world_size.to_string()),
        ]
    }

    /// A way to the workers for other threads.
    pub fn link(&self) -> Link {
        Link { shared: Arc::clone(&self.shared) }
    }

    /// The next event; none if nothing happens within `wait`.
    pub fn next(&self, wait: Duration) -> Option<Event> {
        self.events.recv_timeout(wait).ok()
    }

    /// Asks every rank, also those still to come, to write a checkpoint and stop.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.send_all(&Downward::Stop);
    }

    /// Asks every rank for a checkpoint now.
    pub fn checkpoint(&self) {
        self.shared.send_all(&Downward::Checkpoint);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        // The accepting thread is woken by one more connection.
        let _ = TcpStream::connect_timeout(&self.addresses[0], WRITE_DEADLINE);
        for stream in self.shared.members().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn members(&self) -> MutexGuard<'_, BTreeMap<usize, Arc<TcpStream>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send_all(&self, message: &Downward) {
        for stream in self.members().values() {
            // A worker that cannot be written to is about to be reported as gone.
            let _ = send(&**stream, message);
        }
    }

    fn accept(self: Arc<Self>, listener: &TcpListener, events: &Sender<Event>) {
        for stream in listener.incoming() {
            if self.closed.load(Ordering::SeqCst) {
                return;
            }
            let Ok(stream) = stream else {
                // For want of files or memory, of which there may be more when others have left.
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            };
            let (shared, events) = (Arc::clone(&self), events.clone());
            // Without a thread the connection is dropped, which the worker reports.
            let _ = std::thread::Builder::new()
                .name("control-member".into())
                .spawn(move || shared.serve(&Arc::new(stream), &events));
        }
    }

    fn serve(&self, stream: &Arc<TcpStream>, events: &Sender<Event>) {
        let Ok(peer) = stream.peer_addr() else { return };
        let Ok(mut incoming) = prepare(stream) else { return };
        let hello = match receive(&mut incoming) {
            Ok(Some(Upward::Hello(hello))) => hello,
            Ok(Some(_)) => {
                return self.refuse(stream, peer, "it did not introduce itself", events);
            }
            Ok(None) => return,
            Err(error) => return self.refuse(stream, peer, &error.to_string(), events),
        };
        let rank = hello.rank;
        if let Err(reason) = self.admit(&hello, stream) {
            return self.refuse(stream, peer, &reason, events);
        }
        let Hello { host, device, .. } = hello;
        let pid = (hello.number_space == process::number_space()).then_some(hello.pid);
        let address = peer.ip().to_canonical();
        // Nobody receives events any more when the server is being dropped.
        let _ = events.send(Event::Joined { rank, host, address, pid, device });
        let goodbye = self.follow(rank, &mut incoming, stream, events);
        self.members().remove(&rank);
        let _ = stream.shutdown(Shutdown::Both);
        let _ = events.send(Event::Left { rank, goodbye });
    }

    /// Checks a hello and answers it; no other message may overtake the welcome.
    fn admit(&self, hello: &Hello, stream: &Arc<TcpStream>) -> Result<(), String> {
        if hello.secret != self.secret {
            return Err("it has another secret".into());
        }
        if hello.attempt != self.attempt {
            let (theirs, ours) = (hello.attempt, self.attempt);
            return Err(format!("it belongs to attempt {theirs}, and this is attempt {ours}"));
        }
        if hello.world_size != self.world_size || hello.rank >= self.world_size {
            let (rank, theirs, ours) = (hello.rank, hello.world_size, self.world_size);
            return Err(format!("it is rank {rank} of {theirs}, and this group has {ours} ranks"));
        }
        let mut members = self.members();
        if self.closed.load(Ordering::SeqCst) {
            return Err("the attempt has ended".into());
        }
        if members.contains_key(&hello.rank) {
            return Err(format!("there is a rank {} already", hello.rank));
        }
        let failed = |error: io::Error| error.to_string();
        send(&**stream, &Downward::Welcome).map_err(failed)?;
        if self.stopping.load(Ordering::SeqCst) {
            send(&**stream, &Downward::Stop).map_err(failed)?;
        }
        stream.set_read_timeout(None).map_err(failed)?;
        members.insert(hello.rank, Arc::clone(stream));
        Ok(())
    }

    fn refuse(&self, stream: &TcpStream, peer: SocketAddr, reason: &str, events: &Sender<Event>) {
        let _ = send(stream, &Downward::Refused { reason: reason.into() });
        let _ = events.send(Event::Refused { peer, reason: reason.into() });
    }

    /// Passes a rank's messages on until its connection closes; the exit code of its goodbye.
    fn follow(
        &self,
        rank: usize,
        incoming: &mut BufReader<&TcpStream>,
        stream: &TcpStream,
        events: &Sender<Event>,
    ) -> Option<i32> {
        let mut goodbye = None;
        loop {
            let received = match receive(incoming) {
                Ok(Some(Upward::Beat { phase, step, progress })) => {
                    let _ = events.send(Event::Beat { rank, phase, step, progress });
                    continue;
                }
                Ok(Some(Upward::Report { sequence, report })) => {
                    let _ = events.send(Event::Report { rank, report });
                    sequence
                }
                Ok(Some(Upward::Goodbye { sequence, exit_code })) => {
                    goodbye = Some(exit_code);
                    sequence
                }
                Ok(Some(Upward::Hello(_))) => continue,
                Ok(None) => return goodbye,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    let message = format!("it sent a message that cannot be read: {error}");
                    let report = Report::Failed { message, backtrace: String::new() };
                    let _ = events.send(Event::Report { rank, report });
                    return goodbye;
                }
                Err(_) => return goodbye,
            };
            // One message at a time: a stop must not land in the middle of an answer.
            let _members = self.members();
            if send(stream, &Downward::Received { sequence: received }).is_err() {
                return goodbye;
            }
        }
    }
}

/// Lets all ranks of a large group connect at the same moment: where the queue of a listener is full, the
/// system lets a connection wait for seconds.
fn let_many_connect(listener: &TcpListener) -> io::Result<()> {
    // On a socket that listens already, this changes the length of its queue.
    socket2::SockRef::from(listener).listen(BACKLOG)
}

/// A rank's connection takes one open file, of which a process may often have 1024.
fn prepare(stream: &TcpStream) -> io::Result<BufReader<&TcpStream>> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(WRITE_DEADLINE))?;
    stream.set_read_timeout(Some(HELLO_DEADLINE))?;
    Ok(BufReader::new(stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_may_connect_before_any_is_accepted() {
        let listener = network::listen_here().unwrap();
        let_many_connect(&listener).unwrap();
        let address = listener.local_addr().unwrap();
        let connect = |_| TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
        let waiting: Vec<TcpStream> = (0..300).map(connect).collect();
        assert_eq!(waiting.len(), 300);
    }
}
