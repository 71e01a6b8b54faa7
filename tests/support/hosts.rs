//! Simulated hosts on this machine, without Slurm, by `hosts.sh`. They need root.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::run_by;

/// What leads mpirun to the simulated hosts. Which network leads there, the launcher finds.
const OPEN_MPI: [(&str, &str); 4] =
    [("plm", "rsh"), ("plm_rsh_no_tree_spawn", "1"), ("pml", "ob1"), ("btl", "tcp,self")];

/// Hosts n1, n2, ... with a slot each, and n0 for the launcher. They go with this value.
pub struct Hosts {
    folder: TempDir,
    count: usize,
}

impl Hosts {
    /// Starts so many hosts besides n0.
    ///
    /// # Panics
    /// If this machine does not allow it.
    pub fn start(count: usize) -> Self {
        let folder = tempfile::Builder::new().prefix("hosts").tempdir().expect("a folder");
        let hosts = Self { folder, count };
        hosts.script("up", &[&count.to_string()]);
        let line = |host: usize| format!("n{host} slots=1 # a simulated one\n");
        let lines: String = (1..=count).map(line).collect();
        std::fs::write(hosts.path("hostfile"), lines).expect("a hostfile");
        hosts
    }

    /// The setting that leads a run to n0, by a name that is not its own, and to n1.
    ///
    /// # Panics
    /// If there is no room for a file.
    pub fn setting_with_n0(&self) -> String {
        let path = self.path("hostfile-with-n0");
        std::fs::write(&path, "n0.cluster slots=1\nn1 slots=1\n").expect("a hostfile");
        format!("cluster.hostfile={}", path.display())
    }

    /// How many there are besides n0.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The setting that leads a run to them.
    pub fn setting(&self) -> String {
        format!("cluster.hostfile={}", self.path("hostfile").display())
    }

    /// Has a launcher run on n0.
    pub fn host(&self, launcher: &mut Command) {
        let (script, folder) = (script(), self.folder.path());
        run_by(launcher, &[&script.to_string_lossy(), "head", &folder.to_string_lossy()]);
        for (name, value) in OPEN_MPI {
            launcher.env(format!("OMPI_MCA_{name}"), value);
        }
        launcher.env("OMPI_MCA_plm_rsh_agent", self.path("agent"));
    }

    /// Runs a command on a host; it must end well.
    pub fn run(&self, host: usize, words: &[&str]) {
        self.script("sh", &[&[&*format!("n{host}")], words].concat());
    }

    /// Leaves a host little space for temporary files: less than a run needs, enough for mpirun.
    pub fn fill_temporary_files(&self, host: usize) {
        let folder = self.path(&format!("tmp/n{host}"));
        let folder = folder.to_str().expect("UTF-8");
        self.run(host, &["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder]);
    }

    /// Nothing reaches a host any more, and nothing comes from it; it does not know.
    pub fn cut(&self, host: usize) {
        self.script("cut", &[&format!("n{host}")]);
    }

    /// Ends that.
    pub fn join(&self, host: usize) {
        self.script("join", &[&format!("n{host}")]);
    }

    /// A host loses its power, without a word to the others.
    pub fn power(&self, host: usize) {
        self.script("power", &[&format!("n{host}")]);
    }

    /// A host without power has it again.
    pub fn boot(&self, host: usize) {
        self.script("boot", &[&format!("n{host}")]);
    }

    /// From now on the hosts have addresses of IPv6 alone on the network between them.
    pub fn keep_to_ipv6(&self) {
        self.script("ipv6", &[]);
    }

    fn script(&self, verb: &str, arguments: &[&str]) {
        let mut command = Command::new("timeout");
        command.arg("60").arg(script()).arg(verb).arg(self.folder.path());
        // The hosts must not hold the pipes of the test.
        let log = std::fs::File::create(self.path("script.out")).expect("a log");
        command.args(arguments).stdout(log.try_clone().expect("a log")).stderr(log);
        let status = command.status().expect("timeout");
        let text = std::fs::read_to_string(self.path("script.out")).unwrap_or_default();
        assert!(status.success(), "hosts.sh {verb} {arguments:?}: {status}\n{text}");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let status = Command::new(script()).arg("down").arg(self.folder.path()).status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("the hosts in {} did not go down", self.folder.path().display());
        }
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("support/hosts.sh")
}
