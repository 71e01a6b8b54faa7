//! In a job of Slurm's, whose programs only say what they are told to.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{SystemTime, UNIX_EPOCH};

use tandem_cluster::process::host_name;

use crate::support::{Bench, Ended};

/// What `scontrol` says: of job 8 what is in the file `record-8` if that is there, of others what is in
/// `record`, and as its own time what is in `clock`. All programs note how they were called.
const PROGRAM: &str = "#!/bin/sh
cd \"$(dirname \"$0\")\" || exit 1
echo \"$(basename \"$0\") $*\" >>calls
case \"$(basename \"$0\") $1 $2\" in
\"scontrol show job\") cat \"record-$3\" 2>/dev/null || cat record ;;
\"scontrol show config\") echo \"Configuration data as of $(cat clock)\" ;;
\"scontrol write batch_script\") echo '#!/bin/sh' >\"$4\" ;;
sbatch*) echo 8 ;;
esac
";

/// A run in job 7, which has this machine for `limit` seconds, of which `left` are left by the
/// controller's clock. That is `behind` this machine's.
fn in_job(limit: u64, left: u64, behind: u64) -> Bench {
    let bench = Bench::new(1);
    let folder = bench.path("slurm");
    fs::create_dir(&folder).unwrap();
    for name in ["scontrol", "sbatch", "scancel", "sinfo", "srun"] {
        fs::write(folder.join(name), PROGRAM).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - behind;
    fs::write(folder.join("clock"), now.to_string()).unwrap();
    let (host, end) = (host_name(), now + left);
    let record = format!(
        "JobId=7 JobName=a b\n   JobState=RUNNING Reason=None\n   Requeue=1 Restarts=0 BatchFlag=1\n   \
         RunTime=00:00:00 TimeLimit=0:{:02}:{:02}\n   EndTime={end}\n   PreemptTime=None\n   \
         NodeList={host}\n   Nodes={host} CPU_IDs=0-1 Mem=0 GRES=\n",
        limit / 60,
        limit % 60
    );
    fs::write(folder.join("record"), record).unwrap();
    let paths = std::env::var("PATH").unwrap_or_default();
    bench
        .with("PATH", &format!("{}:{paths}", folder.display()))
        .with("SLURM_JOB_ID", "7")
        .with("SLURM_JOB_NODELIST", &host)
}

fn calls(bench: &Bench) -> String {
    fs::read_to_string(bench.path("slurm/calls")).unwrap_or_default()
}

#[test]
fn a_job_that_is_all_margin_is_refused() {
    let ended = in_job(120, 120, 0).launch();
    ended.assert_code(2);
    let words = "error: cluster.slurm.margin is 120 s, but the time limit of job 7 is 120 s: ";
    assert!(ended.said.starts_with(words), "{}", ended.said);
}

#[test]
fn the_controllers_clock_tells_when_a_job_ends() {
    let bench = in_job(150, 150, 100);
    let ended = bench.launch();
    ended.assert_code(0);
    let words = "warning: cluster.slurm.margin is 120 s, and the time limit of job 7 is 150 s: a job \
                 trains for 30 s at most";
    ended.assert_said(words);
    assert!(!calls(&bench).contains("sbatch"), "{}", calls(&bench));
}

#[test]
fn a_job_near_its_end_is_followed_by_another_one() {
    let bench = in_job(1500, 100, 0);
    let ended = bench.launch();
    ended.assert_code(75);
    ended.assert_said("job 7 ends by its time limit; job 8 resumes the run afterwards");
    assert!(calls(&bench).contains("sbatch --parsable "), "{}", calls(&bench));
    assert!(calls(&bench).contains(" --job-name=a b "), "{}", calls(&bench));
    assert!(bench.run().job_script().exists());
}

#[test]
fn a_job_that_may_not_be_requeued_is_not() {
    let bench = in_job(1500, 100, 0).set("cluster.slurm.continue=requeue");
    let record = fs::read_to_string(bench.path("slurm/record")).unwrap();
    fs::write(bench.path("slurm/record"), record.replace("Requeue=1", "Requeue=0")).unwrap();
    let ended = bench.launch();
    ended.assert_code(75);
    ended.assert_said(
        "no job resumes the run: cluster.slurm.continue is requeue, but the job may not be",
    );
    assert!(!calls(&bench).contains("sbatch"), "{}", calls(&bench));
}

#[test]
fn a_signal_of_others_is_not_scancel() {
    let bench = in_job(1500, 1500, 0).with("FAKE_STEPS", "100000");
    let live = bench.start();
    bench.wait_for_step(3);
    live.signal("TERM");
    let ended = live.wait();
    ended.assert_code(75);
    ended.assert_said(
        "job 7 ends by a signal that Slurm did not send; no job resumes the run: somebody",
    );
}

/// What a verb does to the run after its job: its exit code, and what it says and prints.
fn verb(bench: &Bench, verb: &str) -> (Option<i32>, String) {
    let ended = Ended::new(bench.tandem(&[verb, "runs/test"]).output().unwrap());
    (ended.code, ended.said + &ended.printed)
}

/// A run whose job has ended, and job 8, which is to go on with it and is in this state.
fn chained(state: &str) -> Bench {
    let bench = in_job(1500, 100, 0);
    bench.launch().assert_code(75);
    let record = format!("JobId=8 JobName=a\n   JobState={state} Restarts=0\n");
    fs::write(bench.path("slurm/record-8"), record).unwrap();
    bench
}

#[test]
fn a_stop_cancels_the_job_that_waits() {
    let bench = chained("PENDING");
    let (_, status) = verb(&bench, "status");
    assert!(
        status.contains("state       stopped; job 8 is in the queue and will resume it"),
        "{status}"
    );
    let (code, said) = verb(&bench, "stop");
    assert_eq!(
        (code, said.as_str()),
        (Some(0), "cancelled job 8, which would have resumed the run\n")
    );
    assert!(calls(&bench).ends_with("scancel 8\n"), "{}", calls(&bench));
    let (_, status) = verb(&bench, "status");
    assert!(status.contains("state       stopped; launch it again to resume"), "{status}");
    assert!(status.contains("no job resumes the run: `tandem stop` cancelled job 8"), "{status}");
    let (code, said) = verb(&bench, "stop");
    assert!(code == Some(2) && said.contains("is not running"), "{said}");
}

#[test]
fn a_job_that_does_not_wait_any_more_is_not_waited_for() {
    let bench = chained("CANCELLED");
    let (_, status) = verb(&bench, "status");
    assert!(status.contains("state       stopped; launch it again to resume"), "{status}");
    assert!(status.contains("; job 8 is no longer in the queue"), "{status}");
    assert_eq!(verb(&bench, "stop").0, Some(2));
    assert!(!calls(&bench).contains("scancel"), "{}", calls(&bench));
}

#[test]
fn a_stop_where_slurm_does_not_answer_names_the_job() {
    let bench = chained("PENDING");
    fs::remove_file(bench.path("slurm/scontrol")).unwrap();
    let (code, said) = verb(&bench, "stop");
    assert_eq!(code, Some(2));
    assert!(said.starts_with("error: Slurm does not say whether job 8 waits: "), "{said}");
}

/// Everything that is left over of a job that is no more, and what of it is told.
#[test]
fn what_is_left_over_of_a_job_is_named() {
    let left_over = || in_job(1500, 1500, 0);
    let over = |bench: &Bench| {
        let record = fs::read_to_string(bench.path("slurm/record")).unwrap();
        fs::write(bench.path("slurm/record"), record.replace("=RUNNING", "=COMPLETED")).unwrap();
    };
    let bench = left_over();
    over(&bench);
    let ended = bench.launch();
    ended.assert_code(2);
    let words = "error: SLURM_JOB_ID is 7 and SLURM_JOB_NODELIST is ";
    assert!(ended.said.starts_with(words), "{}", ended.said);
    ended.assert_said("but of that job Slurm says: COMPLETED");
    ended.assert_said("`unset ${!SLURM_JOB*}`");

    let bench = left_over().with("SLURM_JOB_NODELIST", "");
    let ended = bench.launch();
    ended.assert_code(2);
    let words = "error: SLURM_JOB_ID is 7, but SLURM_JOB_NODELIST is not set";
    assert!(ended.said.starts_with(words), "{}", ended.said);

    // One worker on this machine is no matter of Slurm's.
    let bench = left_over().set("cluster.engine=solo");
    over(&bench);
    bench.launch().assert_code(0);
    fs::write(bench.path("lines"), "a\nb\n").unwrap();
    let words = ["translate", "runs/test", "--input", "lines"];
    let ended = Ended::new(bench.tandem(&words).output().unwrap());
    ended.assert_code(0);
    ended.assert_said("note: on this machine alone: SLURM_JOB_ID is 7 and ");
    assert_eq!(ended.printed.lines().count(), 2);

    left_over().with("SLURM_JOB_ID", "").launch().assert_code(0);
}

/// As in a container without Slurm's programs.
#[test]
fn another_node_without_srun_is_refused() {
    let bench = in_job(1500, 1500, 0);
    let programs = bench.path("programs");
    fs::create_dir(&programs).unwrap();
    fs::write(programs.join("mpirun"), "").unwrap();
    let bench = bench.with("PATH", &programs.to_string_lossy());
    let nodes = format!("{},elsewhere", host_name());
    let bench = bench.with("SLURM_JOB_NODELIST", &nodes).set("cluster.workers=2");
    let ended = bench.launch();
    ended.assert_code(2);
    let words =
        "error: the workers need elsewhere, another node of Slurm's job, and srun is not in PATH";
    assert!(ended.said.starts_with(words), "{}", ended.said);
}
