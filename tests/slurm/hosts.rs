//! Several hosts without Slurm: a hostfile, and Open MPI's own remote start.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tandem_tests::fault::slow_down_shortly;
use tandem_tests::hosts::Hosts;
use tandem_tests::launch::Launch;
use tandem_tests::live::{Run, eventually};
use tandem_tests::{Ended, Tiny, adapters, processes, run_by};

use crate::forms::TRANSFORMER;

const STEPS: u64 = 800;
/// How soon a host that is cut off is to be missed.
const DEADLINE: Duration = Duration::from_secs(15);

const SETTINGS: [&str; 8] = [
    "training.steps=800",
    "training.log_every=50",
    "evaluation.every=0",
    "evaluation.sentences=4",
    "checkpoints.every=50",
    "checkpoints.keep_last=2",
    "cluster.reduction=reproducible",
    "cluster.max_restarts=9",
];

/// Launches a run from n0.
fn launch(hosts: &Hosts, run: &Run, more: &[&str]) -> Launch {
    run.start_with(&[&[&*hosts.setting()], more].concat(), |command| hosts.host(command))
}

/// Waits for the first failure, which must be noticed in time; tells what it was.
fn failure(run: &Run) -> Value {
    let started = Instant::now();
    eventually("the attempt fails", || !run.events("failure").is_empty());
    let (failure, after) = (run.events("failure").swap_remove(0), started.elapsed());
    println!("missed after {:.1} s", after.as_secs_f64());
    assert!(after < DEADLINE, "{after:?}");
    failure["failure"].clone()
}

fn has_workers_of(run: &Run, attempt: u64) -> bool {
    run.workers().iter().any(|pid| processes::variable(*pid, "TANDEM_ATTEMPT") == Some(attempt))
}

#[test]
#[ignore = "needs root: make test-slurm"]
fn a_hostfile_is_enough_and_a_lost_host_is_missed() {
    let tiny = Arc::new(Tiny::new());
    let undisturbed = Run::new(&tiny, "undisturbed", 1, &SETTINGS);
    undisturbed.launch(&[], 0);
    let wanted = adapters(undisturbed.folder(), STEPS);
    let hosts = Hosts::start(2);
    let finish = |launch: Launch, run: &Run| -> Ended {
        let ended = launch.wait(0);
        assert!(adapters(run.folder(), STEPS) == wanted, "other weights\n{}", ended.stderr);
        run.assert_no_process();
        ended
    };

    // Open MPI's daemon on a host is killed.
    let run = Run::new(&tiny, "daemon", 0, &SETTINGS);
    let launched = launch(&hosts, &run, &[]);
    run.wait_for_checkpoint(1, 50);
    hosts.run(2, &["pkill", "-KILL", "orted"]);
    let killed = Instant::now();
    eventually("no worker of that attempt is left", || !has_workers_of(&run, 1));
    println!("no worker is left after {:.1} s", killed.elapsed().as_secs_f64());
    assert!(killed.elapsed() < Duration::from_secs(5));
    finish(launched, &run);

    // The link is cut, and comes back when the run has missed it.
    let run = Run::new(&tiny, "cut", 0, &SETTINGS);
    let launched = launch(&hosts, &run, &[]);
    run.wait_for_checkpoint(1, 50);
    hosts.cut(2);
    let missed = failure(&run);
    assert_eq!((&missed["kind"], &missed["host"]), (&"hang".into(), &"n2".into()));
    eventually("the worker that is cut off ends", || !has_workers_of(&run, 1));
    // It is asked for before it is there again.
    std::thread::sleep(Duration::from_secs(4));
    hosts.join(2);
    finish(launched, &run).assert_said("waiting for n2, at most 300 s (cluster.deadlines.hosts)");

    // The host loses its power, and stays away.
    let run = Run::new(&tiny, "power", 0, &SETTINGS);
    let launched = launch(&hosts, &run, &["cluster.workers={ min: 1, max: 2 }"]);
    run.wait_for_checkpoint(1, 50);
    hosts.power(2);
    assert_eq!(failure(&run)["host"], "n2");
    finish(launched, &run).assert_said("resuming with 1 worker instead of 2, on n1");

    // It is needed, and waited for in vain.
    let run = Run::new(&tiny, "in-vain", 2, &SETTINGS);
    let ended = launch(&hosts, &run, &["cluster.deadlines.hosts=2"]).wait(1);
    ended.assert_said("error: n2 does not answer, and cluster.workers is 2, but ");
}

/// The newest preflight.
fn preflight(run: &Run) -> Value {
    run.events("preflight").pop().expect("a preflight")
}

/// A preflight on hosts of which one is slow, and then without space.
#[test]
#[ignore = "needs root: make test-slurm"]
fn a_slow_host_and_a_full_one_are_named_before_anything_is_loaded() {
    let tiny = Arc::new(Tiny::new());
    let hosts = Hosts::start(2);
    let short = ["training.steps=4", "evaluation.every=0", "evaluation.sentences=4"];

    let run = Run::new(&tiny, "slow", 0, &short);
    let launched = launch(&hosts, &run, &[]);
    let pid = run.rank(1, 1);
    while run.events("preflight").is_empty() && slow_down_shortly(pid) {}
    launched.wait(0).assert_said("note: preflight: n2 (rank 1): a matrix product takes ");
    let found = preflight(&run);
    let host = |rank: usize| found["ranks"][rank]["host"].clone();
    assert_eq!((host(0), host(1)), ("n1".into(), "n2".into()), "{found:#}");
    assert!(found["seconds"].as_f64() < Some(5.0), "{found:#}");

    hosts.fill_temporary_files(2);
    let run = Run::new(&tiny, "full", 0, &short);
    let ended = launch(&hosts, &run, &[]).wait(2);
    ended.assert_said("error: rank 1 on n2 failed in phase start ");
    ended.assert_said(" MiB are free for the temporary files in ");
    assert_eq!(run.events("attempt").len(), 1, "another attempt would not help");
    run.assert_no_process();
}

