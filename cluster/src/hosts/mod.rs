//! The hosts that a run can use, and what each of them has.

pub mod network;

use std::io;
use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use tandem_config::schema::cluster::{Cluster, Engine};

use crate::hosts::network::Ways;
use crate::process;
use crate::slurm::{self, Allocation, SlurmError};

/// How long a host of a hostfile, or one of Slurm's programs, may take to answer.
const HOST_DEADLINE: Duration = Duration::from_secs(5);

/// Why it is not known where a run could go.
#[derive(Debug, thiserror::Error)]
pub enum HostPoolError {
    /// Slurm contradicts itself.
    #[error(transparent)]
    Slurm(#[from] SlurmError),
    /// The hostfile cannot be read.
    #[error("cannot read the hostfile {}: {source}", path.display())]
    Read {
        /// The hostfile.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A line of the hostfile is none.
    #[error(
        "{}:{line}: `{text}` is no host: write `NAME slots=COUNT` or `NAME:COUNT`", path.display()
    )]
    Line {
        /// The hostfile.
        path: PathBuf,
        /// The line's number.
        line: usize,
        /// What it says.
        text: String,
    },
    /// A hostfile without hosts.
    #[error("the hostfile {} names no host", path.display())]
    Empty {
        /// The hostfile.
        path: PathBuf,
    },
}

/// A host, with what a run may use of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// CPUs.
    pub cpus: usize,
    /// GPUs.
    pub gpus: usize,
    /// The largest number of workers that it may have, if limited.
    pub slots: Option<usize>,
}

/// Where the list of hosts comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody: there is this machine.
    Machine,
    /// `cluster.hostfile`.
    Hostfile(PathBuf),
    /// Slurm.
    Slurm(Allocation),
}

/// What this machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// CPUs that this process may use.
    pub cpus: usize,
    /// GPUs that this process may use.
    pub gpus: usize,
    /// How the number of GPUs was found.
    pub gpus_by: &'static str,
    /// Whether mpirun can be found.
    pub mpirun: bool,
    /// Its name.
    pub host: String,
}

/// Where a run can go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPool {
    /// The hosts.
    pub hosts: Vec<Host>,
    /// Where the list comes from.
    pub source: Source,
    /// How GPUs were counted.
    pub gpus_by: String,
    /// Whether mpirun can be found.
    pub mpirun: bool,
    /// Whether srun can be found, and starts programs of Open MPI.
    pub srun: bool,
}

impl Machine {
    /// This machine, as far as this process may use it.
    pub fn this() -> Self {
        let installed = (0..64).filter(|i| Path::new(&format!("/dev/nvidia{i}")).exists()).count();
        let (gpus, gpus_by) = match std::env::var("CUDA_VISIBLE_DEVICES") {
            _ if installed == 0 => (0, "there is no /dev/nvidia0"),
            Ok(visible) => (visible_gpus(installed, &visible), "by CUDA_VISIBLE_DEVICES"),
            Err(_) => (installed, "by /dev/nvidia*"),
        };
        Self {
            cpus: thread::available_parallelism().map_or(1, usize::from),
            gpus,
            gpus_by,
            mpirun: is_in_path("mpirun"),
            host: process::host_name(),
        }
    }
}

/// Bytes of memory that programs could still take, by the text of `/proc/meminfo`; none if it does not say.
pub fn available_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// How many of the `installed` GPUs a value of CUDA_VISIBLE_DEVICES leaves, by CUDA's rules: names count
/// up to the first that is none (`-1`, `none`, an index beyond the last), and one that comes twice
/// hides all. Whether there is a GPU of a UUID is known to the driver alone.
pub fn visible_gpus(installed: usize, visible: &str) -> usize {
    let is_gpu = |name: &&str| match name.parse::<usize>() {
        Ok(index) => index < installed,
        Err(_) => name.starts_with("GPU-") || name.starts_with("MIG-"),
    };
    let names: Vec<&str> = visible.split(',').map(str::trim).take_while(is_gpu).collect();
    let is_repeated = |(at, name): (usize, &&str)| names[..at].contains(name);
    if names.iter().enumerate().any(is_repeated) { 0 } else { names.len() }
}

