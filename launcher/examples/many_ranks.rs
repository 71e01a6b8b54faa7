//! Ranks that train nothing, for `make bench-scale`: they speak the control channel as training workers
//! do, and nothing else.
//!
//! In the place of mpirun, this one process plays all ranks of a run, each with a connection of its own,
//! all of which connect at once. Under a real mpirun it is one rank. `MANY_STEP_MS` is how long a step
//! takes. `MANY_FAULT` is `die:step` or `hang:step`, which befalls the rank in the middle: its connection
//! closes, or it falls silent. When something happened is appended to the file `MANY_TIMES`, as lines of
//! JSON.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, exit};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tandem_cluster::process;
use tandem_cluster::run::control::{HEARTBEAT, Invitation, Phase, Report};
use tandem_cluster::run::exit::Exit;
use tandem_cluster::run::records::{Memory, TrainingMetrics};

const CONNECTING: Duration = Duration::from_secs(60);
/// How often something is sent or read.
const TICK: Duration = Duration::from_millis(10);

fn main() -> Result<(), Box<dyn Error>> {
    let invitation = Invitation::from_env()?.ok_or("there is no launcher")?;
    let size = invitation.world_size;
    let single = std::env::var("OMPI_COMM_WORLD_RANK").ok().map(|rank| rank.parse()).transpose()?;
    let numbers = single.map_or(0..size, |rank: usize| rank..rank + 1);
    let joining: Vec<_> = numbers
        .map(|rank| {
            let invitation = invitation.clone();
            std::thread::spawn(move || Rank::join(&invitation, rank).map_err(|e| e.to_string()))
        })
        .collect();
    let mut ranks = Vec::new();
    for thread in joining {
        ranks.push(thread.join().map_err(|_| "a rank panicked")??);
    }
    note("joined", ranks.len())?;

    let step_time = Duration::from_millis(number("MANY_STEP_MS", 250));
    let fault = std::env::var("MANY_FAULT").unwrap_or_default();
    let fault = fault.split_once(':').map(|(kind, step)| (kind.to_owned(), step.parse::<u64>()));
    let (started, mut step) = (Instant::now(), 0);
    loop {
        let now = started.elapsed();
        let reached = 1 + (now.as_nanos() / step_time.as_nanos()) as u64;
        let is_new = reached > step;
        step = reached;
        for rank in &mut ranks {
            if is_new {
                rank.step(step)?;
            }
            if now >= rank.next_beat && !rank.is_silent {
                rank.next_beat = now + HEARTBEAT;
                rank.beat(step)?;
            }
            if rank.is_to_stop()? {
                rank.stops = true;
            }
        }
        if ranks.iter().all(|rank| rank.stops) {
            for rank in &mut ranks {
                rank.leave()?;
            }
            exit(Exit::Stopped.code().into());
        }
        if let Some((kind, Ok(at))) = &fault
            && step >= *at
            && let Some(victim) = ranks.iter_mut().find(|rank| rank.number == size / 2)
            && !victim.is_silent
        {
            note("fault", 1)?;
            victim.is_silent = true;
            match (kind.as_str(), single) {
                // As mpirun does when it has lost a process.
                ("die", None) => {
                    victim.stream.shutdown(std::net::Shutdown::Both)?;
                    std::thread::sleep(Duration::from_millis(100));
                    exit(137)
                }
                ("die", Some(_)) => process::kill(std::process::id()),
                ("hang", Some(_)) => {
                    let pid = std::process::id().to_string();
                    Command::new("kill").args(["-STOP", &pid]).status()?;
                }
                _ => {}
            }
        }
        std::thread::sleep(TICK);
    }
}

struct Rank {
    number: usize,
    stream: TcpStream,
    next_beat: Duration,
    progress: u64,
    reports: u64,
    is_silent: bool,
    stops: bool,
}

impl Rank {
    fn join(invitation: &Invitation, number: usize) -> Result<Self, Box<dyn Error>> {
        let address: SocketAddr =
            invitation.address.split(',').next().ok_or("no address")?.parse()?;
        let stream = TcpStream::connect_timeout(&address, CONNECTING)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(CONNECTING))?;
        // Heartbeats of different ranks do not come at the same moment.
        let spread = HEARTBEAT.mul_f64(number as f64 / invitation.world_size as f64);
        let mut rank = Self {
            number,
            stream,
            next_beat: spread,
            progress: 0,
            reports: 0,
            is_silent: false,
            stops: false,
        };
        rank.send(&json!({ "hello": {
            "secret": invitation.secret,
            "attempt": invitation.attempt,
            "rank": number,
            "world_size": invitation.world_size,
            "host": process::host_name(),
            "pid": std::process::id(),
            "number_space": process::number_space(),
            "device": "cpu",
        }}))?;
        let mut answer = [0; 256];
        let count = rank.stream.read(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer[..count]);
        if !answer.contains("welcome") {
            return Err(format!("rank {number} was answered {answer}").into());
        }
        rank.stream.set_nonblocking(true)?;
        Ok(rank)
    }

    /// What a worker sends of a step, besides heartbeats.
    fn step(&mut self, step: u64) -> Result<(), Box<dyn Error>> {
        self.progress += 1;
        if self.number == 0 {
            let metrics = TrainingMetrics { loss: 1.0, ..Default::default() };
            self.report(Report::Metrics { step, metrics })?;
        }
        if step.is_multiple_of(10) && !self.is_silent {
            let memory = Memory { resident: 1 << 30, gpu: None };
            self.report(Report::Pace { step, data: 0.0, compute: 1.0, memory })?;
        }
        Ok(())
    }

    fn beat(&mut self, step: u64) -> Result<(), Box<dyn Error>> {
        let (phase, progress) = (Phase::Train, self.progress);
        self.send(&json!({ "beat": { "phase": phase, "step": step, "progress": progress } }))
    }

    fn report(&mut self, report: Report) -> Result<(), Box<dyn Error>> {
        self.reports += 1;
        self.send(&json!({ "report": { "sequence": self.reports, "report": report } }))
    }

    fn leave(&mut self) -> Result<(), Box<dyn Error>> {
        let (sequence, exit_code) = (self.reports + 1, Exit::Stopped.code());
        self.send(&json!({ "goodbye": { "sequence": sequence, "exit_code": exit_code } }))
    }

    fn send(&mut self, message: &Value) -> Result<(), Box<dyn Error>> {
        Ok(self.stream.write_all(format!("{message}\n").as_bytes())?)
    }

    /// Reads what the coordinator has sent; ends the process with it.
    fn is_to_stop(&mut self) -> Result<bool, Box<dyn Error>> {
        let mut text = [0; 4096];
        match self.stream.read(&mut text) {
            Ok(0) => exit(Exit::Failed.code().into()),
            Ok(count) => Ok(self.stops || String::from_utf8_lossy(&text[..count]).contains("stop")),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(self.stops),
            Err(error) => Err(error.into()),
        }
    }
}

fn note(what: &str, ranks: usize) -> Result<(), Box<dyn Error>> {
    let Ok(path) = std::env::var("MANY_TIMES") else { return Ok(()) };
    let time = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    let line = json!({ "what": what, "ranks": ranks, "time": time });
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    Ok(file.write_all(format!("{line}\n").as_bytes())?)
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
