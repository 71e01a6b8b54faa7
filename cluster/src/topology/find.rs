//! How a run's ranks are placed among hosts, and what keeps them from it.

use tandem_config::schema::cluster::{self, Bounds, Cluster, GradientDtype, Reduction, Workers};

use super::{Device, EngineKind, Share, Topology};
use crate::hosts::network;
use crate::hosts::{Host, HostPool, HostPoolError, Machine, Source, is_in_path};
use crate::slurm::SlurmError;

/// Settings that contradict each other or the hosts.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The hosts of the run are not known.
    #[error(transparent)]
    Hosts(#[from] HostPoolError),
    /// Slurm's tasks are neither one for each place on a GPU nor one for each node.
    #[error(transparent)]
    Slurm(#[from] SlurmError),
    /// GPUs were requested.
    #[error("cluster.device is `cuda`, but there is no usable GPU ({source_of_count})")]
    NoGpu {
        /// How the number was found.
        source_of_count: String,
    },
    /// The GPUs have room for so many workers each.
    #[error(
        "cluster.workers is {workers}, but there are {gpus} GPUs ({source_of_count}) and \
         cluster.workers_per_gpu is {workers_per_gpu}; lower the one, raise the other or set \
         `cluster.device: cpu`"
    )]
    TooManyWorkers {
        /// The setting.
        workers: usize,
        /// What there is.
        gpus: usize,
        /// How many workers each has room for.
        workers_per_gpu: usize,
        /// How the number was found.
        source_of_count: String,
    },
    /// There must be room for some.
    #[error(
        "cluster.workers.min is {min}, but there is room for {room} ({source_of_count}); lower it, \
         or wait until there is more"
    )]
    TooLittleRoom {
        /// The setting.
        min: usize,
        /// Workers that fit.
        room: usize,
        /// How the room was found.
        source_of_count: String,
    },
    /// Another number of workers was requested from Slurm.
    #[error(
        "cluster.workers is {workers}, but {tasks_by} gives {tasks} tasks; let one of them follow \
         the other, as with `cluster.workers: 0`"
    )]
    OtherTasks {
        /// The setting.
        workers: usize,
        /// What Slurm places.
        tasks: usize,
        /// The variable that holds the number.
        tasks_by: &'static str,
    },
    /// Each worker would have more threads than CPUs.
    #[error(
        "cluster.threads is {threads}, but SLURM_CPUS_PER_TASK is {cpus}: ask Slurm for \
         --cpus-per-task={threads}, or lower cluster.threads"
    )]
    OtherThreads {
        /// The setting.
        threads: usize,
        /// What each task has.
        cpus: usize,
    },
    /// More workers than places.
    #[error(
        "cluster.workers is {workers}, but the hosts have {room} places ({source_of_count}); lower \
         it or add hosts"
    )]
    TooFewPlaces {
        /// The setting.
        workers: usize,
        /// What there is.
        room: usize,
        /// Where the list of hosts comes from.
        source_of_count: String,
    },
    /// `solo` starts one worker.
    #[error("cluster.engine is `solo`, which starts one worker, but cluster.workers is {workers}")]
    SoloGroup {
        /// The setting.
        workers: usize,
    },
    /// Products of matrices depend on the threads, and so would the result on the workers.
    #[error(
        "cluster.reduction is `reproducible`, but with `cluster.threads: 0` the CPU threads of a \
         worker depend on the number of workers, and the result's last bits on the threads; set \
         cluster.threads to a number that is kept, such as {threads}"
    )]
    ThreadsVary {
        /// How many each worker would get now.
        threads: usize,
    },
    /// MPI adds no bf16.
    #[error(
        "cluster.gradient_dtype is `bf16`, but the workers compute on CPUs ({source_of_count}), \
         which sum gradients in f32; set it to `f32`"
    )]
    Bf16OnCpus {
        /// How the number of GPUs was found.
        source_of_count: String,
    },
    /// There is no mpirun.
    #[error(
        "{workers} workers need Open MPI's mpirun, which is not in PATH; install openmpi-bin or \
         set `cluster.workers: 1`"
    )]
    NoMpirun {
        /// How many workers.
        workers: usize,
    },
    /// In a Slurm job, mpirun reaches other nodes by srun.
    #[error(
        "the workers need {host}, another node of Slurm's job, and srun is not in PATH; in a container, \
         bind Slurm's programs and its configuration into it"
    )]
    NoSlurmPrograms {
        /// A node.
        host: String,
    },
    /// mpirun starts nothing inside of what it has started itself.
    #[error(
        "this is one of {processes} processes that mpirun started (OMPI_COMM_WORLD_SIZE), and inside \
         of it no workers can be started; start `tandem launch` once, without mpirun"
    )]
    InsideMpirun {
        /// The value of the variable.
        processes: String,
    },
    /// Hosts of the hostfile are away.
    #[error("{} {} not answer, and {why}", names.join(", "), if names.len() == 1 { "does" } else { "do" })]
    Silent {
        /// Their names.
        names: Vec<String>,
        /// Why the others are not enough.
        why: String,
    },
    /// Slurm is not there, or cannot start programs of Open MPI.
    #[error("cluster.engine is `srun`, but {reason}; set it to `auto`, which takes mpirun then")]
    NoSrun {
        /// Why not.
        reason: &'static str,
    },
}

