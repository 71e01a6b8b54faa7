//! Jobs that end before their run: the run goes on where it should, and nowhere else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tandem_tests::live::{Run, eventually, state};
use tandem_tests::{Tiny, adapters};

use crate::lab::{Lab, tandem};

/// So many that a run is still on its way when Slurm gets to what it was asked, on a quiet machine, too.
const STEPS: u64 = 1500;

/// A run of two ranks on two nodes, and the same run undisturbed on this machine.
struct Pair {
    lab: Lab,
    tiny: Arc<Tiny>,
    undisturbed: Vec<u8>,
}

fn settings() -> Vec<String> {
    vec![
        format!("training.steps={STEPS}"),
        "training.log_every=50".into(),
        "evaluation.every=0".into(),
        "evaluation.sentences=4".into(),
        "checkpoints.every=100".into(),
        "checkpoints.keep_last=2".into(),
    ]
}

impl Pair {
    fn new(nodes: usize) -> Self {
        let tiny = Arc::new(Tiny::new());
        let settings = settings();
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let undisturbed = Run::new(&tiny, "undisturbed", 2, &settings);
        undisturbed.launch(&[], 0);
        let undisturbed = adapters(undisturbed.folder(), STEPS);
        Self { lab: Lab::start(nodes, 0, 4), tiny, undisturbed }
    }

    /// The command that launches a run with these settings besides.
    fn command(&self, name: &str, more: &[&str]) -> (String, PathBuf) {
        let config = self.tiny.ab_net(name, 0, 0.1);
        let settings = settings().into_iter().chain(more.iter().map(|it| (*it).to_owned()));
        let settings: Vec<String> = settings.map(|it| format!("--set '{it}'")).collect();
        let command = format!("{} launch {} {}", tandem(), config.display(), settings.join(" "));
        (command, self.tiny.path(name))
    }

    /// Submits that as a job on both nodes.
    fn submit(&self, name: &str, options: &[&str], more: &[&str]) -> (String, PathBuf) {
        let (command, run) = self.command(name, more);
        let output = format!("--output={}", self.lab.path(&format!("{name}.out")).display());
        let fixed =
            ["--nodes=2", "--ntasks-per-node=1", "--open-mode=append", "--exclusive", &output];
        (self.lab.sbatch(&[&fixed, options].concat(), &command), run)
    }

    fn said(&self, name: &str) -> String {
        std::fs::read_to_string(self.lab.path(&format!("{name}.out"))).unwrap_or_default()
    }

    /// Waits until Slurm has given up a node.
    fn wait_until_missed(&self, node: &str) {
        eventually("Slurm misses the node", || {
            std::thread::sleep(Duration::from_millis(200));
            let words = ["sinfo", "--noheader", "--partition=main", "--nodes", node, "--format=%T"];
            self.lab.say(&words).starts_with("down")
        });
    }

    /// The run is done, with the bits of the undisturbed one.
    fn assert_done(&self, run: &Path) {
        let name = run.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(state(run)["status"], "done", "{}", self.said(&name));
        assert!(adapters(run, STEPS) == self.undisturbed, "other weights\n{}", self.said(&name));
    }
}

/// Waits until a run has published a checkpoint later than `step`.
fn wait_for_checkpoint(run: &Path, step: u64) {
    eventually("a checkpoint is published", || {
        state(run)["latest"].as_u64().is_some_and(|latest| latest > step)
    });
}

/// Why and how each job of a run ended: `time_limit chained`.
fn endings(run: &Path) -> Vec<String> {
    let state = state(run);
    let endings = state["job_endings"].as_array().cloned().unwrap_or_default();
    let word = |ending: &serde_json::Value| {
        let next = match &ending["next"] {
            serde_json::Value::String(word) => word.clone(),
            object => object.as_object().and_then(|it| it.keys().next().cloned()).unwrap(),
        };
        format!("{} {next}", ending["cause"].as_str().unwrap_or("none"))
    };
    endings.iter().map(word).collect()
}

