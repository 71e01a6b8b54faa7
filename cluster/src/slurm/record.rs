//! What the controller knows about a job, and how another job requests the same.

use std::time::Duration;

use super::cause::{Cause, Output};
use super::step::in_step;
use super::time::duration;

/// Fields whose values may have spaces: each is the last of its line.
const TO_THE_END: [&str; 9] = [
    "JobName",
    "Comment",
    "AdminComment",
    "SystemComment",
    "Command",
    "WorkDir",
    "StdErr",
    "StdIn",
    "StdOut",
];
/// The options of sbatch by which a job asks for what its record has, and the field.
const OPTIONS: [(&str, &str); 33] = [
    ("job-name", "JobName"),
    ("comment", "Comment"),
    ("nice", "Nice"),
    ("partition", "Partition"),
    ("account", "Account"),
    ("qos", "QOS"),
    ("wckey", "WCKey"),
    ("reservation", "Reservation"),
    ("time", "TimeLimit"),
    ("time-min", "TimeMin"),
    ("nodes", "NumNodes"),
    ("ntasks", "NumTasks"),
    ("ntasks-per-gpu", "NtasksPerTRES"),
    ("cpus-per-task", "CPUs/Task"),
    ("cpus-per-gpu", "CpusPerTres"),
    ("mem", "MinMemoryNode"),
    ("mem-per-cpu", "MinMemoryCPU"),
    ("mem-per-gpu", "MemPerTres"),
    ("tmp", "MinTmpDiskNode"),
    ("gres", "TresPerNode"),
    ("gpus", "TresPerJob"),
    ("gpus-per-task", "TresPerTask"),
    ("gpus-per-socket", "TresPerSocket"),
    ("gpu-bind", "TresBind"),
    ("gpu-freq", "TresFreq"),
    ("constraint", "Features"),
    ("nodelist", "ReqNodeList"),
    ("exclude", "ExcNodeList"),
    ("licenses", "Licenses"),
    ("network", "Network"),
    ("switches", "Switches"),
    ("core-spec", "CoreSpec"),
    ("mail-user", "MailUser"),
];
/// The same, where a variable of the job has what its record has not.
const OPTIONS_BY_VARIABLES: [(&str, &str); 3] = [
    ("distribution", "SLURM_DISTRIBUTION"),
    ("cpu-freq", "SLURM_CPU_FREQ_REQ"),
    ("profile", "SLURM_PROFILE"),
];

/// What the controller knows of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Its state, such as RUNNING.
    pub state: String,
    /// Why it is in this state.
    pub reason: String,
    /// When its time is up, in seconds since 1970 by the controller's clock.
    pub end: Option<u64>,
    /// How long it may run.
    pub time_limit: Option<Duration>,
    /// Whether another job has taken its nodes.
    pub preempted: bool,
    /// How often it has been started again.
    pub restarts: u64,
    /// Whether Slurm may start it again.
    pub may_requeue: bool,
    /// Whether it has a batch script.
    pub is_batch: bool,
    /// Its nodes.
    pub nodes: String,
    /// What its batch script prints, and Slurm's own words.
    pub output: Output,
    /// What the job requested, as options of sbatch.
    pub options: Vec<String>,
    /// Why no other job can request the same.
    pub unchained: Option<String>,
}

impl Record {
    /// Reads what `scontrol show job` prints of one job.
    pub(super) fn read(text: &str) -> Self {
        let fields = fields(text);
        let field = |name: &str| {
            fields.iter().find(|(key, _)| *key == name).map(|(_, value)| *value).unwrap_or_default()
        };
        Self {
            state: field("JobState").into(),
            reason: field("Reason").into(),
            end: field("EndTime").parse().ok().filter(|_| field("TimeLimit") != "UNLIMITED"),
            time_limit: duration(field("TimeLimit")),
            preempted: !matches!(field("PreemptTime"), "" | "None"),
            restarts: field("Restarts").parse().unwrap_or(0),
            may_requeue: field("Requeue") == "1",
            is_batch: field("BatchFlag") == "1",
            nodes: field("NodeList").into(),
            // It keeps the percent signs that sbatch was given in twos.
            output: Output::find(&field("StdErr").replace("%%", "%")),
            options: options(field),
            unchained: unchained(field),
        }
    }

    /// Whether nothing of the job runs, nor will.
    pub fn is_over(&self) -> bool {
        let states = [
            "BOOT_FAIL",
            "CANCELLED",
            "COMPLETED",
            "DEADLINE",
            "FAILED",
            "NODE_FAIL",
            "OUT_OF_MEMORY",
            "PREEMPTED",
            "TIMEOUT",
        ];
        states.contains(&self.state.as_str())
    }

