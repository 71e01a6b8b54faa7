//! The faults, and the run that they strike.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use tandem_tests::live::{Launch, Run, eventually, limit_files, try_send};
use tandem_tests::seeded::Seeded;
use tandem_tests::{processes, program, trace};

/// What happens to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    KilledWorker,
    KilledEngine,
    KilledLauncher,
    /// Stopped for good, as by SIGSTOP.
    StoppedWorker,
    /// Stopped for three seconds.
    StoppedLauncher,
    /// Stopped and continued in turn, so that it has a fraction of its CPU's time.
    SlowWorker,
    HungDataThread,
    /// `tandem stop`, and another launch.
    Stop,
    /// The launcher is killed, and a bit of a file of the newest checkpoint is another.
    FlippedBit,
    FullDiskOfWorker,
    FullDiskOfLauncher,
    ReadOnlyFolder,
}

pub const FAULTS: [Fault; 12] = [
    Fault::KilledWorker,
    Fault::KilledEngine,
    Fault::KilledLauncher,
    Fault::StoppedWorker,
    Fault::StoppedLauncher,
    Fault::SlowWorker,
    Fault::HungDataThread,
    Fault::Stop,
    Fault::FlippedBit,
    Fault::FullDiskOfWorker,
    Fault::FullDiskOfLauncher,
    Fault::ReadOnlyFolder,
];

/// Deals faults in random order; each comes once before any comes again.
pub struct Deck {
    seeded: Seeded,
    left: Vec<Fault>,
}

impl Deck {
    pub fn new(seeded: Seeded) -> Self {
        Self { seeded, left: Vec::new() }
    }

    pub fn draw(&mut self) -> Fault {
        if self.left.is_empty() {
            self.left = FAULTS.into();
            self.seeded.shuffle(&mut self.left);
        }
        self.left.pop().expect("it was filled")
    }

    /// Takes back one that found nothing to strike.
    pub fn put_back(&mut self, fault: Fault) {
        self.left.push(fault);
    }

    /// Where another stream of random numbers begins.
    pub fn seed(&mut self) -> Seeded {
        Seeded(self.seeded.below(u64::MAX))
    }
}

/// A run that is launched again whenever a fault ends its launcher.
pub struct Struck<'a> {
    run: &'a Run,
    launch: Launch,
    workers: usize,
    seeded: Seeded,
    held: Vec<JoinHandle<()>>,
}

impl<'a> Struck<'a> {
    pub fn start(run: &'a Run, workers: usize, seeded: Seeded) -> Self {
        Self { run, launch: run.start(&[]), workers, seeded, held: Vec::new() }
    }

    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Waits for a random moment, and for something to strike there; tells the moment. None if the
    /// run came to its end before.
    pub fn strike(&mut self, fault: Fault) -> Option<String> {
        // A while after a checkpoint, or wherever the run is when it recovers from what was before.
        let moment = if self.seeded.below(4) > 0 {
            let target = self.newest() + 4 * (1 + self.seeded.below(2));
            eventually("it gets on", || self.newest() >= target || self.launch.has_ended());
            sleep(Duration::from_millis(self.seeded.below(60)));
            format!("after step {target}")
        } else {
            let wait = Duration::from_millis(self.seeded.below(2500));
            sleep(wait);
            format!("{:.1} s later", wait.as_secs_f64())
        };
        let mut struck = false;
        eventually("there is something to strike", || {
            struck = !self.launch.has_ended() && self.try_to_strike(fault);
            struck || self.launch.has_ended()
        });
        struck.then_some(moment)
    }

    /// Waits for the end of the run, which must be a good one.
    pub fn finish(self) {
        self.launch.wait(0);
        self.held.into_iter().for_each(|holder| holder.join().expect("it ends with its process"));
    }

    fn newest(&self) -> u64 {
        self.run.checkpoints().pop().unwrap_or(0)
    }

