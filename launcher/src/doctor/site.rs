//! What there is on this machine, and what a run on it would be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use tandem_cluster::hosts::network::{self, Ways};
use tandem_cluster::hosts::{self, Machine};
use tandem_cluster::process::free_bytes;
use tandem_cluster::run::atomic;
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::libraries::Libraries;
use tandem_cluster::topology::Topology;
use tandem_config::RunConfig;

use crate::prepare;
use crate::prepare::plan::{Plan, Size};
use crate::prepare::worker;
use crate::prepare::worker::said;

/// How long the network may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);

/// How long a program may take to answer: libtorch for CUDA has gigabytes, and may come from a network.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(20);

/// What there is. Files of the system are read below `root` by the checks themselves.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// Where `/` is; elsewhere in tests.
    pub root: PathBuf,
    /// This process's variables.
    pub environment: BTreeMap<String, String>,
    /// The CPUs, GPUs and programs of this machine.
    pub machine: Machine,
    /// The worker program, or why there is none.
    pub worker: Result<PathBuf, String>,
    /// What the worker program says of its libraries, or why it does not; none without a worker.
    pub libraries: Option<Result<Libraries, String>>,
    /// The beginning of what `mpirun --version` says.
    pub mpirun: Option<String>,
    /// Whether this machine's name leads to an address.
    pub resolves: bool,
    /// Why this machine cannot connect to itself.
    pub loopback: Result<(), String>,
    /// What keeps the other hosts of the run from it.
    pub hosts: Result<(), String>,
    /// The ways to them; none where there are no others.
    pub ways: Ways,
    /// Interfaces that could lead to them and do not, unless the user has chosen.
    pub other_interfaces: BTreeSet<String>,
    /// Bytes free for files in memory; none without such a place.
    pub shared_memory: Option<u64>,
    /// The run's folder, or the current one: where it is or would be made.
    pub folder: PathBuf,
    /// Why nothing can be written there.
    pub writable: Result<(), String>,
    /// Bytes free there.
    pub free: u64,
    /// By how much the file system's clock there differs from this machine's.
    pub clock_skew: Duration,
    /// What is wrong with the config.
    pub problems: Option<String>,
    /// The run, if there is a config that works.
    pub run: Option<Run>,
}

/// A run that was asked about.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub config: RunConfig,
    /// Where its ranks would go, or why nowhere.
    pub topology: Result<Topology, String>,
    /// How big its model is, if its BERTs are here.
    pub size: Option<Size>,
}

impl Site {
    /// Looks at this machine, and at the config's run if one is named.
    pub(crate) fn look(config: Option<&Path>, overrides: &[String]) -> Self {
        let machine = Machine::this();
        let worker = worker::find().map_err(|error| error.to_string());
        let (libraries, mpirun, resolves) = std::thread::scope(|scope| {
            let libraries = scope.spawn(|| {
                worker.as_ref().ok().map(|path| worker::libraries(path, PROGRAM_TIMEOUT))
            });
            let mpirun =
                scope.spawn(|| said(Command::new("mpirun").arg("--version"), PROGRAM_TIMEOUT).ok());
            let resolves = resolves(&machine.host);
            // A thread that panics has ended the process.
            (libraries.join().unwrap_or_default(), mpirun.join().unwrap_or_default(), resolves)
        });
        let loopback = network::listen_here().map(drop).map_err(|error| error.to_string());
        let loaded = config.map(|path| prepare::load(path, overrides));
        let (run, problems) = match loaded {
            None => (None, None),
            Some(Err(refused)) => (None, Some(refused.to_string())),
            Some(Ok(config)) => (Some(Run::new(config)), None),
        };
        let ways = run.as_ref().map_or(Ok(Ways::default()), Run::ways);
        let hosts = match (&ways, &run) {
            (Err(reason), _) => Err(reason.clone()),
            (Ok(ways), Some(run)) => run.reach_hosts(ways),
            _ => Ok(()),
        };
        let ways = ways.unwrap_or_default();
        let other_interfaces = match ways.hosts.is_empty() || network::user_has_chosen() {
            true => BTreeSet::new(),
            false => ways.other_interfaces(),
        };
        let folder = run.as_ref().map_or_else(|| PathBuf::from("."), |run| run.config.run.path());
        let folder = std::path::absolute(&folder).unwrap_or(folder);
        let existing = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let (writable, clock_skew) = match try_to_write(existing) {
            Ok(skew) => (Ok(()), skew),
            Err(error) => (Err(format!("{}: {error}", existing.display())), Duration::ZERO),
        };
        Self {
            root: "/".into(),
            environment: std::env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .collect(),
            worker,
            libraries,
            mpirun,
            resolves,
            loopback,
            hosts,
            ways,
            other_interfaces,
            shared_memory: free_bytes(Path::new("/dev/shm")).ok(),
            writable,
            free: free_bytes(existing).unwrap_or(u64::MAX),
            clock_skew,
            folder,
            problems,
            run,
            machine,
        }
    }

    /// The value of a variable, if it is set.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }

    /// A variable that holds a number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.variable(name)?.trim().parse().ok()
    }

    pub(crate) fn system_file(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The text of a file of the system; empty where there is none.
    pub(crate) fn system_text(&self, path: &str) -> String {
        fs::read_to_string(self.system_file(path)).unwrap_or_default()
    }

    /// The run's topology, if there is one.
    pub(crate) fn topology(&self) -> Option<&Topology> {
        self.run.as_ref()?.topology.as_ref().ok()
    }

    /// What the worker reported about its libraries.
    pub(crate) fn found_libraries(&self) -> Option<&Libraries> {
        self.libraries.as_ref()?.as_ref().ok()
    }

    pub(crate) fn run_folder(&self) -> RunFolder {
        RunFolder::new(self.folder.clone())
    }
}

impl Run {
    fn new(config: RunConfig) -> Self {
        let topology = Topology::find_now(&config.cluster).map_err(|error| error.to_string());
        let plan =
            |topology: &Topology| Plan::new(&config, topology.clone(), "tandem-worker".into()).ok();
        let size = topology.as_ref().ok().and_then(plan).map(|plan| plan.size);
        Self { config, topology, size }
    }
}

impl Run {
    fn ways(&self) -> Result<Ways, String> {
        let Ok(topology) = &self.topology else { return Ok(Ways::default()) };
        Ways::to(topology.host_names()).map_err(|error| error.to_string())
    }

    /// What keeps the other hosts from it, the first of them.
    fn reach_hosts(&self, ways: &Ways) -> Result<(), String> {
        match &self.config.cluster.hostfile {
            _ if ways.hosts.is_empty() => Ok(()),
            Some(_) => hosts::reach_hosts(ways),
            None => hosts::reach_nodes(ways),
        }
    }
}

/// In a thread that is left behind if it takes too long.
fn resolves(host: &str) -> bool {
    let (host, (sender, answer)) = (host.to_owned(), mpsc::channel());
    std::thread::spawn(move || {
        let found = (host.as_str(), 0).to_socket_addrs().is_ok_and(|mut all| all.next().is_some());
        let _ = sender.send(found);
    });
    answer.recv_timeout(ANSWER_TIMEOUT).unwrap_or(false)
}

/// Writes a file and removes it; by how much its time differs from now.
fn try_to_write(folder: &Path) -> io::Result<Duration> {
    let time = atomic::file_in(folder)?.as_file().metadata()?.modified()?;
    let now = SystemTime::now();
    Ok(now.duration_since(time).unwrap_or_else(|error| error.duration()))
}