impl Topology {
    /// Where the ranks of a run with these settings go, among the hosts that are available now. A run
    /// that may have fewer workers does without the hosts of its hostfile that do not answer.
    ///
    /// # Errors
    /// Settings that contradict each other or the hosts.
    pub fn find_now(settings: &Cluster) -> Result<Self, TopologyError> {
        Self::find_in(settings, HostPool::find(settings)?)
    }

    fn find_in(settings: &Cluster, mut pool: HostPool) -> Result<Self, TopologyError> {
        if matches!(settings.workers, Workers::Within(_)) {
            pool.leave_out_the_silent();
        }
        let found = Self::find(settings, &pool)?;
        if let (Source::Slurm(_), Some(host)) = (&pool.source, found.remote_host())
            && !is_in_path("srun")
        {
            return Err(TopologyError::NoSlurmPrograms { host: host.into() });
        }
        match std::env::var("OMPI_COMM_WORLD_SIZE") {
            Ok(processes) if found.engine != EngineKind::Solo => {
                Err(TopologyError::InsideMpirun { processes })
            }
            _ => Ok(found),
        }
    }

    /// The same, to use a trained model: variables of Slurm's that are left over, or not all here, do
    /// not matter where this machine will do. What they say is told.
    ///
    /// # Errors
    /// Settings that contradict each other or the hosts.
    pub fn find_to_use(
        settings: &Cluster,
        tell: impl FnOnce(&SlurmError),
    ) -> Result<Self, TopologyError> {
        match Self::find_now(settings) {
            Err(TopologyError::Hosts(HostPoolError::Slurm(
                error @ (SlurmError::Partial { .. } | SlurmError::Over { .. }),
            ))) => {
                tell(&error);
                Self::find_in(settings, Machine::this().into())
            }
            found => found,
        }
    }

    /// Where the ranks of a run with these settings go when they have to start again: the hosts of a
    /// hostfile that do not answer are done without where the others are enough.
    ///
    /// # Errors
    /// [`TopologyError::Silent`] where they are not; and as [`Self::find_now`].
    pub fn find_again(settings: &Cluster) -> Result<Self, TopologyError> {
        let mut pool = HostPool::find(settings)?;
        if !matches!(pool.source, Source::Hostfile(_)) {
            return Self::find_in(settings, pool);
        }
        let names = pool.leave_out_the_silent();
        let found = Self::find(settings, &pool);
        match (settings.workers, found) {
            (_, found) if names.is_empty() => found,
            (Workers::Number(0), _) => {
                let why = "cluster.workers is 0, one for each slot of each host".into();
                Err(TopologyError::Silent { names, why })
            }
            (_, Err(error)) => Err(TopologyError::Silent { names, why: error.to_string() }),
            (_, found) => found,
        }
    }