    /// Why the job is being ended; `nodes` returns the state of each of its nodes.
    pub(super) fn cause(&self, restarts: u64, nodes: impl FnOnce() -> String) -> Cause {
        let is_down = |state: &str| state.trim().starts_with("down");
        if self.preempted {
            Cause::Preemption
        } else if self.reason == "TimeLimit" || self.state == "TIMEOUT" {
            Cause::TimeLimit
        } else if self.state == "NODE_FAIL" || nodes().lines().any(is_down) {
            Cause::NodeFailure
        } else if self.restarts > restarts {
            Cause::Requeue
        } else if self.state == "RUNNING" {
            Cause::Signal
        } else {
            Cause::Cancel
        }
    }
}

/// The fields of a record, in their order.
fn fields(text: &str) -> Vec<(&str, &str)> {
    let mut fields = Vec::new();
    for line in text.lines() {
        let mut rest = line.trim();
        while let Some((key, value)) = rest.split_once('=') {
            let to_the_end = TO_THE_END.contains(&key);
            let (value, others) =
                if to_the_end { (value, "") } else { value.split_once(' ').unwrap_or((value, "")) };
            fields.push((key, value));
            rest = others.trim_start();
        }
    }
    fields
}

/// Whether a field's value is none.
fn is_none(value: &str) -> bool {
    matches!(value, "" | "0" | "(null)" | "N/A" | "None" | "NONE" | "UNLIMITED" | "*")
}

/// What a job requested, according to its record.
fn options<'a>(field: impl Fn(&str) -> &'a str) -> Vec<String> {
    let mut options = Vec::new();
    let mut add = |name: &str, value: &str| {
        if !is_none(value) {
            options.push(format!("--{name}={value}"));
        }
    };
    for (name, key) in OPTIONS {
        match name {
            // It follows from the GPUs, and sbatch takes only one of the two.
            "cpus-per-task" if !is_none(field("CpusPerTres")) => {}
            "gres" => add(name, &tres(field(key), "")),
            _ if key.contains("Tres") => add(name, &tres(field(key), "gpu:")),
            _ => add(name, field(key)),
        }
    }
    let part = |key: &str, index: usize| field(key).split(':').nth(index).unwrap_or_default();
    add("ntasks-per-node", part("NtasksPerN:B:S:C", 0));
    add("ntasks-per-socket", part("NtasksPerN:B:S:C", 2));
    add("ntasks-per-core", part("NtasksPerN:B:S:C", 3));
    add("sockets-per-node", field("Socks/Node"));
    add("cores-per-socket", part("ReqB:S:C:T", 2));
    add("threads-per-core", part("ReqB:S:C:T", 3));
    add("mail-type", field("MailType"));
    add("chdir", field("WorkDir"));
    if !is_none(field("Deadline")) {
        add("deadline", &format!("uts{}", field("Deadline")));
    }
    add("input", Some(field("StdIn")).filter(|path| *path != "/dev/null").unwrap_or_default());
    for (name, key) in [("output", "StdOut"), ("error", "StdErr")] {
        let (id, path) = (field("JobId"), field(key));
        // The record writes `%%j` as `%7`: such a path is left to the batch script.
        if !path.replace("%%", "").contains('%') {
            // A name of this job's own becomes one of the next job's.
            add(name, &path.replace(&format!("-{id}."), "-%j."));
        }
    }
    let flag = match field("OverSubscribe") {
        "NO" => Some("exclusive"),
        "USER" => Some("exclusive=user"),
        "MCS" => Some("exclusive=mcs"),
        "YES" => Some("oversubscribe"),
        _ => None,
    };
    let flags = [
        flag,
        Some(if field("Requeue") == "0" { "no-requeue" } else { "requeue" }),
        (field("Contiguous") == "1").then_some("contiguous"),
        field("GresEnforceBind").starts_with("Yes").then_some("gres-flags=enforce-binding"),
    ];
    options.extend(flags.into_iter().flatten().map(|flag| format!("--{flag}")));
    options
}

/// `gres:gpu:a100:2,gres:gpu:v100:1` as an option has it.
fn tres(value: &str, kind: &str) -> String {
    let part = |part: &str| {
        let part = part.trim_start_matches("gres:").trim_start_matches("gres/");
        part.strip_prefix(kind).unwrap_or(part).to_owned()
    };
    value.split(',').map(part).collect::<Vec<_>>().join(",")
}

/// What another job cannot request.
fn unchained<'a>(field: impl Fn(&str) -> &'a str) -> Option<String> {
    let throttle = field("ArrayTaskThrottle");
    if !is_none(throttle) {
        return Some(format!(
            "its array lets {throttle} of its elements run at a time, to which a chained job would \
             not belong; set cluster.slurm.continue to `requeue`"
        ));
    }
    let fields = [("a heterogeneous job", "HetJobId"), ("a burst buffer", "BurstBuffer")];
    let (what, _) = fields.into_iter().find(|(_, key)| !is_none(field(key)))?;
    Some(format!(
        "it asked for {what}, for which a chained job cannot ask; set cluster.slurm.continue to \
         `requeue`"
    ))
}