impl From<Machine> for HostPool {
    fn from(machine: Machine) -> Self {
        let Machine { cpus, gpus, gpus_by, mpirun, host } = machine;
        let hosts = vec![Host { name: host, cpus, gpus, slots: None }];
        let gpus_by = gpus_by.into();
        Self { hosts, source: Source::Machine, gpus_by, mpirun, srun: false }
    }
}

impl HostPool {
    /// Where a run with these settings can go: Slurm's allocation, else the hostfile's hosts, else
    /// this machine.
    ///
    /// # Errors
    /// A hostfile that cannot be used, or contradictory information from Slurm.
    pub fn find(settings: &Cluster) -> Result<Self, HostPoolError> {
        let machine = Self::from(Machine::this());
        if let Some(path) = &settings.hostfile {
            let hosts = read_hostfile(path, &machine.hosts[0])?;
            return Ok(Self { hosts, source: Source::Hostfile(path.clone()), ..machine });
        }
        // A single worker on this machine does not involve Slurm.
        if settings.engine == Engine::Solo {
            return Ok(machine);
        }
        match Allocation::find()? {
            Some(allocation) => {
                let host = |node: &crate::slurm::Node| Host {
                    name: node.name.clone(),
                    cpus: node.cpus,
                    gpus: node.gpus,
                    slots: allocation.tasks_by.map(|_| node.tasks),
                };
                let hosts = allocation.nodes.iter().map(host).collect();
                let (gpus_by, srun) = (allocation.gpus_by.clone(), srun_has_pmix());
                let source = Source::Slurm(allocation);
                Ok(Self { hosts, source, gpus_by, srun, ..machine })
            }
            None => Ok(machine),
        }
    }

    /// All GPUs.
    pub fn gpus(&self) -> usize {
        self.hosts.iter().map(|host| host.gpus).sum()
    }

    /// Leaves out the hosts of a hostfile that do not answer, and the nodes that Slurm has lost: a
    /// job that was submitted with `--no-kill` continues without them. Returns their names.
    pub fn leave_out_the_silent(&mut self) -> Vec<String> {
        let before: Vec<String> = self.hosts.iter().map(|host| host.name.clone()).collect();
        match &self.source {
            Source::Machine => {}
            Source::Slurm(_) => {
                let lost = slurm::lost_nodes(before.iter().map(String::as_str));
                self.hosts.retain(|host| !lost.contains(&host.name));
            }
            Source::Hostfile(_) => {
                let ask = |host: &Host| {
                    let name = host.name.clone();
                    thread::spawn(move || name == process::host_name() || answers(&name))
                };
                let asked: Vec<_> = self.hosts.iter().map(ask).collect();
                let mut asked = asked.into_iter();
                let answered = |asked: thread::JoinHandle<bool>| asked.join().unwrap_or(false);
                self.hosts.retain(|_| asked.next().is_some_and(answered));
            }
        }
        let is_left = |name: &String| self.hosts.iter().any(|host| host.name == *name);
        before.into_iter().filter(|name| !is_left(name)).collect()
    }
}

/// Whether a host of a hostfile responds.
fn answers(host: &str) -> bool {
    ends_well_on(host, "true")
}

/// What keeps a run from hosts of a hostfile: one does not answer, or cannot connect to this machine, as
/// its workers have to.
///
/// # Errors
/// A description for the first such host.
pub fn reach_hosts(ways: &Ways) -> Result<(), String> {
    let (_listener, connect) = door(ways)?;
    let reach = |host: &str| {
        if !answers(host) {
            let agent = remote_agent();
            return Err(format!("{host} does not answer `{agent} {host} true`"));
        }
        ends_well_on(host, &connect).then_some(()).ok_or_else(|| cannot_connect(host, ways))
    };
    thread::scope(|scope| {
        let asked: Vec<_> =
            ways.hosts.iter().map(|host| scope.spawn(|| reach(host.as_str()))).collect();
        // A thread that panics has ended the process.
        asked.into_iter().try_for_each(|asked| asked.join().unwrap_or(Ok(())))
    })
}