#[test]
#[ignore = "needs root and Slurm: make test-slurm"]
fn a_run_outlives_its_jobs() {
    let pair = Pair::new(2);
    timed("time limit", || time_limit(&pair));
    timed("cancelled", || cancelled(&pair));
    timed("preemption", || preemption(&pair));
    timed("requeue", || requeue(&pair));
    timed("preemption for good", || preemption_for_good(&pair));
}

#[test]
#[ignore = "needs root and Slurm: make test-slurm"]
fn a_run_outlives_the_loss_of_nodes() {
    let pair = Pair::new(2);
    timed("lost worker", || lost_node(&pair, "n2"));
    timed("lost launcher", || lost_node(&pair, "n1"));
    timed("cut-off worker", || cut_off(&pair, "n2"));
    timed("cut-off launcher", || cut_off(&pair, "n1"));
    timed("a job that does without a node", || does_without(&pair));
}

/// The launcher's node is cut off and stays so; Slurm starts the job on other nodes.
#[test]
#[ignore = "needs root and Slurm: make test-slurm"]
fn a_run_goes_on_elsewhere() {
    let pair = Pair::new(3);
    let (_, run) = pair.submit("elsewhere", &[], &[]);
    wait_for_checkpoint(&run, 100);
    pair.lab.script("cut", &["n1"]);
    pair.lab.wait_until_idle();
    pair.assert_done(&run);
    pair.lab.script("join", &["n1"]);
    assert_eq!(endings(&run), ["node_failure by_slurm"], "{}", pair.said("elsewhere"));
    let waited = "of an earlier start of this job, at most 300 s (cluster.deadlines.hosts)";
    assert!(pair.said("elsewhere").contains(waited), "{}", pair.said("elsewhere"));
}

fn timed(name: &str, part: impl FnOnce()) {
    let started = Instant::now();
    part();
    println!("{name}: {:.1} s", started.elapsed().as_secs_f64());
}

/// One minute for a job, of which the last 50 seconds are margin; submitted by `tandem slurm`.
fn time_limit(pair: &Pair) {
    let config = pair.tiny.ab_net("limited", 0, 0.1);
    let mut words = vec![tandem(), "slurm".into(), config.to_string_lossy().into_owned()];
    for setting in settings().into_iter().chain(["cluster.slurm.margin=50".into()]) {
        words.extend(["--set".into(), setting]);
    }
    words.extend("--nodes 2 --time 1 -- --exclusive".split(' ').map(String::from));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let said = pair.lab.say(&words);
    assert!(said.contains("submitted job") && said.contains(": 2 workers"), "{said}");
    let run = pair.tiny.path("limited");
    pair.lab.wait_until_idle();
    assert_eq!(state(&run)["status"], "done", "{said}");
    assert!(adapters(&run, STEPS) == pair.undisturbed, "other weights");
    let ended = endings(&run);
    assert!(!ended.is_empty() && ended.iter().all(|it| it == "time_limit chained"), "{ended:?}");
    let logs = std::fs::read_dir(&run).unwrap().filter_map(|entry| entry.ok());
    let names = logs.filter_map(|entry| entry.file_name().into_string().ok());
    let jobs = names.filter(|name| name.starts_with("slurm-")).count();
    assert_eq!(jobs, ended.len() + 1, "each job has a log");
    for pause in pauses(&run) {
        println!("from the end of a job to the workers of the next one: {pause:.1} s");
    }
}

/// Seconds from each stop of a run until all of its workers have connected again.
fn pauses(run: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(run.join("events.jsonl")).unwrap();
    let (mut ended, mut pauses) = (None, Vec::new());
    for line in text.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        let time = event["time"].as_f64().unwrap();
        match event["event"].as_str().unwrap() {
            "exit" => ended = Some(time),
            "plan" => pauses.extend(ended.take().map(|ended| time - ended)),
            _ => {}
        }
    }
    pauses
}

/// Another job takes both nodes; Slurm starts the first one again after it.
fn preemption(pair: &Pair) {
    let (_, run) = pair.submit("preempted", &[], &[]);
    wait_for_checkpoint(&run, 100);
    let high = pair.lab.sbatch(&["--partition=high", "--nodes=2", "--exclusive"], "sleep 1");
    pair.lab.wait_until_idle();
    pair.assert_done(&run);
    assert_eq!(endings(&run), ["preemption by_slurm"], "{high}: {}", pair.said("preempted"));
}