    /// Where the ranks of a run with these settings go in a pool of hosts.
    ///
    /// # Errors
    /// Settings that contradict each other or the hosts.
    pub fn find(settings: &Cluster, pool: &HostPool) -> Result<Self, TopologyError> {
        let device = device(settings, pool)?;
        let ranks = ranks(settings, pool, device)?;
        let hosts = share_out(settings, pool, device, ranks);
        let engine = engine(settings, pool, ranks, &hosts)?;
        let threads = threads(settings, pool, device, &hosts)?;
        let workers_per_gpu = if device == Device::Cuda { settings.workers_per_gpu } else { 1 };
        Ok(Self { ranks, device, workers_per_gpu, threads, engine, hosts })
    }
}

/// How many workers so many GPUs have room for.
fn places_on(gpus: usize, settings: &Cluster) -> usize {
    gpus.saturating_mul(settings.workers_per_gpu)
}

fn device(settings: &Cluster, pool: &HostPool) -> Result<Device, TopologyError> {
    let source_of_count = || pool.gpus_by.clone();
    let device = match settings.device {
        cluster::Device::Cuda if pool.gpus() == 0 => {
            return Err(TopologyError::NoGpu { source_of_count: source_of_count() });
        }
        cluster::Device::Auto if pool.gpus() == 0 => Device::Cpu,
        cluster::Device::Cpu => Device::Cpu,
        cluster::Device::Cuda | cluster::Device::Auto => Device::Cuda,
    };
    if device == Device::Cpu && settings.gradient_dtype == GradientDtype::Bf16 {
        return Err(TopologyError::Bf16OnCpus { source_of_count: source_of_count() });
    }
    Ok(device)
}

/// How many workers a host has room for.
fn places(host: &Host, settings: &Cluster, device: Device) -> usize {
    match (device, host.slots) {
        (Device::Cuda, Some(slots)) => slots.max(1).min(places_on(host.gpus, settings)),
        (Device::Cuda, None) => places_on(host.gpus, settings),
        (Device::Cpu, Some(slots)) => slots,
        (Device::Cpu, None) => host.cpus / settings.threads.max(1),
    }
}

fn ranks(settings: &Cluster, pool: &HostPool, device: Device) -> Result<usize, TopologyError> {
    if let (Source::Slurm(allocation), Device::Cuda) = (&pool.source, device) {
        allocation.check_tasks(settings.workers_per_gpu)?;
    }
    let places: usize = pool.hosts.iter().map(|host| places(host, settings, device)).sum();
    let by_slots = match &pool.source {
        Source::Machine => None,
        Source::Hostfile(path) => Some(format!("slots by {}", path.display())),
        Source::Slurm(allocation) => allocation.tasks_by.map(|name| format!("tasks by {name}")),
    };
    let source_of_count = match device {
        Device::Cpu => by_slots.clone().unwrap_or_else(|| "CPUs by cluster.threads".into()),
        Device::Cuda => pool.gpus_by.clone(),
    };
    match (settings.workers, device) {
        (Workers::Within(Bounds { min, .. }), _) if places < min => {
            Err(TopologyError::TooLittleRoom { min, room: places, source_of_count })
        }
        (Workers::Within(Bounds { max, .. }), _) => Ok(places.min(max)),
        (Workers::Number(0), _) if settings.engine == cluster::Engine::Solo => Ok(1),
        (Workers::Number(0), Device::Cpu) if by_slots.is_none() => Ok(pool.hosts.len()),
        (Workers::Number(0), _) => Ok(places),
        (Workers::Number(workers), Device::Cuda) if workers > places_on(pool.gpus(), settings) => {
            let (gpus, workers_per_gpu) = (pool.gpus(), settings.workers_per_gpu);
            Err(TopologyError::TooManyWorkers { workers, gpus, workers_per_gpu, source_of_count })
        }
        (Workers::Number(workers), Device::Cuda) if workers > places => {
            let source_of_count = by_slots.unwrap_or(source_of_count);
            Err(TopologyError::TooFewPlaces { workers, room: places, source_of_count })
        }
        (Workers::Number(workers), Device::Cpu) => match &pool.source {
            Source::Slurm(allocation) if by_slots.is_some() && workers != places => {
                let tasks_by = allocation.tasks_by.unwrap_or("SLURM_NTASKS");
                Err(TopologyError::OtherTasks { workers, tasks: places, tasks_by })
            }
            Source::Hostfile(_) if workers > places => {
                Err(TopologyError::TooFewPlaces { workers, room: places, source_of_count })
            }
            _ => Ok(workers),
        },
        (Workers::Number(workers), Device::Cuda) => Ok(workers),
    }
}

