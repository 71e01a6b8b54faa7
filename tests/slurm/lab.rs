//! A Slurm cluster of simulated nodes on this machine, by `cluster.sh`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tandem_tests::launch::WHOLE_RUN;
use tandem_tests::live::within;
use tandem_tests::{expect_code, program};
use tempfile::TempDir;

/// A cluster that is up; it goes down with this value.
pub(crate) struct Lab {
    folder: TempDir,
}

impl Lab {
    /// Nodes n1, n2, ... with so many GPUs, which are device files without a device, and CPUs,
    /// which need not exist.
    pub(crate) fn start(nodes: usize, gpus: usize, cpus: usize) -> Self {
        Self::up(nodes, gpus, cpus, &[])
    }

    /// The same without GPUs, where all nodes call themselves `node.cluster`, which is 127.0.1.1, and
    /// Slurm's names lead to no address.
    pub(crate) fn start_with_other_names(nodes: usize, cpus: usize) -> Self {
        Self::up(nodes, 0, cpus, &["-o"])
    }

    fn up(nodes: usize, gpus: usize, cpus: usize, more: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("slurm").tempdir().unwrap();
        let lab = Self { folder };
        let [nodes, gpus, cpus] = [nodes, gpus, cpus].map(|count| count.to_string());
        let options = ["-n", &nodes, "-g", &gpus, "-c", &cpus, "-m", "netns"];
        lab.script("up", &[&options, more].concat());
        lab
    }

    /// Runs one of the script's verbs on this cluster.
    pub(crate) fn script(&self, verb: &str, arguments: &[&str]) {
        let mut command = Command::new("timeout");
        command.arg("60").arg(script("cluster.sh")).arg(verb).arg(self.folder.path());
        // Its daemons must not hold the pipes of the test.
        let log = std::fs::File::create(self.folder.path().join(format!("{verb}.out"))).unwrap();
        command.args(arguments).stdout(log.try_clone().unwrap()).stderr(log);
        let status = command.status().unwrap();
        let text = std::fs::read_to_string(self.folder.path().join(format!("{verb}.out")));
        assert!(status.success(), "cluster.sh {verb} {arguments:?}: {status}\n{}", text.unwrap());
    }

    /// What a command prints where Slurm's commands work; it must end well.
    pub(crate) fn say(&self, words: &[&str]) -> String {
        let mut command = Command::new("timeout");
        command.arg("120").arg(script("cluster.sh")).arg("exec").arg(self.folder.path());
        expect_code(command.args(words).current_dir(self.folder.path()), 0).stdout
    }

    /// Submits a batch job that runs `command`; its number.
    pub(crate) fn sbatch(&self, options: &[&str], command: &str) -> String {
        let script = self.path("job.sh");
        std::fs::write(&script, format!("#!/bin/bash\nexec {command}\n")).unwrap();
        let script = script.to_string_lossy().into_owned();
        let words = [&["sbatch", "--parsable"], options, &[&script]].concat();
        self.say(&words).trim().to_owned()
    }

    /// Waits until no job is left, running or waiting.
    pub(crate) fn wait_until_idle(&self) {
        within(WHOLE_RUN, "all jobs end", || {
            std::thread::sleep(Duration::from_millis(100));
            self.say(&["squeue", "--noheader"]).trim().is_empty()
        });
    }

    /// A path in the cluster's folder, which all nodes share.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let mut command = Command::new("timeout");
        command.arg("60").arg(script("cluster.sh")).arg("down").arg(self.folder.path());
        if !command.status().is_ok_and(|status| status.success()) {
            eprintln!("the cluster in {} did not go down", self.folder.path().display());
        }
    }
}

/// The path of a script beside this file.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("slurm").join(name)
}

/// The path of the launcher.
pub(crate) fn tandem() -> String {
    program("tandem").get_program().to_string_lossy().into_owned()
}