/// By `scontrol requeue`, and by the run's own choice at its time limit.
fn requeue(pair: &Pair) {
    let (job, run) = pair.submit("requeued", &[], &[]);
    wait_for_checkpoint(&run, 100);
    pair.lab.say(&["scontrol", "requeue", &job]);
    pair.lab.wait_until_idle();
    pair.assert_done(&run);
    assert_eq!(endings(&run), ["requeue by_slurm"], "{}", pair.said("requeued"));

    let own = ["cluster.slurm.margin=50", "cluster.slurm.continue=requeue"];
    let (_, run) = pair.submit("back", &["--time=1"], &own);
    pair.lab.wait_until_idle();
    pair.assert_done(&run);
    let ended = endings(&run);
    assert!(!ended.is_empty() && ended.iter().all(|it| it == "time_limit requeue"), "{ended:?}");
}

/// A node loses its power: that of a worker, then that of the launcher, too.
fn lost_node(pair: &Pair, node: &str) {
    let name = format!("lost-{node}");
    let (_, run) = pair.submit(&name, &[], &[]);
    wait_for_checkpoint(&run, 100);
    pair.lab.script("power", &[node]);
    pair.wait_until_missed(node);
    pair.lab.script("join", &[node]);
    pair.lab.script("start-node", &[node]);
    pair.lab.wait_until_idle();
    pair.assert_done(&run);
    assert_eq!(endings(&run), ["node_failure by_slurm"], "{}", pair.said(&name));
}

/// The network of a node is cut for a while, and what runs there does not know: that of a worker, then
/// that of the launcher and of the rank that writes checkpoints.
fn cut_off(pair: &Pair, node: &str) {
    let name = format!("cut-{node}");
    let (_, run) = pair.submit(&name, &[], &[]);
    wait_for_checkpoint(&run, 100);
    pair.lab.script("cut", &[node]);
    pair.wait_until_missed(node);
    pair.lab.script("join", &[node]);
    pair.lab.wait_until_idle();
    pair.assert_done(&run);
    assert_eq!(endings(&run), ["node_failure by_slurm"], "{}", pair.said(&name));
}

/// Slurm does not start the job again: the run has it followed by another one.
fn preemption_for_good(pair: &Pair) {
    let (_, run) = pair.submit("replaced", &["--partition=low"], &[]);
    wait_for_checkpoint(&run, 100);
    pair.lab.sbatch(&["--partition=high", "--nodes=2", "--exclusive"], "sleep 1");
    pair.lab.wait_until_idle();
    pair.assert_done(&run);
    assert_eq!(endings(&run), ["preemption chained"], "{}", pair.said("replaced"));
}

/// A job that Slurm does not end when it loses a node.
fn does_without(pair: &Pair) {
    let elastic = ["cluster.workers={ min: 1, max: 2 }", "cluster.threads=1"];
    let (_, run) = pair.submit("does-without", &["--no-kill"], &elastic);
    wait_for_checkpoint(&run, 100);
    pair.lab.script("power", &["n2"]);
    pair.lab.wait_until_idle();
    pair.lab.script("join", &["n2"]);
    pair.lab.script("start-node", &["n2"]);
    let said = pair.said("does-without");
    assert!(said.contains("error: rank 1 on n2 hung "), "{said}");
    // The other node has CPUs for both.
    assert!(said.contains("resuming with 2 workers on n1\n"), "{said}");
    pair.assert_done(&run);
}

/// scancel is final.
fn cancelled(pair: &Pair) {
    let (job, run) = pair.submit("cancelled", &[], &[]);
    wait_for_checkpoint(&run, 100);
    pair.lab.say(&["scancel", &job]);
    pair.lab.wait_until_idle();
    assert_eq!(endings(&run), ["cancel nothing"], "{}", pair.said("cancelled"));
    let state = state(&run);
    assert_eq!(state["status"], "stopped", "{}", pair.said("cancelled"));
    assert!(state["latest"].as_u64() >= state["step"].as_u64(), "the last step was saved");
}
