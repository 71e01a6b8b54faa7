//! However nodes, tasks and GPUs were asked for: each rank has its node and its GPU.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tandem_tests::Tiny;
use tandem_tests::live::{eventually, state};

use crate::lab::{Lab, tandem};

/// What was asked for; and what comes of it: ranks by node, device, CPU threads.
const FORMS: [(&str, &str, &str); 12] = [
    ("--nodes=2 --ntasks-per-node=4 --gpus-per-node=4", "n1:4 n2:4", "cuda"),
    ("--nodes=2 --ntasks-per-node=1 --gpus-per-node=4 --cpus-per-task=8", "n1:4 n2:4", "cuda"),
    ("--nodes=2 --gpus-per-node=2", "n1:2 n2:2", "cuda"),
    ("--nodes=2 --ntasks=3 --gpus-per-task=1", "n1:2 n2:1", "cuda"),
    ("--nodes=2 --ntasks-per-node=4 --gres=gpu:4", "n1:4 n2:4", "cuda"),
    ("--nodes=2 --gpus=5", "n1:4 n2:1", "cuda"),
    ("--nodes=1 --gpus=3", "n1:3", "cuda"),
    ("--array=3 --nodes=1 --ntasks=2 --gres=gpu:2", "n1:2", "cuda"),
    ("--nodes=2 --ntasks-per-node=2", "n1:2 n2:2", "cpu"),
    ("--nodes=2", "n1:1 n2:1", "cpu"),
    ("--ntasks=4 --cpus-per-task=2", "n1:4", "cpu"),
    ("--nodes=2 --ntasks=3", "n1:2 n2:1", "cpu"),
];

/// Prints which rank of which node sees which GPUs, and ends.
const WORKER: &str = "#!/bin/sh
rank=${OMPI_COMM_WORLD_RANK:-$SLURM_PROCID}
local=${OMPI_COMM_WORLD_LOCAL_RANK:-$SLURM_LOCALID}
echo \"$rank $local $(hostname) ${CUDA_VISIBLE_DEVICES:-none}\" >>\"$RANKS\"
sleep 2 # mpirun ends the others when one has ended.
exit 2
";