/// Fills one host after the other where their places are counted, and spreads evenly what is left,
/// or all where nobody has counted.
fn share_out(settings: &Cluster, pool: &HostPool, device: Device, ranks: usize) -> Vec<Share> {
    let mut left = ranks;
    let mut counts: Vec<usize> = Vec::new();
    for host in &pool.hosts {
        let counted = device == Device::Cuda || host.slots.is_some();
        let count = if counted { places(host, settings, device).min(left) } else { 0 };
        counts.push(count);
        left -= count;
    }
    let hosts = counts.len();
    for index in 0..left {
        counts[index % hosts] += 1;
    }
    let shares = pool.hosts.iter().zip(counts).filter(|(_, ranks)| *ranks > 0);
    shares.map(|(host, ranks)| Share { host: host.name.clone(), ranks }).collect()
}

fn engine(
    settings: &Cluster,
    pool: &HostPool,
    ranks: usize,
    hosts: &[Share],
) -> Result<EngineKind, TopologyError> {
    let names = || hosts.iter().map(|share| share.host.as_str());
    let is_here = || network::ours(names()).len() == hosts.len();
    let in_slurm = matches!(pool.source, Source::Slurm(_));
    let engine = match settings.engine {
        cluster::Engine::Solo if ranks > 1 => {
            return Err(TopologyError::SoloGroup { workers: ranks });
        }
        cluster::Engine::Solo => EngineKind::Solo,
        cluster::Engine::Auto if ranks == 1 && (pool.source == Source::Machine || is_here()) => {
            EngineKind::Solo
        }
        cluster::Engine::Srun if !in_slurm => {
            return Err(TopologyError::NoSrun { reason: "this is no job of Slurm's" });
        }
        cluster::Engine::Srun if !pool.srun => {
            let reason = "`srun --mpi=list` names no pmix, by which Open MPI's programs find each \
                          other";
            return Err(TopologyError::NoSrun { reason });
        }
        cluster::Engine::Srun => EngineKind::Srun,
        cluster::Engine::Auto if pool.srun => EngineKind::Srun,
        cluster::Engine::Auto | cluster::Engine::Mpirun => EngineKind::Mpirun,
    };
    if engine == EngineKind::Mpirun && !pool.mpirun {
        return Err(TopologyError::NoMpirun { workers: ranks });
    }
    Ok(engine)
}

