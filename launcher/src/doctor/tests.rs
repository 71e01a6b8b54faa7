//! Each misconfiguration, seeded on a machine that is otherwise well, is found, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tandem_cluster::hosts::Machine;
use tandem_cluster::hosts::network::Ways;
use tandem_cluster::run::libraries::Libraries;
use tandem_cluster::topology::{Device, EngineKind, Share, Topology};
use tempfile::TempDir;

use super::*;
use crate::doctor::site::Run;
use crate::prepare::plan::Size;

/// A machine without GPUs where all is well, and a run of two workers on it.
struct Seeded {
    folder: TempDir,
    site: Site,
}

const LIMITS: &str = "\
Limit                     Soft Limit           Hard Limit           Units
Max core file size        0                    unlimited            bytes
Max processes             95000                95000                processes
Max open files            1024                 1048576              files
Max locked memory         8388608              8388608              bytes
";

impl Seeded {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let site = Site {
            root: folder.path().to_owned(),
            environment: Default::default(),
            machine: Machine {
                cpus: 4,
                gpus: 0,
                gpus_by: "by decree",
                mpirun: true,
                host: "here".into(),
            },
            worker: Ok("/programs/tandem-worker".into()),
            libraries: Some(Ok(Libraries {
                mpi: "Open MPI v4.1.4, package: Debian OpenMPI".into(),
                cuda: 13000,
                no_cuda: Some("libtorch_cuda.so: not found".into()),
                no_nccl: Some("libnccl.so cannot be loaded".into()),
                ..Libraries::default()
            })),
            mpirun: Some("mpirun (Open MPI) 4.1.4\n\nReport bugs to ...\n".into()),
            resolves: true,
            loopback: Ok(()),
            hosts: Ok(()),
            ways: Ways::default(),
            other_interfaces: BTreeSet::new(),
            shared_memory: Some(1 << 30),
            folder: folder.path().join("run"),
            writable: Ok(()),
            free: 1 << 40,
            clock_skew: Duration::ZERO,
            problems: None,
            run: None,
        };
        let seeded = Self { folder, site };
        seeded.write("proc/self/limits", LIMITS);
        seeded.write("proc/cpuinfo", "processor : 0\nflags : fpu sse avx avx2 fma\n");
        seeded.write("proc/meminfo", "MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n");
        seeded.write("sys/class/net/eth0/address", "");
        seeded.write("sys/class/net/lo/address", "");
        seeded
    }

    fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Another host, in one of these networks.
    fn add_other_interfaces(&mut self, networks: &[&str]) {
        self.site.other_interfaces = ["docker0", "eth1"].map(String::from).into();
        let ways = &mut self.site.ways;
        ways.hosts = vec!["n1".into()];
        ways.addresses = vec![[10, 1, 0, 1].into()];
        ways.interfaces = vec!["eth0".into()];
        ways.networks = networks.iter().map(|network| (*network).to_owned()).collect();
    }

    fn set(&mut self, name: &str, value: &str) {
        self.site.environment.insert(name.into(), value.into());
    }

    fn libraries(&mut self) -> &mut Libraries {
        self.site.libraries.as_mut().unwrap().as_mut().unwrap()
    }

    /// A run of two workers of one thread, with the demo's config.
    fn add_run(&mut self) -> &mut Run {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/demo.yaml");
        let config = tandem_config::load(&demo, &[]).unwrap();
        let topology = Topology {
            ranks: 2,
            device: Device::Cpu,
            workers_per_gpu: 1,
            threads: 1,
            engine: EngineKind::Mpirun,
            hosts: vec![Share { host: "here".into(), ranks: 2 }],
        };
        let size = Size {
            trained: 1,
            frozen: 1,
            memory_per_rank: 1 << 30,
            activations: 0,
            checkpoint: 1 << 20,
            disk: 1 << 30,
        };
        self.site.run.insert(Run { config, topology: Ok(topology), size: Some(size) })
    }

    /// Two GPUs that work, and a run on them.
    fn add_gpus(&mut self) {
        self.write("dev/nvidia0", "");
        self.write("dev/nvidia1", "");
        self.site.machine.gpus = 2;
        let (driver, nccl) = (Some(13000), Some("2.29.7".into()));
        let mpi = self.libraries().mpi.clone();
        *self.libraries() =
            Libraries { mpi, cuda: 13000, driver, gpus: 2, nccl, ..Libraries::default() };
        self.add_run().topology.as_mut().unwrap().device = Device::Cuda;
    }

    fn named_model(&mut self, name: &str) {
        for bert in self.add_run().config.model.pretrained_mut() {
            name.clone_into(bert);
        }
    }
}

