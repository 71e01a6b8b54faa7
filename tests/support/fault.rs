//! The faults of a test of chaos, and the run that they strike.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use crate::hosts::Hosts;
use crate::launch::Launch;
use crate::live::{Run, eventually, limit_files, try_send};
use crate::poison::poison;
use crate::seeded::Seeded;
use crate::{Ended, processes, trace};

/// What happens to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// One of them, at once.
    KilledWorker,
    /// What started the workers: mpirun.
    KilledEngine,
    /// By SIGKILL; it is launched again when nothing is left.
    KilledLauncher,
    /// Stopped for good, as by SIGSTOP.
    StoppedWorker,
    /// Stopped for three seconds.
    StoppedLauncher,
    /// Stopped and continued in turn, so that it has a fraction of its CPU's time.
    SlowWorker,
    /// The thread that makes batches, which never gets on.
    HungDataThread,
    /// `tandem stop`, and another launch.
    Stop,
    /// The launcher is killed, and a bit of a file of the newest checkpoint is another.
    FlippedBit,
    /// For a while.
    FullDiskOfWorker,
    /// For a while.
    FullDiskOfLauncher,
    /// The folder of the checkpoints, for a while.
    ReadOnlyFolder,
    /// The launcher is killed; the next launch is with another number of workers.
    OtherWorkers,
    /// A batch that cannot be learnt from, until the launcher says so and gives up.
    PoisonedBatch,
    /// A host is cut off for a moment.
    ShortCut,
    /// A host is cut off until it is missed.
    LongCut,
    /// The launcher is cut off from all hosts of workers for a while.
    CutOffLauncher,
    /// A host loses its power, and has it again later.
    PowerCut,
    /// The launcher's host does, and no host of workers hears of it before the next launch.
    PowerCutOfLauncher,
}

/// Those that can strike any run.
pub const ANYWHERE: [Fault; 14] = [
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
    Fault::OtherWorkers,
    Fault::PoisonedBatch,
];

/// Those that can strike a run on several hosts.
pub const NETWORK: [Fault; 5] = [
    Fault::ShortCut,
    Fault::LongCut,
    Fault::CutOffLauncher,
    Fault::PowerCut,
    Fault::PowerCutOfLauncher,
];

/// Deals faults in random order; each comes once before any comes again.
pub struct Deck {
    kinds: Vec<Fault>,
    seeded: Seeded,
    left: Vec<Fault>,
}

impl Deck {
    /// Of these kinds.
    pub fn new(kinds: Vec<Fault>, seeded: Seeded) -> Self {
        Self { kinds, seeded, left: Vec::new() }
    }

    /// The next one.
    pub fn draw(&mut self) -> Fault {
        if self.left.is_empty() {
            self.left.clone_from(&self.kinds);
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
    hosts: Option<&'a Hosts>,
    cache: &'a Path,
    launch: Launch,
    workers: usize,
    seeded: Seeded,
    held: Vec<JoinHandle<()>>,
}

impl<'a> Struck<'a> {
    /// Launches the run, whose tokenised data is in the `cache`, with so many workers.
    pub fn start(
        run: &'a Run,
        hosts: Option<&'a Hosts>,
        cache: &'a Path,
        workers: usize,
        seeded: Seeded,
    ) -> Self {
        let launch = launch(run, hosts, workers);
        Self { run, hosts, cache, launch, workers, seeded, held: Vec::new() }
    }

    /// How many workers it has now, if all hosts answer.
    pub fn workers(&self) -> usize {
        self.workers
    }

    fn launch_again(&mut self) {
        self.launch = launch(self.run, self.hosts, self.workers);
    }

    /// Waits for a random moment, and for something to strike there; tells the moment. None if the
    /// run came to its end before.
    ///
    /// # Panics
    /// If there is nothing to strike for minutes.
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
    ///
    /// # Panics
    /// If it is not.
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
                self.launch_again();
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
            Fault::OtherWorkers => {
                self.kill_launcher();
                let most = self.hosts.map_or(4, Hosts::count);
                let further = self.seeded.below(most as u64 - 1) as usize;
                self.workers = (self.workers + further) % most + 1;
                self.launch_again();
                true
            }
            Fault::PoisonedBatch => self.poison(),
            Fault::ShortCut => self.cut(200, 2000),
            Fault::LongCut => self.cut(8000, 12000),
            Fault::CutOffLauncher => self.cut_launcher(),
            Fault::PowerCut => self.power_cut(),
            Fault::PowerCutOfLauncher => self.power_cut_of_launcher(),
        }
    }

