//! The batch script of a run.

use std::fmt::{Display, Formatter, Result as FmtResult};
use std::path::PathBuf;

use tandem_cluster::hosts::{Host, HostPool, Source};
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::slurm::{self, Allocation, Node};
use tandem_cluster::topology::{Device, Topology};
use tandem_config::schema::cluster::{self, Cluster};

use crate::slurm::job::check_margin;
use crate::terminal::exit::Refused;
use crate::terminal::text::quoted;

/// How the names of Slurm's variables begin.
const OURS: &str = "$SLURM_";

/// What `tandem slurm` requests.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Request {
    /// Number of nodes.
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// GPUs per node, with cluster.workers_per_gpu workers each.
    #[arg(long, value_name = "N")]
    gpus_per_node: Option<usize>,
    /// Workers per node, for runs on CPUs.
    #[arg(long, value_name = "N", conflicts_with = "gpus_per_node")]
    workers_per_node: Option<usize>,
    /// CPUs per worker; cluster.threads by default.
    #[arg(long, value_name = "N")]
    cpus_per_worker: Option<usize>,
    /// Time limit of the job, as days-hours:minutes:seconds; further jobs resume a longer run.
    #[arg(long, value_name = "TIME")]
    time: Option<String>,
    /// The partition.
    #[arg(long)]
    partition: Option<String>,
}

impl Request {
    /// What Slurm would give.
    ///
    /// # Errors
    /// Numbers that are missing or contradict the config.
    pub(crate) fn pool(&self, settings: &Cluster) -> Result<HostPool, Refused> {
        let nodes = self.nodes;
        let counts = [
            ("--nodes", Some(nodes)),
            ("--workers-per-node", self.workers_per_node),
            ("--cpus-per-worker", self.cpus_per_worker),
        ];
        if let Some((option, _)) = counts.iter().find(|(_, count)| *count == Some(0)) {
            return Err(Refused(format!("{option} is 0, must be at least 1")));
        }
        let most = settings.workers.most();
        let (tasks, gpus) = match (self.gpus_per_node, settings.device) {
            (Some(0), _) => return Err(Refused("--gpus-per-node is 0: leave it out".into())),
            (Some(_), cluster::Device::Cpu) => {
                let words = "--gpus-per-node is given, but cluster.device is `cpu`";
                return Err(Refused(words.into()));
            }
            (Some(gpus), _) => (1, gpus),
            (None, cluster::Device::Cuda) => {
                let words = "cluster.device is `cuda`: say how many GPUs with --gpus-per-node";
                return Err(Refused(words.into()));
            }
            (None, _) => (self.workers_per_node.unwrap_or(most.div_ceil(nodes)).max(1), 0),
        };
        let by_tasks = gpus == 0 && tasks > 1;
        let cpus = self.cpus_per_worker(settings);
        let node = |index: usize| Node {
            name: format!("node {}", index + 1),
            tasks,
            cpus: cpus.saturating_mul(tasks.max(gpus.saturating_mul(settings.workers_per_gpu))),
            gpus,
        };
        let nodes: Vec<Node> = (0..nodes).map(node).collect();
        let host = |node: &Node| Host {
            name: node.name.clone(),
            cpus: node.cpus,
            gpus,
            slots: by_tasks.then_some(tasks),
        };
        let hosts = nodes.iter().map(host).collect();
        let allocation = Allocation {
            job: "of this script".into(),
            nodes,
            cpus_per_task: Some(cpus),
            tasks_by: by_tasks.then_some("--workers-per-node"),
            gpus_by: "by --gpus-per-node".into(),
        };
        let gpus_by = allocation.gpus_by.clone();
        let source = Source::Slurm(allocation);
        Ok(HostPool { hosts, source, gpus_by, mpirun: true, srun: true })
    }

    /// Refuses a job whose whole time is margin.
    ///
    /// # Errors
    /// Both numbers.
    pub(crate) fn check_time(
        &self,
        sbatch: &[String],
        settings: &Cluster,
    ) -> Result<Option<String>, Refused> {
        let time = asked_time(sbatch).or(self.time.as_deref());
        match time.and_then(slurm::duration) {
            Some(time) => check_margin(&settings.slurm, "--time", time),
            // Such as UNLIMITED; Slurm refuses what is not a time.
            None => Ok(None),
        }
    }