/// The same for the nodes of the Slurm job, which are asked by a step of the job.
///
/// # Errors
/// A description for the first such node.
pub fn reach_nodes(ways: &Ways) -> Result<(), String> {
    let (_listener, connect) = door(ways)?;
    let count = ways.hosts.len().to_string();
    let line = format!("{connect} || echo $SLURMD_NODENAME");
    let mut command = Command::new("srun");
    slurm::with_job_number_alone(&mut command);
    command.args(["--overlap", "--overcommit", "--quiet", "--nodes", &count, "--ntasks", &count]);
    command.args(["--nodelist", &ways.hosts.join(","), "--input=none", "sh", "-c", &line]);
    let unanswered = |why: &str| {
        let why = why.lines().next().unwrap_or_default().trim();
        Err(format!("{} cannot be asked by srun: {why}", ways.hosts.join(", ")))
    };
    match process::output_within(&mut command, HOST_DEADLINE) {
        Err(error) => unanswered(&error.to_string()),
        Ok(output) if !output.status.success() => {
            unanswered(&String::from_utf8_lossy(&output.stderr))
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            let failed: Vec<&str> = said.split_whitespace().collect();
            if failed.is_empty() { Ok(()) } else { Err(cannot_connect(&failed.join(", "), ways)) }
        }
    }
}

/// Listens for other hosts, as long as the listener lives; a line for a shell there that connects.
fn door(ways: &Ways) -> Result<(TcpListener, String), String> {
    let failed = |error: io::Error| format!("nobody can connect to this machine: {error}");
    let listener = network::listen_to_all().map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let connect = |address: &IpAddr| format!("timeout 2 bash -c \"</dev/tcp/{address}/{port}\"");
    let lines: Vec<String> = ways.addresses.iter().map(connect).collect();
    Ok((listener, format!("{{ {}; }} 2>/dev/null", lines.join(" || "))))
}

fn cannot_connect(host: &str, ways: &Ways) -> String {
    let addresses: Vec<String> = ways.addresses.iter().map(IpAddr::to_string).collect();
    let (addresses, interfaces) = (addresses.join(", "), ways.interfaces.join(", "));
    format!("{host} cannot connect to this machine at {addresses} ({interfaces})")
}

/// What mpirun starts its daemons by.
fn remote_agent() -> String {
    let agent = std::env::var("OMPI_MCA_plm_rsh_agent");
    agent.unwrap_or_else(|_| "ssh -o BatchMode=yes -o ConnectTimeout=4".into())
}

/// Runs a command on a host by the way that mpirun takes to it; whether it ends well.
fn ends_well_on(host: &str, line: &str) -> bool {
    let agent = remote_agent();
    let mut words = agent.split_whitespace();
    let Some(program) = words.next() else { return false };
    let mut command = Command::new(program);
    command.args(words).args([host, line]);
    process::output_within(&mut command, HOST_DEADLINE).is_ok_and(|output| output.status.success())
}

pub(crate) fn is_in_path(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|path| path.join(program).is_file())
}

/// Open MPI's programs find each other by PMIx alone.
fn srun_has_pmix() -> bool {
    let listed = process::output_within(Command::new("srun").arg("--mpi=list"), HOST_DEADLINE);
    listed.is_ok_and(|listed| {
        // Some versions list them on the one, some on the other.
        let said = [listed.stdout, listed.stderr].concat();
        String::from_utf8_lossy(&said).split_whitespace().any(|word| word.starts_with("pmix"))
    })
}

