//! In a job of Slurm's, whose programs only say what they are told to.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{SystemTime, UNIX_EPOCH};

use tandem_cluster::process::host_name;
use tandem_tests::live::Run;
use tandem_tests::{Ended, expect_code};

use crate::support::{fake_run, run_folder};

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
fn in_job(limit: u64, left: u64, behind: u64) -> Run {
    let run = fake_run(1);
    let folder = run.beside("slurm");
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
    run.with("PATH", &format!("{}:{paths}", folder.display()))
        .with("SLURM_JOB_ID", "7")
        .with("SLURM_JOB_NODELIST", &host)
}

fn calls(run: &Run) -> String {
    fs::read_to_string(run.beside("slurm/calls")).unwrap_or_default()
}

#[test]
fn a_job_that_is_all_margin_is_refused() {
    let ended = in_job(120, 120, 0).launch(&[], 2);
    let words = "error: cluster.slurm.margin is 120 s, but the time limit of job 7 is 120 s: ";
    assert!(ended.stderr.starts_with(words), "{}", ended.stderr);
}

#[test]
fn the_controllers_clock_tells_when_a_job_ends() {
    let run = in_job(150, 150, 100);
    let ended = run.launch(&[], 0);
    let words = "warning: cluster.slurm.margin is 120 s, and the time limit of job 7 is 150 s: a job \
                 trains for 30 s at most";
    ended.assert_said(words);
    assert!(!calls(&run).contains("sbatch"), "{}", calls(&run));
}

#[test]
fn a_job_near_its_end_is_followed_by_another_one() {
    let run = in_job(1500, 100, 0);
    let ended = run.launch(&[], 75);
    ended.assert_said("job 7 ends by its time limit; job 8 resumes the run afterwards");
    assert!(calls(&run).contains("sbatch --parsable "), "{}", calls(&run));
    assert!(calls(&run).contains(" --job-name=a b "), "{}", calls(&run));
    assert!(run_folder(&run).job_script().exists());
}

#[test]
fn a_job_that_may_not_be_requeued_is_not() {
    let run = in_job(1500, 100, 0).set("cluster.slurm.continue=requeue");
    let record = fs::read_to_string(run.beside("slurm/record")).unwrap();
    fs::write(run.beside("slurm/record"), record.replace("Requeue=1", "Requeue=0")).unwrap();
    let ended = run.launch(&[], 75);
    ended.assert_said(
        "no job resumes the run: cluster.slurm.continue is requeue, but the job may not be",
    );
    assert!(!calls(&run).contains("sbatch"), "{}", calls(&run));
}

#[test]
fn a_signal_of_others_is_not_scancel() {
    let run = in_job(1500, 1500, 0).set("training.steps=100000");
    let launch = run.start(&[]);
    run.wait_for_step(3);
    launch.signal("TERM");
    let ended = launch.wait(75);
    ended.assert_said(
        "job 7 ends by a signal that Slurm did not send; no job resumes the run: somebody",
    );
}

/// What a verb does to the run after its job: its exit code, and what it says and prints.
fn verb(run: &Run, verb: &str) -> (Option<i32>, String) {
    let ended = Ended::of(&mut run.tandem(&[verb, "runs/test"]));
    (ended.code, ended.stderr + &ended.stdout)
}

/// A run whose job has ended, and job 8, which is to go on with it and is in this state.
fn chained(state: &str) -> Run {
    let run = in_job(1500, 100, 0);
    run.launch(&[], 75);
    let record = format!("JobId=8 JobName=a\n   JobState={state} Restarts=0\n");
    fs::write(run.beside("slurm/record-8"), record).unwrap();
    run
}