/// Each host has several networks and several names.
#[test]
#[ignore = "needs root: make test-slurm"]
fn workers_meet_by_the_network_between_their_hosts() {
    let tiny = Arc::new(Tiny::new());
    let hosts = Hosts::start(1);
    let setting = hosts.setting_with_n0();
    let short = ["training.steps=20", "evaluation.sentences=4"];
    let short_run = |name: &str, settings: &[&str]| {
        Run::new(&tiny, name, 0, &[&[&*setting], &short[..], settings].concat())
    };
    let doctor = |run: &Run| {
        let mut command = run.command("doctor", &[]);
        hosts.host(&mut command);
        Ended::of(&mut command).stdout
    };

    let good = short_run("good", &[]);
    let findings = doctor(&good);
    assert!(!findings.contains("  hosts:") && findings.contains(" checks: "), "{findings}");
    let networks = "interfaces: docker0, eth1 are up besides eth0, which leads to the other hosts: Tandem \
                    restricts Open MPI to 198.18.1.0/24 and NCCL to eth0";
    assert!(findings.contains(networks), "{findings}");
    good.start_with(&[], |command| hosts.host(command)).wait(0);
    assert_eq!(preflight(&good)["ranks"].as_array().map(Vec::len), Some(2));

    // The user has chosen a network that leads nowhere.
    let astray = |name: &str, settings: &[&str]| {
        let run = short_run(name, settings);
        let launched = run.start_with(&[], |command| {
            hosts.host(command);
            command.env("OMPI_MCA_btl_tcp_if_include", "eth1");
        });
        (run, launched)
    };
    let (run, launched) = astray("unreachable", &["cluster.max_restarts=0"]);
    let ended = launched.wait(1);
    ended.assert_said("error: rank 1 on n1 hung in phase start ");
    ended.assert_said("rank 1 on n1 could not exchange messages with rank 0 on n0 within 5 s");
    ended.assert_said("eth0 leads to n1, and OMPI_MCA_btl_tcp_if_include is eth1");
    assert_eq!(run.events("plan").len(), 0, "nothing is loaded");
    run.assert_no_process();

    let late = ["cluster.preflight=never", "cluster.deadlines.step=4", "cluster.max_restarts=0"];
    let (run, launched) = astray("astray", &late);
    let ended = launched.wait(1);
    ended.assert_said("no progress in phase reduce for ");
    ended.assert_said("eth0 leads to n1, and OMPI_MCA_btl_tcp_if_include is eth1");
    run.assert_no_process();

    let late = ["cluster.preflight=never", "cluster.deadlines.stop=3"];
    let (run, launched) = astray("stopped", &late);
    eventually("all have connected", || run.events("joined").len() == 2);
    std::thread::sleep(Duration::from_secs(4));
    let asked = Instant::now();
    launched.signal("TERM");
    let ended = launched.wait(124);
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    ended.assert_said("the workers did not stop within 3 s (cluster.deadlines.stop)");
    run.assert_no_process();

    // The other host's workers are not let in, as by a firewall; mpirun's daemon is.
    let refused = "to 198.18.1.1 ipproto tcp sport 32768-60999 dport 32768-60999 unreachable";
    let rule = ["ip", "rule", "add"].into_iter().chain(refused.split(' '));
    hosts.run(1, &rule.collect::<Vec<_>>());
    let run = short_run("refused", &["cluster.max_restarts=0"]);
    let findings = doctor(&run);
    assert!(
        findings
            .contains("failure  hosts: n1 cannot connect to this machine at 198.18.1.1 (eth0)\n"),
        "{findings}"
    );
    let launched = run.start_with(&[], |command| {
        hosts.host(command);
        command.env("OMPI_MCA_oob_tcp_dynamic_ipv4_ports", "20000-20099");
    });
    let ended = launched.wait(1);
    let first = ended.first_error();
    assert!(
        first.starts_with("error: rank 1 ")
            && first.contains("rank 1 on node: cannot reach the coordinator at 198.18.1.1:"),
        "{}",
        ended.stderr
    );
    run.assert_no_process();

    // The hosts share a network of IPv6 alone, and other networks of IPv4.
    hosts.keep_to_ipv6();
    let run = short_run("ipv6", &["cluster.deadlines.step=9", "cluster.max_restarts=0"]);
    run.start_with(&[], |command| hosts.host(command)).wait(0);
}

/// In a network namespace the loopback interface is down at first.
#[test]
#[ignore = "needs root: make test-slurm"]
fn a_machine_that_cannot_connect_to_itself_is_refused() {
    let tiny = Arc::new(Tiny::texts());
    for workers in [1, 2] {
        let name = format!("apart-{workers}");
        let masked = "{ masked: {} }";
        let config = tiny.translation(&name, workers, TRANSFORMER, TRANSFORMER, masked);
        let run = Run::of(&tiny, config, &name, &[]);
        let launched = run.start_with(&[], |command| run_by(command, &["unshare", "--net"]));
        let ended = launched.wait(1);
        let first = ended.first_error();
        let words = "this machine cannot connect to itself (127.0.0.1): Network is unreachable";
        assert!(first.contains(words) && first.contains("`ip link set lo up`"), "{}", ended.stderr);
    }
}