#[test]
#[ignore = "needs root and Slurm: make test-slurm"]
fn ranks_go_where_slurm_says() {
    let lab = Lab::start(2, 4, 16);
    let tiny = Tiny::texts();
    let config = tiny.translation("forms", 0, TRANSFORMER, TRANSFORMER, "{ masked: {} }");
    let auto = "--set cluster.device=auto --set training.micro_batches=16";
    let plan = format!("{} plan --json {} {auto}", tandem(), config.display());
    for (index, (options, shares, device)) in FORMS.iter().enumerate() {
        let output = lab.path(&format!("form-{index}.json"));
        let options: Vec<&str> = options.split(' ').collect();
        let script = format!("{plan} >{}", output.display());
        lab.sbatch(&[&["--output=/dev/null"], &*options].concat(), &format!("sh -c '{script}'"));
        lab.wait_until_idle();
        assert_eq!(topology(&output), ((*shares).into(), (*device).into()), "{options:?}");
    }

    // From another machine, and from within a step.
    let words: Vec<&str> = plan.split(' ').collect();
    let salloc = ["salloc", "--quiet", "--nodes=2", "--gpus-per-node=2"];
    let said = lab.say(&[&salloc, &*words].concat());
    assert_eq!(topology_of(&said), ("n1:2 n2:2".into(), "cuda".into()));
    let srun = ["srun", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=4", "--label"];
    let said = lab.say(&[&srun, &*words].concat());
    let task = |task: &str| -> String {
        said.lines().filter_map(|line| line.strip_prefix(&format!("{task}: "))).collect()
    };
    assert_eq!(topology_of(&task("0")), ("n1:4 n2:4".into(), "cuda".into()));
}

#[test]
#[ignore = "needs root and Slurm: make test-slurm"]
fn each_rank_finds_its_gpu() {
    let lab = Lab::start(2, 4, 16);
    let tiny = Tiny::texts();
    let config = tiny.translation("ranks", 0, TRANSFORMER, TRANSFORMER, "{ masked: {} }");
    let worker = worker(&tiny, "worker.sh", WORKER);
    for (form, options, tasks, engine) in [
        ("per-node", "--ntasks-per-node=1 --gpus-per-node=4", "", "auto"),
        ("per-task", "--ntasks-per-node=4 --gpus-per-task=1", "", "auto"),
        ("steps", "--ntasks-per-node=1 --gpus-per-node=4", "srun --ntasks-per-node=1 ", "auto"),
        // As where Slurm has no PMIx.
        ("mpirun", "--ntasks-per-node=1 --gpus-per-node=4", "srun --ntasks-per-node=1 ", "mpirun"),
    ] {
        let ranks = lab.path(form);
        let launch = format!(
            "env TANDEM_WORKER={} RANKS={} {tasks}{} launch {} --set cluster.device=auto \
             --set training.micro_batches=8 --set cluster.max_restarts=0 --restart \
             --set cluster.engine={engine}",
            worker.display(),
            ranks.display(),
            tandem(),
            config.display()
        );
        let options: Vec<&str> = options.split(' ').collect();
        lab.sbatch(&[&["--nodes=2", "--output=/dev/null"], &*options].concat(), &launch);
        lab.wait_until_idle();
        let text = std::fs::read_to_string(&ranks).unwrap_or_default();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_by_key(|line| line.split(' ').next().and_then(|rank| rank.parse::<u32>().ok()));
        let wanted: Vec<String> =
            (0..8).map(|rank| format!("{rank} {} n{} 0,1,2,3", rank % 4, rank / 4 + 1)).collect();
        assert_eq!(lines, wanted, "{form}");
    }
    a_chained_job_is_like_the_first(&lab, &tiny);
}

/// Submitted by a path, with a run folder and with options that a shell, `#SBATCH` lines, sbatch's
/// patterns and the lines of a record could each take for something else.
fn a_chained_job_is_like_the_first(lab: &Lab, tiny: &Tiny) {
    let plain = tiny.translation("hostile", 2, TRANSFORMER, TRANSFORMER, "{ masked: {} }");
    let config = tiny.path("it's a %j.yaml");
    std::fs::copy(plain, &config).unwrap();
    let runs = tiny.path("50% #of\tit's %j");
    let folder = format!("run.folder={}", Value::from(runs.to_string_lossy()));
    let config = config.to_string_lossy();
    let started = lab.path("started");
    let text = format!("#!/bin/sh\necho $SLURM_JOB_ID >>{}\nexec sleep 60\n", started.display());
    let worker = worker(tiny, "sleep.sh", &text);
    let words = [&tandem(), "slurm", &config, "--set", &folder, "--time", "5", "--print"];
    let text = lab.say(&[&words[..], &["--workers-per-node=2"]].concat());
    let script = lab.path("it's a script.sh");
    std::fs::write(&script, text).unwrap();
    let run = runs.join("hostile");
    std::fs::create_dir_all(&run).unwrap();
    // What sbatch's command line asks for is not in the script.
    let options = [
        "--comment=two words Nice=7",
        "--job-name=it's a=b",
        "--exclude=n1",
        "--nice=5",
        "--no-requeue",
        "--time-min=4",
        "--mem=100",
    ];
    let (worker, script) =
        (format!("TANDEM_WORKER={}", worker.display()), script.to_string_lossy());
    let words = ["env", &worker, "sbatch", "--parsable"];
    let first = lab.say(&[&words[..], &options, &[&script]].concat()).trim().to_owned();
    let wait_until_started = |job: &str| {
        eventually("the job starts its workers", || {
            let jobs = std::fs::read_to_string(&started).unwrap_or_default();
            jobs.lines().any(|line| line == job)
        });
    };
    let warn = |job: &str| lab.say(&["scancel", "--signal=USR1", "--batch", job]);
    wait_until_started(&first);
    warn(&first);
    eventually("another job follows", || {
        !state(&run)["job_endings"][0]["next"]["chained"].is_null()
    });
    let next = &state(&run)["job_endings"][0]["next"]["chained"]["job"];
    let second = next.as_str().unwrap().to_owned();
    wait_until_started(&second);
    let record = lab.say(&["scontrol", "show", "job", &second]);
    for words in [
        "JobName=it's a=b\n",
        "Comment=two words Nice=7",
        "ExcNodeList=n1\n",
        " Nice=5 ",
        "Requeue=0 ",
        " TimeMin=00:04:00\n",
        "MinMemoryNode=100M ",
        " NumTasks=2 ",
    ] {
        assert!(record.contains(words), "`{words}` is not in\n{record}");
    }
    warn(&second);
    lab.wait_until_idle();
    for job in [&first, &second] {
        let log = run.join(format!("slurm-{job}.out"));
        assert!(log.is_file(), "{}", log.display());
    }
    let said = std::fs::read_to_string(run.join(format!("slurm-{second}.out"))).unwrap();
    assert!(said.contains("no job resumes the run: the job before it"), "{said}");
}

/// A program in a worker's place.
fn worker(tiny: &Tiny, name: &str, text: &str) -> PathBuf {
    let path = tiny.write(name, text);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
#[ignore = "needs root and Slurm: make test-slurm"]
fn contradictions_are_refused_by_both_names() {
    let lab = Lab::start(2, 4, 16);
    let tiny = Tiny::texts();
    let config = tiny.translation("wrong", 0, TRANSFORMER, TRANSFORMER, "{ masked: {} }");
    for (options, setting, one, other) in [
        (
            "--ntasks-per-node=2 --gpus-per-node=4",
            "cluster.device=auto",
            "SLURM_NTASKS_PER_NODE puts 2 tasks on n1",
            "it has 4 GPUs (by scontrol show job",
        ),
        ("--ntasks-per-node=2", "cluster.workers=3", "cluster.workers is 3", "gives 4 tasks"),
        ("--gpus-per-node=1", "cluster.workers=9", "cluster.workers is 9", "there are 2 GPUs"),
        ("--ntasks=4", "cluster.threads=2", "cluster.threads is 2", "SLURM_CPUS_PER_TASK is 1"),
        ("--ntasks=2", "cluster.device=cuda", "cluster.device is `cuda`", "no usable GPU"),
    ] {
        let output = lab.path("said");
        let device = "--set cluster.device=auto --set training.micro_batches=16";
        let launch = format!("{} plan {} {device} --set {setting}", tandem(), config.display());
        let to = format!("--output={}", output.display());
        let options: Vec<&str> = options.split(' ').collect();
        lab.sbatch(&[&["--nodes=2", "--cpus-per-task=1", &to], &*options].concat(), &launch);
        lab.wait_until_idle();
        let said = std::fs::read_to_string(&output).unwrap();
        assert!(said.contains(one) && said.contains(other), "{options:?} {setting}: {said}");
        std::fs::remove_file(&output).unwrap();
    }
}

/// The nodes' own names are all the same, and those of Slurm's are known to no name server.
#[test]
#[ignore = "needs root and Slurm: make test-slurm"]
fn nodes_are_told_apart_by_slurms_names() {
    let lab = Lab::start_with_other_names(2, 4);
    let tiny = Tiny::texts();
    let submit = |name: &str, options: &[&str], verb: &str, settings: &str| {
        let config = tiny.translation(name, 0, TRANSFORMER, TRANSFORMER, "{ masked: {} }");
        let output = format!("--output={}", lab.path(&format!("{name}.out")).display());
        let command = format!("{} {verb} {} {settings}", tandem(), config.display());
        let fixed = ["--nodes=2", "--ntasks-per-node=1", "--exclusive", &output];
        lab.sbatch(&[&fixed, options].concat(), &command);
        tiny.path(name)
    };
    let said =
        |name: &str| std::fs::read_to_string(lab.path(&format!("{name}.out"))).unwrap_or_default();
    submit("doctor", &[], "doctor", "");
    lab.wait_until_idle();
    let findings = said("doctor");
    assert!(!findings.contains("  hosts:") && findings.contains(" checks: "), "{findings}");
    for engine in ["srun", "mpirun"] {
        let run = submit(engine, &[], "launch", &format!("--set cluster.engine={engine}"));
        lab.wait_until_idle();
        assert_eq!(state(&run)["status"], "done", "{}", said(engine));
        let events = std::fs::read_to_string(run.join("events.jsonl")).unwrap();
        for words in ["\"rank\":0,\"host\":\"n1\"", "\"rank\":1,\"host\":\"n2\""] {
            assert!(events.contains(words), "{engine}: {events}");
        }
    }

    let endless =
        "--set training.steps=1000000 --set evaluation.every=0 --set cluster.max_restarts=0";
    let run = submit("lost", &["--no-kill"], "launch", endless);
    eventually("it trains", || state(&run)["latest"].as_u64() > Some(0));
    lab.script("power", &["n2"]);
    lab.wait_until_idle();
    assert!(said("lost").contains("error: rank 1 on n2 hung "), "{}", said("lost"));
}

pub(crate) const TRANSFORMER: &str = "{ transformer: { layers: 1, hidden: 16, heads: 2, feed_forward: 16, \
                           vocabulary: { learn: { size: 110, lowercase: false } } } }";

fn topology(plan: &Path) -> (String, String) {
    topology_of(&std::fs::read_to_string(plan).unwrap_or_default())
}

/// Ranks by host, and the device.
fn topology_of(plan: &str) -> (String, String) {
    let plan: Value = serde_json::from_str(plan).unwrap_or_else(|error| panic!("{error}: {plan}"));
    let topology = &plan["topology"];
    let hosts = topology["hosts"].as_array().into_iter().flatten();
    let shares =
        hosts.map(|share| format!("{}:{}", share["host"].as_str().unwrap(), share["ranks"]));
    let device = topology["device"].as_str().unwrap_or_default().to_owned();
    (shares.collect::<Vec<_>>().join(" "), device)
}