#[test]
fn a_stop_cancels_the_job_that_waits() {
    let run = chained("PENDING");
    let (_, status) = verb(&run, "status");
    assert!(
        status.contains("state       stopped; job 8 is in the queue and will resume it"),
        "{status}"
    );
    let (code, said) = verb(&run, "stop");
    assert_eq!(
        (code, said.as_str()),
        (Some(0), "cancelled job 8, which would have resumed the run\n")
    );
    assert!(calls(&run).ends_with("scancel 8\n"), "{}", calls(&run));
    let (_, status) = verb(&run, "status");
    assert!(status.contains("state       stopped; launch it again to resume"), "{status}");
    assert!(status.contains("no job resumes the run: `tandem stop` cancelled job 8"), "{status}");
    let (code, said) = verb(&run, "stop");
    assert!(code == Some(2) && said.contains("is not running"), "{said}");
}

#[test]
fn a_job_that_does_not_wait_any_more_is_not_waited_for() {
    let run = chained("CANCELLED");
    let (_, status) = verb(&run, "status");
    assert!(status.contains("state       stopped; launch it again to resume"), "{status}");
    assert!(status.contains("; job 8 is no longer in the queue"), "{status}");
    assert_eq!(verb(&run, "stop").0, Some(2));
    assert!(!calls(&run).contains("scancel"), "{}", calls(&run));
}

#[test]
fn a_stop_where_slurm_does_not_answer_names_the_job() {
    let run = chained("PENDING");
    fs::remove_file(run.beside("slurm/scontrol")).unwrap();
    let (code, said) = verb(&run, "stop");
    assert_eq!(code, Some(2));
    assert!(said.starts_with("error: Slurm does not say whether job 8 waits: "), "{said}");
}

/// Everything that is left over of a job that is no more, and what of it is told.
#[test]
fn what_is_left_over_of_a_job_is_named() {
    let left_over = || in_job(1500, 1500, 0);
    let over = |run: &Run| {
        let record = fs::read_to_string(run.beside("slurm/record")).unwrap();
        fs::write(run.beside("slurm/record"), record.replace("=RUNNING", "=COMPLETED")).unwrap();
    };
    let run = left_over();
    over(&run);
    let ended = run.launch(&[], 2);
    let words = "error: SLURM_JOB_ID is 7 and SLURM_JOB_NODELIST is ";
    assert!(ended.stderr.starts_with(words), "{}", ended.stderr);
    ended.assert_said("but of that job Slurm says: COMPLETED");
    ended.assert_said("`unset ${!SLURM_JOB*}`");

    let run = left_over().with("SLURM_JOB_NODELIST", "");
    let ended = run.launch(&[], 2);
    let words = "error: SLURM_JOB_ID is 7, but SLURM_JOB_NODELIST is not set";
    assert!(ended.stderr.starts_with(words), "{}", ended.stderr);

    // One worker on this machine is no matter of Slurm's.
    let run = left_over().set("cluster.engine=solo");
    over(&run);
    run.launch(&[], 0);
    fs::write(run.beside("lines"), "a\nb\n").unwrap();
    let words = ["translate", "runs/test", "--input", "lines"];
    let ended = expect_code(&mut run.tandem(&words), 0);
    ended.assert_said("note: on this machine alone: SLURM_JOB_ID is 7 and ");
    assert_eq!(ended.stdout.lines().count(), 2);

    left_over().with("SLURM_JOB_ID", "").launch(&[], 0);
}

/// As in a container without Slurm's programs.
#[test]
fn another_node_without_srun_is_refused() {
    let run = in_job(1500, 1500, 0);
    let programs = run.beside("programs");
    fs::create_dir(&programs).unwrap();
    fs::write(programs.join("mpirun"), "").unwrap();
    let run = run.with("PATH", &programs.to_string_lossy());
    let nodes = format!("{},elsewhere", host_name());
    let run = run.with("SLURM_JOB_NODELIST", &nodes).set("cluster.workers=2");
    let ended = run.launch(&[], 2);
    let words =
        "error: the workers need elsewhere, another node of Slurm's job, and srun is not in PATH";
    assert!(ended.stderr.starts_with(words), "{}", ended.stderr);
}