/// CPU threads of each worker, on all hosts alike.
fn threads(
    settings: &Cluster,
    pool: &HostPool,
    device: Device,
    hosts: &[Share],
) -> Result<usize, TopologyError> {
    let per_task = match &pool.source {
        Source::Slurm(allocation) => allocation.tasks_by.and(allocation.cpus_per_task),
        Source::Machine | Source::Hostfile(_) => None,
    };
    if let Some(cpus) = per_task
        && settings.threads > cpus
    {
        return Err(TopologyError::OtherThreads { threads: settings.threads, cpus });
    }
    let shares = hosts.iter().filter_map(|share| {
        let host = pool.hosts.iter().find(|host| host.name == share.host)?;
        Some((host.cpus / share.ranks).max(1))
    });
    let threads = match settings.threads {
        0 => shares.min().unwrap_or(1),
        threads => threads,
    };
    let must_be_kept = device == Device::Cpu && settings.reduction == Reduction::Reproducible;
    if must_be_kept && settings.threads == 0 {
        return Err(TopologyError::ThreadsVary { threads });
    }
    Ok(threads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slurm::{Allocation, Node};

    fn find(settings: Cluster, cpus: usize, gpus: usize) -> Result<Topology, TopologyError> {
        let host = Host { name: "here".into(), cpus, gpus, slots: None };
        Topology::find(&settings, &pool(vec![host], Source::Machine))
    }

    fn pool(hosts: Vec<Host>, source: Source) -> HostPool {
        let srun = matches!(source, Source::Slurm(_));
        HostPool { hosts, source, gpus_by: "by decree".into(), mpirun: true, srun }
    }

    /// Two nodes of Slurm's, each with so many tasks, 8 CPUs and so many GPUs.
    fn slurm(settings: Cluster, tasks: usize, gpus: usize) -> Result<Topology, TopologyError> {
        let node = |name: &str| Node { name: name.into(), tasks, cpus: 8, gpus };
        let tasks_by = (tasks > 1).then_some("SLURM_NTASKS");
        let allocation = Allocation {
            job: "7".into(),
            nodes: vec![node("n1"), node("n2")],
            cpus_per_task: Some(2),
            tasks_by,
            gpus_by: "by decree".into(),
        };
        let slots = tasks_by.map(|_| tasks);
        let host = |name: &str| Host { name: name.into(), cpus: 8, gpus, slots };
        Topology::find(&settings, &pool(vec![host("n1"), host("n2")], Source::Slurm(allocation)))
    }

    fn places_of(topology: &Topology) -> String {
        let shares = topology.hosts.iter().map(|share| format!("{}:{}", share.host, share.ranks));
        shares.collect::<Vec<_>>().join(" ")
    }

    fn workers(workers: usize) -> Cluster {
        Cluster { workers: Workers::Number(workers), ..Cluster::default() }
    }

    fn within(min: usize, max: usize) -> Cluster {
        Cluster { workers: Workers::Within(Bounds { min, max }), ..Cluster::default() }
    }

    #[test]
    fn without_settings_the_machine_decides() {
        let cpu = find(workers(0), 8, 0).unwrap();
        assert_eq!((cpu.ranks, cpu.device, cpu.threads), (1, Device::Cpu, 8));
        assert_eq!(cpu.engine, EngineKind::Solo);
        let gpu = find(workers(0), 64, 8).unwrap();
        assert_eq!((gpu.ranks, gpu.device, gpu.threads), (8, Device::Cuda, 8));
        assert_eq!(gpu.engine, EngineKind::Mpirun);
    }

    #[test]
    fn cpus_are_shared_out_and_never_run_out() {
        assert_eq!(find(workers(2), 8, 0).unwrap().threads, 4);
        assert_eq!(find(workers(4), 2, 0).unwrap().threads, 1);
        assert_eq!(find(Cluster { threads: 3, ..workers(2) }, 2, 0).unwrap().threads, 3);
    }

    #[test]
    fn bounds_leave_the_number_to_the_room_there_is() {
        assert_eq!(find(within(1, 8), 64, 4).unwrap().ranks, 4);
        assert_eq!(find(within(1, 8), 6, 0).unwrap().ranks, 6);
        assert_eq!(find(within(1, 4), 6, 0).unwrap().ranks, 4);
        let shares = Cluster { threads: 4, ..within(2, 8) };
        assert_eq!(find(shares.clone(), 14, 0).unwrap().ranks, 3);
        let error = find(shares, 7, 0).unwrap_err().to_string();
        assert!(error.contains("min is 2") && error.contains("room for 1 (CPUs by"), "{error}");
        let error = find(within(5, 8), 64, 4).unwrap_err().to_string();
        assert!(error.contains("room for 4 (by decree)"), "{error}");
    }

    #[test]
    fn contradictions_name_both_sides() {
        let cuda = Cluster { device: cluster::Device::Cuda, ..workers(3) };
        let error = find(cuda.clone(), 8, 0).unwrap_err().to_string();
        assert!(error.contains("`cuda`") && error.contains("by decree"), "{error}");
        let error = find(cuda, 8, 2).unwrap_err().to_string();
        assert!(error.contains("workers is 3") && error.contains("2 GPUs"), "{error}");
        let bf16 = Cluster { gradient_dtype: GradientDtype::Bf16, ..workers(2) };
        let error = find(bf16.clone(), 8, 0).unwrap_err().to_string();
        assert!(error.contains("`bf16`") && error.contains("by decree"), "{error}");
        assert_eq!(find(bf16, 8, 2).unwrap().collective(), Some("NCCL"));
        let solo = Cluster { engine: cluster::Engine::Solo, ..workers(2) };
        let error = find(solo, 8, 0).unwrap_err().to_string();
        assert!(error.contains("`solo`") && error.contains("workers is 2"), "{error}");
        let pool = HostPool { mpirun: false, ..HostPool::from(Machine::this()) };
        let cpu = Cluster { device: cluster::Device::Cpu, ..workers(2) };
        let error = Topology::find(&cpu, &pool).unwrap_err();
        assert!(matches!(error, TopologyError::NoMpirun { workers: 2 }), "{error}");
        let srun = Cluster { engine: cluster::Engine::Srun, ..workers(2) };
        let error = find(srun, 8, 0).unwrap_err().to_string();
        assert!(error.contains("no job of Slurm's"), "{error}");
    }

    #[test]
    fn slurm_gives_a_worker_to_each_gpu_or_task() {
        for (tasks, gpus, shares, threads) in [
            (1, 4, "n1:4 n2:4", 2),
            (4, 4, "n1:4 n2:4", 2),
            (2, 0, "n1:2 n2:2", 4),
            (1, 0, "n1:1 n2:1", 8),
        ] {
            let found = slurm(workers(0), tasks, gpus).unwrap();
            assert_eq!((places_of(&found).as_str(), found.threads), (shares, threads));
            assert_eq!(found.engine, EngineKind::Srun);
        }
        assert_eq!(places_of(&slurm(workers(6), 1, 4).unwrap()), "n1:4 n2:2");
        assert_eq!(places_of(&slurm(workers(6), 1, 0).unwrap()), "n1:3 n2:3");
        assert_eq!(slurm(within(1, 6), 1, 4).unwrap().ranks, 6);
        let mpirun = Cluster { engine: cluster::Engine::Mpirun, ..workers(0) };
        assert_eq!(slurm(mpirun, 1, 4).unwrap().engine, EngineKind::Mpirun);
    }

    #[test]
    fn what_contradicts_slurm_is_refused_by_both_names() {
        let said = |settings, tasks, gpus| slurm(settings, tasks, gpus).unwrap_err().to_string();
        let error = said(workers(3), 2, 0);
        assert!(error.contains("workers is 3") && error.contains("NTASKS gives 4"), "{error}");
        let error = said(workers(0), 2, 4);
        assert!(error.contains("NTASKS puts 2 tasks") && error.contains("4 GPUs"), "{error}");
        let error = said(Cluster { threads: 4, ..workers(0) }, 2, 0);
        assert!(error.contains("threads is 4") && error.contains("CPUS_PER_TASK is 2"), "{error}");
        let error = said(workers(9), 1, 4);
        assert!(error.contains("workers is 9") && error.contains("8 GPUs (by decree)"), "{error}");
    }

    #[test]
    fn gpus_have_as_many_places_as_workers_may_share_one() {
        let sharing = |settings| Cluster { workers_per_gpu: 2, ..settings };
        let found = find(sharing(workers(0)), 16, 2).unwrap();
        assert_eq!((found.ranks, found.workers_per_gpu, found.threads), (4, 2, 4));
        assert_eq!(find(sharing(workers(3)), 16, 2).unwrap().ranks, 3);
        assert_eq!(find(sharing(within(1, 3)), 16, 2).unwrap().ranks, 3);
        assert_eq!(find(sharing(within(1, 8)), 16, 2).unwrap().ranks, 4);
        let error = find(sharing(workers(5)), 16, 2).unwrap_err().to_string();
        assert!(error.contains("workers is 5") && error.contains("2 GPUs (by decree)"), "{error}");
        assert!(error.contains("workers_per_gpu is 2"), "{error}");
        let error = find(sharing(within(5, 8)), 16, 2).unwrap_err().to_string();
        assert!(error.contains("room for 4 (by decree)"), "{error}");
        let cuda = Cluster { device: cluster::Device::Cuda, ..workers(1) };
        let error = find(sharing(cuda), 16, 0).unwrap_err().to_string();
        assert!(error.contains("no usable GPU"), "{error}");
    }

    #[test]
    fn only_gpus_are_shared() {
        let found = find(Cluster { workers_per_gpu: 2, ..workers(0) }, 8, 0).unwrap();
        assert_eq!((found.ranks, found.workers_per_gpu), (1, 1));
        assert_eq!(find(workers(0), 8, 2).unwrap().workers_per_gpu, 1);
    }

    #[test]
    fn slurm_has_a_task_for_each_place_on_a_gpu_or_for_each_node() {
        let sharing = |settings| Cluster { workers_per_gpu: 2, ..settings };
        for (tasks, gpus, shares, threads) in
            [(1, 2, "n1:4 n2:4", 2), (4, 2, "n1:4 n2:4", 2), (2, 1, "n1:2 n2:2", 4)]
        {
            let found = slurm(sharing(workers(0)), tasks, gpus).unwrap();
            assert_eq!((places_of(&found).as_str(), found.threads), (shares, threads));
            assert_eq!(found.workers_per_gpu, 2);
        }
        assert_eq!(places_of(&slurm(sharing(workers(6)), 4, 2).unwrap()), "n1:4 n2:2");
        assert_eq!(places_of(&slurm(sharing(workers(2)), 1, 1).unwrap()), "n1:2");
        let error = slurm(sharing(workers(0)), 4, 4).unwrap_err().to_string();
        assert!(error.contains("puts 4 tasks on n1") && error.contains("4 GPUs"), "{error}");
        assert!(error.contains("2 for each GPU, as cluster.workers_per_gpu"), "{error}");
        let error = slurm(sharing(workers(9)), 1, 2).unwrap_err().to_string();
        assert!(error.contains("workers is 9") && error.contains("4 GPUs (by decree)"), "{error}");
    }

    #[test]
    fn slots_bound_the_places_on_gpus() {
        let host = |name: &str, slots| Host { name: name.into(), cpus: 8, gpus: 2, slots };
        let pool =
            pool(vec![host("n1", Some(3)), host("n2", Some(8))], Source::Hostfile("hosts".into()));
        let found =
            |workers: Cluster| Topology::find(&Cluster { workers_per_gpu: 2, ..workers }, &pool);
        assert_eq!(places_of(&found(workers(0)).unwrap()), "n1:3 n2:4");
        assert_eq!(places_of(&found(workers(4)).unwrap()), "n1:3 n2:1");
        let error = found(workers(8)).unwrap_err().to_string();
        assert!(error.contains("7 places (slots by hosts)"), "{error}");
        let error = found(workers(9)).unwrap_err().to_string();
        assert!(error.contains("there are 4 GPUs"), "{error}");
    }

    #[test]
    fn a_hostfile_is_filled_from_its_beginning() {
        let host = |name: &str| Host { name: name.into(), cpus: 4, gpus: 0, slots: Some(2) };
        let source = Source::Hostfile("hosts".into());
        let pool = pool(vec![host("n1"), host("n2")], source);
        let found = |settings| Topology::find(&settings, &pool);
        assert_eq!(places_of(&found(workers(0)).unwrap()), "n1:2 n2:2");
        assert_eq!(places_of(&found(workers(3)).unwrap()), "n1:2 n2:1");
        let error = found(workers(5)).unwrap_err().to_string();
        assert!(error.contains("workers is 5") && error.contains("4 places (slots by"), "{error}");
        assert_eq!(found(workers(1)).unwrap().remote_host(), Some("n1"));
        let mut with_gpus = pool.clone();
        with_gpus.hosts.iter_mut().for_each(|host| host.gpus = 8);
        let error = Topology::find(&workers(5), &with_gpus).unwrap_err().to_string();
        assert!(error.contains("4 places (slots by"), "{error}");
        let error = Topology::find(&workers(17), &with_gpus).unwrap_err().to_string();
        assert!(error.contains("there are 16 GPUs"), "{error}");
    }

    #[test]
    fn reproducible_sums_on_cpus_need_a_number_of_threads() {
        let reproducible = Cluster { reduction: Reduction::Reproducible, ..workers(2) };
        let error = find(reproducible.clone(), 8, 0).unwrap_err();
        assert!(matches!(error, TopologyError::ThreadsVary { threads: 4 }), "{error}");
        assert!(find(Cluster { threads: 1, ..reproducible.clone() }, 8, 0).is_ok());
        assert!(find(reproducible, 8, 2).is_ok(), "GPUs do not care");
    }

    #[test]
    fn one_worker_can_be_started_by_mpirun() {
        let one = Cluster { engine: cluster::Engine::Mpirun, ..workers(1) };
        assert_eq!(find(one, 2, 0).unwrap().engine, EngineKind::Mpirun);
    }
}