/// What a job that follows job `id` is asked for by the variables of the job; `mark` is one that
/// it must have.
pub(super) fn options_by_variables(
    id: &str,
    mark: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    let mut options = Vec::new();
    // In a step they are those of srun.
    for (name, key) in OPTIONS_BY_VARIABLES.into_iter().filter(|_| !in_step(&variable)) {
        options.extend(variable(key).map(|value| format!("--{name}={value}")));
    }
    if variable("SLURM_OVERCOMMIT").is_some() {
        options.push("--overcommit".into());
    }
    options.extend(variable("SLURM_ARRAY_TASK_ID").map(|element| format!("--array={element}")));
    // What else the job waited for is over.
    let others = variable("SLURM_JOB_DEPENDENCY").unwrap_or_default();
    let alone = if others.contains("singleton") { ",singleton" } else { "" };
    options.push(format!("--dependency=afterany:{id}{alone}"));
    let passed = match variable("SLURM_EXPORT_ENV").as_deref() {
        None | Some("" | "ALL") => return options,
        Some("NONE" | "NIL") => format!("{mark}={id}"),
        Some(names) => {
            let others = names.split(',').filter(|it| it.split('=').next() != Some(mark));
            let mark = format!("{mark}={id}");
            others.chain([mark.as_str()]).collect::<Vec<_>>().join(",")
        }
    };
    options.push(format!("--export={passed}"));
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: &str = "JobId=7 JobName=a b\n   JobState=RUNNING Reason=None\n   Requeue=1 \
                           Restarts=0 BatchFlag=1\n   RunTime=00:00:03 TimeLimit=01:00:00\n   \
                           EndTime=1700003600\n   PreemptTime=None\n   NodeList=n[1-2]\n   \
                           Command=/x y=z JobState=FAILED\n";

    #[test]
    fn a_record_is_read() {
        let record = Record::read(RUNNING);
        assert!(record.may_requeue && record.is_batch && !record.preempted);
        assert_eq!((record.restarts, record.nodes.as_str()), (0, "n[1-2]"));
        assert_eq!(record.end, Some(1_700_003_600));
        assert_eq!(record.time_limit, Some(Duration::from_secs(3600)));
        let unlimited = Record::read(&RUNNING.replace("TimeLimit=01:00:00", "TimeLimit=UNLIMITED"));
        assert_eq!((unlimited.end, unlimited.time_limit), (None, None));
    }

    /// Records of Slurm 22.05, shortened.
    #[test]
    fn the_next_job_is_asked_for_the_same() {
        let asked = |text: &str| Record::read(text).options.join(" ");
        assert_eq!(
            asked(
                "JobId=7 JobName=a\nAccount=(null) QOS=high\nRequeue=1\nTimeLimit=00:05:00 \
                 TimeMin=N/A\nPartition=main\nNumNodes=2-2 NumTasks=8 CPUs/Task=1 \
                 ReqB:S:C:T=0:0:*:*\nSocks/Node=* NtasksPerN:B:S:C=4:0:*:* CoreSpec=*\n\
                 MinMemoryNode=0\nFeatures=(null) DelayBoot=00:00:00\nOverSubscribe=OK Contiguous=0 \
                 Licenses=(null) Network=(null)\nStdOut=/tmp/slurm-7.out\n\
                 TresPerNode=gres:gpu:a100:4"
            ),
            "--job-name=a --partition=main --qos=high --time=00:05:00 --nodes=2-2 --ntasks=8 \
             --cpus-per-task=1 --gres=gpu:a100:4 --ntasks-per-node=4 --output=/tmp/slurm-%j.out \
             --requeue"
        );
        assert_eq!(
            asked(
                "JobId=7\nRequeue=0\nTimeLimit=UNLIMITED\nNumNodes=1 NtasksPerN:B:S:C=0:0:1:* \
                 ReqB:S:C:T=0:0:*:1\nMinMemoryNode=100M\nOverSubscribe=NO\nTresPerTask=gres:gpu:1"
            ),
            "--nodes=1 --mem=100M --gpus-per-task=1 --ntasks-per-socket=1 --threads-per-core=1 \
             --exclusive --no-requeue"
        );
        let line = |line: &str| asked(&format!("JobId=7\n   {line}\n"));
        for (record, options) in [
            ("Priority=42 Nice=5 Account=(null)", "--nice=5 --requeue"),
            ("ReqNodeList=n[1-2] ExcNodeList=n3", "--nodelist=n[1-2] --exclude=n3 --requeue"),
            ("Features=[a&b|c] DelayBoot=00:00:00", "--constraint=[a&b|c] --requeue"),
            ("RunTime=00:00:03 TimeMin=00:02:00", "--time-min=00:02:00 --requeue"),
            ("CPUs/Task=1 CpusPerTres=gres:gpu:2", "--cpus-per-gpu=2 --requeue"),
            ("MemPerTres=gres:gpu:100", "--mem-per-gpu=100 --requeue"),
            (
                "TresPerJob=gres:gpu:a:2,gres:gpu:b:1 NtasksPerTRES=2",
                "--ntasks-per-gpu=2 --gpus=a:2,b:1 --requeue",
            ),
            ("TresPerNode=gres/gpu:4", "--gres=gpu:4 --requeue"),
            ("TresBind=gpu:closest", "--gpu-bind=closest --requeue"),
            ("Comment=two words Nice=7 ", "--comment=two words Nice=7 --requeue"),
            ("Deadline=1700000000", "--deadline=uts1700000000 --requeue"),
            ("MailUser=a@b MailType=END", "--mail-user=a@b --mail-type=END --requeue"),
            ("OverSubscribe=USER Contiguous=1", "--exclusive=user --requeue --contiguous"),
            ("WorkDir=/a b/it's", "--chdir=/a b/it's --requeue"),
            ("StdOut=/a b/50%%-7.out", "--output=/a b/50%%-%j.out --requeue"),
            ("StdOut=/a b/%7/slurm-7.out", "--requeue"),
            (
                "GresEnforceBind=YesKillOInInvalidDependent=Yes",
                "--requeue --gres-flags=enforce-binding",
            ),
        ] {
            assert_eq!(line(record), options, "{record}");
        }
    }

    #[test]
    fn what_cannot_be_asked_for_again_is_refused() {
        let unchained = |line: &str| Record::read(&format!("JobId=7 {line}\n")).unchained;
        assert_eq!(unchained("ArrayJobId=4 ArrayTaskId=1 JobName=x"), None);
        let reason = unchained("ArrayJobId=4 ArrayTaskThrottle=2 JobName=x").unwrap();
        assert!(reason.contains("lets 2 of its elements run at a time"), "{reason}");
        assert!(reason.contains("cluster.slurm.continue to `requeue`"), "{reason}");
        assert!(unchained("HetJobId=7 HetJobOffset=0").unwrap().contains("heterogeneous"));
    }

    #[test]
    fn what_the_record_does_not_have_is_in_variables() {
        let asked = |variables: &str| {
            let variable = |name: &str| {
                let mut pairs = variables.split(' ').filter_map(|pair| pair.split_once('='));
                pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
            };
            options_by_variables("7", "MARK", variable).join(" ")
        };
        assert_eq!(asked(""), "--dependency=afterany:7");
        assert_eq!(
            asked("SLURM_DISTRIBUTION=cyclic SLURM_CPU_FREQ_REQ=Low SLURM_ARRAY_TASK_ID=3"),
            "--distribution=cyclic --cpu-freq=Low --array=3 --dependency=afterany:7"
        );
        assert_eq!(asked("SLURM_DISTRIBUTION=block SLURM_STEP_ID=0"), "--dependency=afterany:7");
        assert_eq!(
            asked("SLURM_JOB_DEPENDENCY=afterok:3,singleton"),
            "--dependency=afterany:7,singleton"
        );
        let export = |value: &str| asked(&format!("SLURM_EXPORT_ENV={value}"));
        assert_eq!(export("ALL"), "--dependency=afterany:7");
        assert_eq!(export("NONE"), "--dependency=afterany:7 --export=MARK=7");
        assert_eq!(export("A=1,MARK=6"), "--dependency=afterany:7 --export=A=1,MARK=7");
    }

    #[test]
    fn causes_are_told_apart() {
        let cause = |from: &str, to: &str, nodes: &str| {
            assert!(from.is_empty() || RUNNING.contains(from));
            Record::read(&RUNNING.replace(from, to)).cause(0, || nodes.into())
        };
        let up = "mixed\nallocated\n";
        assert_eq!(cause("", "", up), Cause::Signal);
        assert_eq!(cause("JobState=RUNNING", "JobState=CANCELLED", up), Cause::Cancel);
        assert_eq!(cause("Reason=None", "Reason=TimeLimit", up), Cause::TimeLimit);
        assert_eq!(cause("PreemptTime=None", "PreemptTime=1700000000", up), Cause::Preemption);
        assert_eq!(cause("Restarts=0", "Restarts=1", up), Cause::Requeue);
        assert_eq!(cause("Restarts=0", "Restarts=1", "down*\nidle\n"), Cause::NodeFailure);
        assert_eq!(cause("JobState=RUNNING", "JobState=NODE_FAIL", up), Cause::NodeFailure);
    }
}