    fn cpus_per_worker(&self, settings: &Cluster) -> usize {
        self.cpus_per_worker.unwrap_or(settings.threads.max(1))
    }
}

/// The time among options of sbatch: `--time=2`, `--time 2`, `-t 2` or `-t2`.
fn asked_time(sbatch: &[String]) -> Option<&str> {
    let mut words = sbatch.iter().map(String::as_str);
    let mut time = None;
    while let Some(word) = words.next() {
        time = match word {
            "--time" | "-t" => words.next(),
            _ => word.strip_prefix("--time=").or_else(|| word.strip_prefix("-t")).or(time),
        };
    }
    time
}

/// What a batch script is made of; displayed, it is the script.
pub(crate) struct Script<'a> {
    /// The config's absolute path.
    pub config: PathBuf,
    /// Its changed keys.
    pub overrides: &'a [String],
    /// What is requested.
    pub request: &'a Request,
    /// More options for sbatch.
    pub sbatch: &'a [String],
    pub run: &'a RunFolder,
    pub settings: &'a Cluster,
    /// Where its ranks would go.
    pub topology: &'a Topology,
}

impl Script<'_> {
    fn options(&self) -> Vec<String> {
        let Self { request, settings, topology, .. } = self;
        let name = self.run.path().file_name().unwrap_or_default().to_string_lossy();
        let cpus = request.cpus_per_worker(settings);
        let mut options = vec![format!("--job-name={name}"), format!("--nodes={}", request.nodes)];
        match topology.device {
            Device::Cuda => options.extend([
                "--ntasks-per-node=1".into(),
                format!("--gpus-per-node={}", topology.gpus_per_host()),
                format!("--cpus-per-task={}", cpus * topology.ranks_per_host()),
            ]),
            Device::Cpu => options.extend([
                format!("--ntasks-per-node={}", topology.ranks_per_host()),
                format!("--cpus-per-task={cpus}"),
            ]),
        }
        options.extend(request.time.iter().map(|time| format!("--time={time}")));
        options.extend(request.partition.iter().map(|name| format!("--partition={name}")));
        options.extend([
            "--requeue".into(),
            "--open-mode=append".into(),
            // In case the controller does not say in time when the job ends.
            format!("--signal=B:USR1@{}", settings.slurm.margin.ceil()),
        ]);
        let mut options: Vec<String> = options.iter().map(|option| for_sbatch(option)).collect();
        let names_output =
            |option: &String| option.starts_with("--output") || option.starts_with("-o");
        if !self.sbatch.iter().any(names_output) {
            // To sbatch `%j` is the job's number, and `%%` a percent sign.
            let folder = self.run.path().to_string_lossy().replace('%', "%%");
            options.push(for_sbatch(&format!("--output={folder}/slurm-%j.out")));
        }
        for word in self.sbatch {
            match options.last_mut() {
                // The value of the option before, as in `--account nlp`.
                Some(option) if !word.starts_with('-') => {
                    option.push(' ');
                    option.push_str(&for_sbatch(word));
                }
                _ => options.push(for_sbatch(word)),
            }
        }
        options
    }
}

impl Display for Script<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        writeln!(f, "#!/bin/bash")?;
        for option in self.options() {
            writeln!(f, "#SBATCH {option}")?;
        }
        let launcher = std::env::current_exe().unwrap_or_else(|_| "tandem".into());
        let words = |path: &std::path::Path| quoted(&path.to_string_lossy());
        // In the shell's place, so that Slurm's signals reach the launcher.
        write!(f, "\nexec {} launch {}", words(&launcher), words(&self.config))?;
        for setting in self.overrides {
            write!(f, " \\\n    --set {}", quoted_setting(setting))?;
        }
        writeln!(f)
    }
}