/// What is found after seeding.
fn found(seed: impl Fn(&mut Seeded)) -> Vec<Finding> {
    let mut seeded = Seeded::new();
    seed(&mut seeded);
    examine(&seeded.site)
}

#[test]
fn where_all_is_well_nothing_is_found() {
    assert_eq!(found(|_| ()), []);
    let with_run = |it: &mut Seeded| {
        let _ = it.add_run();
    };
    assert_eq!(found(with_run), []);
    assert_eq!(found(Seeded::add_gpus), []);
}

type Seed = fn(&mut Seeded);

/// The check, what breaks the machine, and what people are told.
const SEEDS: &[(&str, Seed, &str)] = &[
    ("config", |it| it.site.problems = Some("a.yaml:3:1: sede: unknown key".into()), "a.yaml:3:1"),
    (
        "worker",
        |it| (it.site.worker, it.site.libraries) = (Err("none here".into()), None),
        "none here",
    ),
    (
        "glibc",
        |it| {
            let said = "w: /lib/libc.so.6: version `GLIBC_2.38' not found (required by w)";
            it.site.libraries = Some(Err(said.into()));
        },
        "GLIBC_2.38",
    ),
    (
        "libraries",
        |it| {
            let said = "error while loading shared libraries: libtorch_cpu.so: cannot open";
            it.site.libraries = Some(Err(said.into()));
        },
        "libtorch_cpu.so",
    ),
    (
        "other-libtorch",
        |it| {
            let path = it.write("torch/libtorch_cpu.so", "");
            it.set("LD_LIBRARY_PATH", &format!("/nowhere:{}", path.parent().unwrap().display()));
            let libraries = it.site.libraries.as_mut().unwrap().as_mut().unwrap();
            libraries.built_libtorch = "2.13.0".into();
            libraries.libtorch = "2.11.0".into();
        },
        "was built with libtorch 2.13.0, but loads libtorch 2.11.0",
    ),
    (
        "mpirun",
        |it| (it.site.machine.mpirun, it.site.mpirun) = (false, None),
        "mpirun is not in PATH",
    ),
    ("mpi-version", |it| it.site.mpirun = Some("mpirun (Open MPI) 5.0.3".into()), "5.0.3"),
    (
        "mpi-version",
        |it| it.site.mpirun = Some("HYDRA build details:\n Version: 4.1.4".into()),
        "HYDRA",
    ),
    ("inside-mpirun", |it| it.set("OMPI_COMM_WORLD_SIZE", "4"), "one of 4 started by mpirun"),
    ("mpi-components", |it| it.set("OMPI_MCA_btl", "vader,tcp"), "`vader,tcp`"),
    ("mpi-components", |it| it.set("OMPI_MCA_btl", "^openib,self"), "`^openib,self`"),
    ("mpi-interfaces", |it| it.set("OMPI_MCA_btl_tcp_if_include", "lo,ib0"), "interface ib0"),
    (
        "mpi-interfaces",
        |it| {
            it.set("OMPI_MCA_oob_tcp_if_include", "eth0");
            it.set("OMPI_MCA_oob_tcp_if_exclude", "lo");
        },
        "are both set",
    ),
    (
        "topology",
        |it| {
            it.add_run().topology =
                Err("cluster.device is `cuda`, but this machine has none".into())
        },
        "`cuda`",
    ),
    (
        "cpus",
        |it| it.add_run().topology.as_mut().unwrap().threads = 3,
        "need 6 CPUs, but this machine has 4",
    ),
    (
        "vector-instructions",
        |it| drop(it.write("proc/cpuinfo", "flags : fpu sse avx\n")),
        "no AVX2",
    ),
    (
        "visible-devices",
        |it| {
            it.add_gpus();
            it.site.run = None;
            it.site.machine.gpus = 0;
            it.set("CUDA_VISIBLE_DEVICES", "");
        },
        "hides all 2 GPUs",
    ),
    (
        "visible-devices",
        |it| {
            it.add_gpus();
            it.site.run = None;
            it.site.machine.gpus = 0;
            it.set("CUDA_VISIBLE_DEVICES", "none");
        },
        "hides all 2 GPUs",
    ),
    (
        "visible-devices",
        |it| {
            it.add_gpus();
            it.set("CUDA_VISIBLE_DEVICES", "0,2");
        },
        "names GPU `2`, but this machine has 2 GPUs",
    ),
    (
        "visible-devices",
        |it| {
            it.add_gpus();
            it.set("CUDA_VISIBLE_DEVICES", "1,1");
        },
        "names GPU `1` twice",
    ),
    (
        "driver",
        |it| {
            it.add_gpus();
            it.libraries().driver = None;
        },
        "libcuda.so.1",
    ),
    (
        "driver-version",
        |it| {
            it.add_gpus();
            it.libraries().driver = Some(12040);
        },
        "supports CUDA 12.4, but libtorch needs CUDA 13.0",
    ),
    (
        "cuda",
        |it| {
            it.add_gpus();
            it.libraries().no_cuda = Some("libtorch_cuda.so: not found".into());
        },
        "libtorch_cuda.so",
    ),
    (
        "cuda",
        |it| {
            it.add_gpus();
            it.libraries().gpus = 1;
        },
        "can use only 1 of 2 GPUs",
    ),
    (
        "nccl",
        |it| {
            it.add_gpus();
            it.libraries().no_nccl = Some("NCCL 2.16.3 is too old".into());
        },
        "NCCL 2.16.3 is too old",
    ),
    ("nccl-interface", |it| it.set("NCCL_SOCKET_IFNAME", "ib"), "NCCL_SOCKET_IFNAME is ib"),
    (
        "nccl-variables",
        |it| {
            it.add_gpus();
            it.set("NCCL_P2P_DISABLE", "1");
        },
        "NCCL_P2P_DISABLE",
    ),
    (
        "threads-variable",
        |it| {
            it.add_run().config.cluster.threads = 1;
            it.set("OMP_NUM_THREADS", "8");
        },
        "OMP_NUM_THREADS is 8, but cluster.threads is 1",
    ),
    ("temporary-folder", |it| it.set("TMPDIR", "/no/such/folder"), "/no/such/folder"),
    (
        "temporary-folder",
        |it| {
            let path = it.folder.path().join("long".repeat(20));
            fs::create_dir(&path).unwrap();
            it.set("TMPDIR", path.to_str().unwrap());
        },
        "too long",
    ),
    (
        "slurm-tasks",
        |it| {
            it.set("SLURM_NTASKS", "4");
            it.set("SLURM_JOB_NUM_NODES", "2");
            it.set("SLURM_NTASKS_PER_NODE", "4");
        },
        "SLURM_NTASKS is 4, but SLURM_NTASKS_PER_NODE is 4 on 2 nodes",
    ),
    (
        "slurm-gpus",
        |it| {
            it.add_gpus();
            it.set("SLURM_GPUS_ON_NODE", "2");
            it.set("CUDA_VISIBLE_DEVICES", "0");
        },
        "granted 2 GPUs",
    ),
    ("slurm-end", |it| it.set("SLURM_JOB_END_TIME", "1700000000"), "SLURM_JOB_END_TIME"),
    ("host-name", |it| it.site.resolves = false, "name, here, does not resolve"),
    ("loopback", |it| it.site.loopback = Err("Operation not permitted".into()), "not permitted"),
    ("hosts", |it| it.site.hosts = Err("n1 does not answer".into()), "n1 does not answer"),
    (
        "interfaces",
        |it| it.add_other_interfaces(&["10.1.0.0/16"]),
        "docker0, eth1 are up besides eth0",
    ),
    ("interfaces", |it| it.add_other_interfaces(&[]), "but not Open MPI"),
    ("open-files", |it| drop(it.write("proc/self/limits", "Max open files 256 1024 files")), "256"),
    (
        "processes",
        |it| {
            it.add_run();
            it.write("proc/self/limits", "Max processes 30 30 processes");
        },
        "but the run needs 36",
    ),
    (
        "processes",
        |it| drop(it.write("proc/self/limits", "Max processes 100 100 processes")),
        "100",
    ),
    (
        "core-files",
        |it| drop(it.write("proc/self/limits", "Max core file size unlimited unlimited bytes")),
        "core file",
    ),
    (
        "locked-memory",
        |it| {
            it.write("dev/infiniband/uverbs0", "");
        },
        "8388608 bytes",
    ),
    (
        "memory",
        |it| {
            it.add_run();
            it.write("proc/meminfo", "MemAvailable: 1000000 kB\n");
        },
        "about 2048 MiB",
    ),
    ("shared-memory", |it| it.site.shared_memory = Some(1 << 20), "/dev/shm has 1 MiB free"),
    (
        "shared-memory-leftovers",
        |it| {
            let path = it.write("dev/shm/vader_segment.here.0.1", "");
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
        },
        "left 1 shared-memory files",
    ),
    ("run-folder", |it| it.site.writable = Err("/: Read-only file system".into()), "Read-only"),
    ("space", |it| it.site.free = 5 << 20, "5 MiB of disk are free"),
    (
        "clock",
        |it| it.site.clock_skew = Duration::from_secs(90),
        "differs from this machine's by 90 s",
    ),
    (
        "killed-launcher",
        |it| {
            it.add_run();
            it.write("run/state.json", r#"{"status": "running", "step": 12}"#);
        },
        "killed at step 12",
    ),
];

#[test]
fn each_misconfiguration_is_found_and_nothing_else() {
    for (check, seed, told) in SEEDS {
        let findings = found(seed);
        assert_eq!(findings.len(), 1, "{check}: {findings:#?}");
        assert_eq!(findings[0].check, *check, "{findings:#?}");
        assert!(findings[0].what.contains(told), "{findings:#?}");
        assert!(!findings[0].remedy.is_empty());
    }
}

#[test]
fn every_finding_reads_well() {
    let mut text = String::new();
    for (_, seed, _) in SEEDS {
        let mut seeded = Seeded::new();
        seed(&mut seeded);
        let folder = seeded.folder.path().display().to_string();
        for finding in examine(&seeded.site) {
            text += &finding.to_string().replace(&folder, "[FOLDER]");
            text += "\n";
        }
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_run_that_goes_on_is_found() {
    let mut seeded = Seeded::new();
    seeded.add_run();
    let _lock = seeded.site.run_folder().lock().unwrap();
    let findings = examine(&seeded.site);
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!((findings[0].check, findings[0].level), ("lock", Level::Fail));
}

#[test]
fn models_that_the_hub_is_to_give_are_found() {
    let named: Seed = |it| it.named_model("nobody/no-such-model");
    let online = found(named);
    assert_eq!(online.len(), 1, "{online:#?}");
    assert_eq!((online[0].check, online[0].level), ("hub", Level::Warn));
    let offline = [
        found(|it| {
            named(it);
            it.set("HF_HUB_OFFLINE", "1");
        }),
        found(|it| {
            named(it);
            it.set("TRANSFORMERS_OFFLINE", "TRUE");
        }),
    ];
    for (offline, variable) in offline.iter().zip(["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]) {
        assert_eq!(offline.len(), 1, "{offline:#?}");
        assert_eq!((offline[0].check, offline[0].level), ("hub", Level::Fail));
        assert!(offline[0].to_string().contains(variable), "{offline:#?}");
    }
    let made_by_a_teacher = found(|it| {
        it.named_model("/runs/teacher/export");
        it.set("HF_HUB_OFFLINE", "1");
    });
    assert_eq!(made_by_a_teacher, []);
    let behind_a_proxy = found(|it| {
        named(it);
        it.set("https_proxy", "proxy.example:3128");
    });
    let checks: Vec<&str> = behind_a_proxy.iter().map(|finding| finding.check).collect();
    assert_eq!(checks, ["proxy", "hub"]);
}

#[test]
fn every_check_is_seeded() {
    let elsewhere = ["lock", "hub", "proxy"];
    for (check, _) in CHECKS {
        let seeded = SEEDS.iter().any(|(name, ..)| name == check) || elsewhere.contains(check);
        assert!(seeded, "no test breaks a machine for `{check}`");
    }
}