    fn worker(&mut self) -> Option<u32> {
        let running = self.run.workers();
        let index = self.seeded.below(running.len().max(1) as u64);
        running.get(index as usize).copied()
    }

    /// What started the workers; a single one was started by the launcher.
    fn engine(&mut self) -> Option<u32> {
        let engine = self.run.engines().first().copied();
        engine.or_else(|| if self.workers == 1 { self.worker() } else { None })
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
        if Ended::of(self.run.tandem(&["stop"]).arg(self.run.folder())).code != Some(0) {
            return false;
        }
        eventually("it ends", || self.launch.has_ended());
        let next = launch(self.run, self.hosts, self.workers);
        let launch = std::mem::replace(&mut self.launch, next);
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
        self.launch_again();
        true
    }

    fn poison(&mut self) -> bool {
        if self.worker().is_none() {
            return false;
        }
        self.kill_launcher();
        let Some(poisoned) = poison(self.cache) else {
            self.launch_again();
            return false;
        };
        self.launch_again();
        eventually("it gives up", || self.launch.has_ended());
        poisoned.cure();
        let next = launch(self.run, self.hosts, self.workers);
        let ended = std::mem::replace(&mut self.launch, next);
        // It may have had that batch behind it.
        let ended = ended.wait_for_one_of(&[93, 0]);
        if ended.code == Some(93) {
            ended.assert_said(" twice; do not retry");
            ended.assert_said(" of the samples ");
        }
        true
    }

    /// Cuts a host of workers off for as many milliseconds as are between these.
    fn cut(&mut self, least: u64, most: u64) -> bool {
        let Some((hosts, host)) = self.host() else { return false };
        hosts.cut(host);
        sleep(Duration::from_millis(least + self.seeded.below(most - least)));
        hosts.join(host);
        true
    }

    fn cut_launcher(&mut self) -> bool {
        let Some((hosts, _)) = self.host() else { return false };
        hosts.cut(0);
        sleep(Duration::from_millis(500 + self.seeded.below(9500)));
        hosts.join(0);
        true
    }

    fn power_cut(&mut self) -> bool {
        let Some((hosts, host)) = self.host() else { return false };
        hosts.power(host);
        sleep(Duration::from_millis(self.seeded.below(10_000)));
        hosts.boot(host);
        true
    }

    fn power_cut_of_launcher(&mut self) -> bool {
        let Some((hosts, _)) = self.host() else { return false };
        hosts.cut(0);
        self.launch.signal("KILL");
        for pid in self.run.engines() {
            try_send(pid, "KILL");
        }
        eventually("the launcher is gone", || self.launch.has_ended());
        sleep(Duration::from_millis(self.seeded.below(3000)));
        hosts.join(0);
        self.launch_again();
        true
    }

    /// A host that has workers now.
    fn host(&mut self) -> Option<(&'a Hosts, usize)> {
        let hosts = self.hosts?;
        self.worker()?;
        let attempt = self.run.events("attempt").pop()?;
        let shares = attempt["topology"]["hosts"].as_array()?;
        let share = &shares[self.seeded.below(shares.len() as u64) as usize];
        Some((hosts, share["host"].as_str()?.strip_prefix('n')?.parse().ok()?))
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

fn launch(run: &Run, hosts: Option<&Hosts>, workers: usize) -> Launch {
    match hosts {
        Some(hosts) => {
            let workers = format!("cluster.workers={{ min: 1, max: {workers} }}");
            run.start_with(&[&hosts.setting(), &workers], |command| hosts.host(command))
        }
        None => run.start(&[&format!("cluster.workers={workers}")]),
    }
}

/// Lets a process have a tenth of the time for two seconds; answers whether it lived that long.
fn slow_down(pid: u32) -> bool {
    (0..20).all(|_| slow_down_shortly(pid))
}

/// Lets a process have a tenth of the time for a tenth of a second; answers whether it lived that long.
pub fn slow_down_shortly(pid: u32) -> bool {
    let stopped = try_send(pid, "STOP");
    sleep(Duration::from_millis(90));
    let continued = try_send(pid, "CONT");
    sleep(Duration::from_millis(10));
    stopped && continued
}