/// A word of an `#SBATCH` line, where spaces separate words, `#` begins a comment, and quotes and
/// backslashes mean about what they mean to a shell: a space after a backslash still ends the word.
fn for_sbatch(word: &str) -> String {
    let is_plain = |c: char| !c.is_whitespace() && !"#\"'\\".contains(c);
    if word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A setting as the shell takes it. Variables of Slurm's are left to it, as in
/// `run.name=seed-$SLURM_ARRAY_TASK_ID`.
fn quoted_setting(word: &str) -> String {
    if !word.contains(OURS) {
        return quoted(word);
    }
    let parts = word.split(OURS).map(|part| {
        let escaped = |c: char| match c {
            '"' | '`' | '\\' | '$' => format!("\\{c}"),
            _ => c.to_string(),
        };
        part.chars().map(escaped).collect::<String>()
    });
    format!("\"{}\"", parts.collect::<Vec<_>>().join(OURS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        request: Request,
    }

    fn request(arguments: &str) -> Request {
        let words = std::iter::once("x").chain(arguments.split_whitespace());
        Cli::parse_from(words).request
    }

    fn settings(workers: usize, device: cluster::Device) -> Cluster {
        let workers = cluster::Workers::Number(workers);
        Cluster { workers, device, ..Cluster::default() }
    }

    fn script(request: &Request, settings: &Cluster) -> Result<String, String> {
        let pool = request.pool(settings).map_err(|error| error.to_string())?;
        let topology = Topology::find(settings, &pool).map_err(|error| error.to_string())?;
        let run = RunFolder::new("/runs/my".into());
        let overrides = ["training.steps=9".into(), "run.name=a-$SLURM_ARRAY_TASK_ID".into()];
        let config = "/configs/it's.yaml".into();
        let sbatch = ["--account=nlp".into()];
        let script = Script {
            config,
            overrides: &overrides,
            request,
            sbatch: &sbatch,
            run: &run,
            settings,
            topology: &topology,
        };
        Ok(script.to_string())
    }

    #[test]
    fn a_script_is_what_a_person_would_have_written() {
        let request = request("--nodes 2 --gpus-per-node 8 --time 1-00:00:00 --cpus-per-worker 4");
        let text = script(&request, &settings(0, cluster::Device::Auto)).unwrap();
        let (head, command) = text.split_once("\n\nexec ").unwrap();
        assert_eq!(
            head,
            "#!/bin/bash\n\
             #SBATCH --job-name=my\n\
             #SBATCH --nodes=2\n\
             #SBATCH --ntasks-per-node=1\n\
             #SBATCH --gpus-per-node=8\n\
             #SBATCH --cpus-per-task=32\n\
             #SBATCH --time=1-00:00:00\n\
             #SBATCH --requeue\n\
             #SBATCH --open-mode=append\n\
             #SBATCH --signal=B:USR1@120\n\
             #SBATCH --output=/runs/my/slurm-%j.out\n\
             #SBATCH --account=nlp"
        );
        let words = command.split_once(" launch ").unwrap().1;
        assert_eq!(
            words,
            "'/configs/it'\\''s.yaml' \\\n    --set training.steps=9 \\\n    \
             --set \"run.name=a-$SLURM_ARRAY_TASK_ID\"\n"
        );
    }

    #[test]
    fn words_reach_sbatch_and_the_shell_as_they_are() {
        let request = request("");
        let settings = settings(1, cluster::Device::Cpu);
        let pool = request.pool(&settings).unwrap();
        let topology = Topology::find(&settings, &pool).unwrap();
        let run = RunFolder::new("/my runs/Anna's \"50%j\" #1/a".into());
        let words = |text: &str| text.split('|').map(str::to_owned).collect::<Vec<_>>();
        let overrides =
            words("data.cache=/a b|run.name=a-$SLURM_JOB_ID|x=\"$SLURM_JOB_ID `$HOME`\"");
        let sbatch = words("--comment=two words|--account|n l p|-C|a&b");
        let config = "/my configs/50% $HOME.yaml".into();
        let (settings, topology) = (&settings, &topology);
        let (overrides, sbatch, request, run) = (&overrides, &sbatch, &request, &run);
        let script = Script { config, overrides, request, sbatch, run, settings, topology };
        let script = script.to_string();
        let output = r#"#SBATCH "--output=/my runs/Anna's \"50%%j\" #1/a/slurm-%j.out""#;
        let passed =
            "#SBATCH \"--comment=two words\"\n#SBATCH --account \"n l p\"\n#SBATCH -C a&b\n";
        assert!(script.contains(&format!("{output}\n{passed}")), "{script}");

        // What a shell makes of the last command, with `printf` in the launcher's place.
        let (_, command) = script.split_once("\nexec ").unwrap();
        let (_, arguments) = command.split_once(" launch ").unwrap();
        let shell = format!("SLURM_JOB_ID=7; HOME=/h; printf '%s|' {arguments}");
        let said = std::process::Command::new("bash").args(["-c", &shell]).output().unwrap();
        assert_eq!(
            String::from_utf8(said.stdout).unwrap(),
            "/my configs/50% $HOME.yaml|--set|data.cache=/a b|--set|run.name=a-7|--set|x=\"7 `$HOME`\"|"
        );
    }

    #[test]
    fn workers_that_share_gpus_have_cpus_of_their_own() {
        let request = request("--gpus-per-node 2 --cpus-per-worker 4");
        for (workers, gpus, cpus) in [(0, 2, 24), (6, 2, 24), (4, 2, 16), (3, 1, 12)] {
            let settings =
                Cluster { workers_per_gpu: 3, ..settings(workers, cluster::Device::Auto) };
            let text = script(&request, &settings).unwrap();
            let options = format!("--gpus-per-node={gpus}\n#SBATCH --cpus-per-task={cpus}\n");
            assert!(text.contains(&options), "{text}");
        }
    }

    #[test]
    fn workers_on_cpus_are_tasks() {
        let text = |arguments: &str, workers| {
            let settings = Cluster { threads: 3, ..settings(workers, cluster::Device::Cpu) };
            script(&request(arguments), &settings).unwrap()
        };
        for (arguments, workers) in [("--nodes 2", 4), ("--nodes 2 --workers-per-node 2", 0)] {
            let text = text(arguments, workers);
            assert!(text.contains("--ntasks-per-node=2\n#SBATCH --cpus-per-task=3"), "{text}");
        }
    }

    #[test]
    fn what_contradicts_the_config_is_refused_before_it_waits_in_the_queue() {
        let refused = |arguments: &str, workers, device| {
            script(&request(arguments), &settings(workers, device)).unwrap_err()
        };
        let error = refused("--nodes 2 --gpus-per-node 4", 9, cluster::Device::Auto);
        assert!(error.contains("workers is 9") && error.contains("8 GPUs (by --gpus"), "{error}");
        let error = refused("--gpus-per-node 4", 0, cluster::Device::Cpu);
        assert!(error.contains("--gpus-per-node") && error.contains("`cpu`"), "{error}");
        let error = refused("", 0, cluster::Device::Cuda);
        assert!(error.contains("--gpus-per-node"), "{error}");
        let error = refused("--nodes 2 --workers-per-node 2", 3, cluster::Device::Cpu);
        assert!(error.contains("workers is 3") && error.contains("--workers-per-node"), "{error}");
        for option in ["--nodes", "--workers-per-node", "--cpus-per-worker"] {
            let error = refused(&format!("{option} 0"), 0, cluster::Device::Cpu);
            assert_eq!(error, format!("{option} is 0, must be at least 1"));
        }
    }
    #[test]
    fn a_job_that_is_all_margin_is_refused_before_it_waits_in_the_queue() {
        let check = |arguments: &str, sbatch: &str| {
            let sbatch: Vec<String> = sbatch.split_whitespace().map(str::to_owned).collect();
            request(arguments).check_time(&sbatch, &Cluster::default())
        };
        for (arguments, sbatch) in [
            ("--time 2", ""),
            ("--time 1:59", "--account=nlp"),
            ("", "--time=2"),
            ("", "--account nlp --time 2"),
            ("--time 1-0", "-t 2"),
            ("", "-t2"),
        ] {
            let error = check(arguments, sbatch).unwrap_err().to_string();
            assert!(error.starts_with("cluster.slurm.margin is 120 s, but --time is 1"), "{error}");
        }
        for (arguments, sbatch) in
            [("--time 3", ""), ("--time 2", "--time=3"), ("", "--account=t2"), ("", "-t UNLIMITED")]
        {
            check(arguments, sbatch).unwrap();
        }
    }
}