/// Reads lines such as `n1 slots=4`, `n1:4` or `n1`; `#` begins a comment. Other hosts are taken
/// to be like this one.
fn read_hostfile(path: &Path, like: &Host) -> Result<Vec<Host>, HostPoolError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| HostPoolError::Read { path: path.into(), source })?;
    let mut lines = Vec::new();
    for (index, text) in text.lines().enumerate() {
        let words = text.split('#').next().unwrap_or_default().trim();
        if words.is_empty() {
            continue;
        }
        let (name, slots) = host_line(words).ok_or_else(|| HostPoolError::Line {
            path: path.into(),
            line: index + 1,
            text: text.trim().into(),
        })?;
        lines.push((name, slots));
    }
    let here = network::ours(lines.iter().map(|(name, _)| *name));
    let mut hosts: Vec<Host> = Vec::new();
    for (name, slots) in lines {
        let name = if here.contains(name) { &like.name } else { name };
        match hosts.iter_mut().find(|host| host.name == name) {
            // As for mpirun, a host that is named twice has twice as many.
            Some(host) => host.slots = host.slots.map(|known| known + slots),
            None => hosts.push(Host { name: name.into(), slots: Some(slots), ..like.clone() }),
        }
    }
    if hosts.is_empty() {
        return Err(HostPoolError::Empty { path: path.into() });
    }
    Ok(hosts)
}

fn host_line(words: &str) -> Option<(&str, usize)> {
    let mut words = words.split_whitespace();
    let name = words.next()?;
    let is_address = name.parse::<IpAddr>().is_ok();
    let (name, mut slots) = match name.rsplit_once(':').filter(|_| !is_address) {
        Some((name, count)) => (name, count.parse().ok()?),
        None => (name, 1),
    };
    for word in words {
        match word.split_once('=')? {
            ("slots", count) => slots = count.parse().ok()?,
            ("max_slots" | "max-slots", _) => {}
            _ => return None,
        }
    }
    let good =
        slots > 0 && (is_address || name.chars().all(|c| c.is_alphanumeric() || ".-_".contains(c)));
    good.then_some((name, slots))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Host>, HostPoolError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let like = Host { name: "here".into(), cpus: 8, gpus: 2, slots: None };
        read_hostfile(file.path(), &like)
    }

    #[test]
    fn gpus_are_counted_as_cuda_counts_them() {
        for (visible, count) in [
            ("0,1", 2),
            (" 1 , 0", 2),
            ("", 0),
            ("-1", 0),
            ("none", 0),
            ("NoDevFiles", 0),
            ("0,-1,1", 1),
            ("1,2,0", 1),
            ("0,0", 0),
            ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", 1),
            ("MIG-GPU-8932f937/1/2,MIG-3b1", 2),
        ] {
            assert_eq!(visible_gpus(2, visible), count, "{visible:?}");
        }
    }

    #[test]
    fn hostfiles_of_both_kinds_are_read() {
        let hosts = read("# two\nn1 slots=2 max_slots=2\n\nn2:3 # fast\nn3\nn1\n").unwrap();
        let shown: Vec<_> = hosts.iter().map(|host| (&*host.name, host.slots.unwrap())).collect();
        assert_eq!(shown, [("n1", 3), ("n2", 3), ("n3", 1)]);
        assert_eq!((hosts[0].cpus, hosts[0].gpus), (8, 2));
    }

    #[test]
    fn other_names_of_this_machine_are_this_machine() {
        let names = "localhost slots=2\n127.0.0.1:1\n::1\n127.0.1.1 slots=3\nlocalhost\n";
        let hosts = read(&format!("{names}here\nno.such.host.invalid\n")).unwrap();
        let shown: Vec<_> = hosts.iter().map(|host| (&*host.name, host.slots.unwrap())).collect();
        assert_eq!(shown, [("here", 9), ("no.such.host.invalid", 1)]);
    }

    #[test]
    fn lines_that_are_no_hosts_are_named() {
        for bad in ["n1 slots=0", "n1:x", "n1 2", "n1 cores=2", "n1;reboot"] {
            let error = read(&format!("n0\n{bad}\n")).unwrap_err().to_string();
            assert!(error.contains(":2: `") && error.contains(bad), "{error}");
        }
        assert!(read("# nobody\n").unwrap_err().to_string().contains("names no host"));
        let missing = read_hostfile(
            Path::new("/nowhere/hosts"),
            &Host { name: "here".into(), cpus: 1, gpus: 0, slots: None },
        );
        assert!(missing.unwrap_err().to_string().contains("/nowhere/hosts"));
    }
}