    /// Does it, unless there is nothing to do it to.
    fn try_to_strike(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::KilledWorker => self.worker().is_some_and(|pid| try_send(pid, "KILL")),
            Fault::KilledEngine => self.engine().is_some_and(|pid| try_send(pid, "KILL")),
            Fault::KilledLauncher => {
                self.kill_launcher();
                self.launch = self.run.start(&[]);
                true
            }
            Fault::StoppedWorker => self.worker().is_some_and(|pid| try_send(pid, "STOP")),
            Fault::StoppedLauncher => {
                self.launch.signal("STOP");
                sleep(Duration::from_secs(3));
                self.launch.signal("CONT");
                true
            }
            Fault::SlowWorker => self.worker().is_some_and(slow_down),
            Fault::HungDataThread => self.hang_data(),
            Fault::Stop => self.stop(),
            Fault::FlippedBit => self.flip_bit(),
            Fault::FullDiskOfWorker => self.worker().is_some_and(|pid| self.fill_disk(pid)),
            Fault::FullDiskOfLauncher => self.fill_disk(self.launch.pid()),
            Fault::ReadOnlyFolder => self.forbid_writing(),
        }
    }

    fn worker(&mut self) -> Option<u32> {
        let running = processes::of_run("tandem-worker", self.run.folder());
        let index = self.seeded.below(running.len().max(1) as u64);
        running.get(index as usize).copied()
    }

    /// What started the workers; a single one was started by the launcher.
    fn engine(&mut self) -> Option<u32> {
        match self.workers {
            1 => self.worker(),
            _ => processes::of_run("mpirun", self.run.folder()).first().copied(),
        }
    }

    fn kill_launcher(&mut self) {
        self.launch.signal("KILL");
        eventually("the launcher is gone", || self.launch.has_ended());
        eventually("all are gone", || self.run.processes().is_empty());
    }

    fn hang_data(&mut self) -> bool {
        let thread = self.worker().and_then(|pid| processes::thread(pid, "prefetch"));
        self.held.extend(thread.map(trace::hold));
        thread.is_some()
    }

    fn stop(&mut self) -> bool {
        let asked = program("tandem").arg("stop").arg(self.run.folder()).output();
        if !asked.expect("tandem stop").status.success() {
            return false;
        }
        eventually("it ends", || self.launch.has_ended());
        let launch = std::mem::replace(&mut self.launch, self.run.start(&[]));
        // It may have been done already, or an earlier fault may have been noticed first.
        let ended = launch.wait_for_one_of(&[75, 0, 1]);
        if ended.code == Some(1) {
            ended.assert_said("next: a stop was asked for; the same command resumes from step ");
        }
        true
    }

    fn flip_bit(&mut self) -> bool {
        let newest = self.newest();
        if newest == 0 {
            return false;
        }
        self.kill_launcher();
        let files = std::fs::read_dir(self.run.checkpoint(newest)).expect("a checkpoint").flatten();
        let mut files: Vec<PathBuf> = files.map(|entry| entry.path()).collect();
        files.sort();
        let path = &files[self.seeded.below(files.len() as u64) as usize];
        let mut bytes = std::fs::read(path).expect("a file");
        let bit = self.seeded.below(bytes.len() as u64 * 8) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(path, bytes).expect("a file");
        self.launch = self.run.start(&[]);
        true
    }

    /// A process's disk is full for a while.
    fn fill_disk(&mut self, pid: u32) -> bool {
        let is_there = limit_files(pid, Some(100));
        self.wait_a_while();
        limit_files(pid, None);
        is_there
    }

    /// The checkpoints' folder is read-only for a while.
    fn forbid_writing(&mut self) -> bool {
        let folder = self.run.folder().join("checkpoints");
        let allow = |mode| std::fs::set_permissions(&folder, Permissions::from_mode(mode)).is_ok();
        let is_there = allow(0o555);
        self.wait_a_while();
        allow(0o755);
        is_there
    }

    fn wait_a_while(&mut self) {
        sleep(Duration::from_millis(100 + self.seeded.below(400)));
    }
}

/// Lets a process have a tenth of the time for two seconds; answers whether it lived that long.
fn slow_down(pid: u32) -> bool {
    (0..20).all(|_| {
        let stopped = try_send(pid, "STOP");
        sleep(Duration::from_millis(90));
        let continued = try_send(pid, "CONT");
        sleep(Duration::from_millis(10));
        stopped && continued
    })
}
