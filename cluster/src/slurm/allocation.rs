//! The nodes that Slurm has given to this job, or to the job's step.

use std::process::Command;

use super::host_list;
use super::job::{Job, UNKNOWN_JOB};
use super::record::Record;
use super::step::in_step;

/// How a process leaves a job.
const LEAVE: &str = "`unset ${!SLURM_JOB*}` to use this machine alone";

/// Contradictory or incomplete information from Slurm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlurmError {
    /// A variable or an answer that cannot be read.
    #[error("{name} is `{value}`, which is not {expected}")]
    Unreadable {
        /// The variable or field.
        name: String,
        /// What it says.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Some of Slurm's variables are set, and others are missing.
    #[error(
        "SLURM_JOB_ID is {job}, but {missing} is not set; pass on all variables whose names begin with \
         SLURM_, or {LEAVE}"
    )]
    Partial {
        /// The job's number.
        job: String,
        /// What is not here.
        missing: &'static str,
    },
    /// The job of the variables is no more.
    #[error(
        "SLURM_JOB_ID is {job} and {name} is {list}, but of that job Slurm says: {said}; these are left \
         over from it: {LEAVE}"
    )]
    Over {
        /// The job's number.
        job: String,
        /// The variable with its nodes.
        name: &'static str,
        /// What it says.
        list: String,
        /// The job's state, or that there is none.
        said: String,
    },
    /// Two sources that contradict each other.
    #[error("{one}, but {other}; {remedy}")]
    Contradiction {
        /// The one source and what it says.
        one: String,
        /// The other.
        other: String,
        /// What to do.
        remedy: String,
    },
    /// The GPUs of the other nodes are not known.
    #[error(
        "SLURM_GPUS is {gpus} on {nodes} nodes, and `scontrol show job` does not say how many each \
         has: {reason}; ask for --gpus-per-node instead"
    )]
    Scattered {
        /// All GPUs.
        gpus: usize,
        /// All nodes.
        nodes: usize,
        /// Why it does not say.
        reason: String,
    },
}

/// One node of an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Tasks that Slurm places there.
    pub tasks: usize,
    /// CPUs of the job.
    pub cpus: usize,
    /// GPUs of the job.
    pub gpus: usize,
}

/// What Slurm has given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// The job's number.
    pub job: String,
    /// Its nodes, in Slurm's order.
    pub nodes: Vec<Node>,
    /// CPUs per task, if that was requested.
    pub cpus_per_task: Option<usize>,
    /// The variable that requested tasks, if any did.
    pub tasks_by: Option<&'static str>,
    /// How the GPUs were counted.
    pub gpus_by: String,
}

impl Allocation {
    /// The allocation in which this process runs; none outside of Slurm.
    ///
    /// # Errors
    /// Where Slurm's variables cannot be read or contradict each other.
    pub fn find() -> Result<Option<Self>, SlurmError> {
        let Some(Job { id }) = Job::this() else { return Ok(None) };
        let record = super::ask(Command::new("scontrol").args(["show", "job", "--details", &id]))
            .map_err(|error| error.to_string());
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self::read(variable, record)
    }

    /// Whether this process is a task of a step other than the first, which launches.
    pub fn is_follower() -> bool {
        let variable = |name: &str| std::env::var(name).ok();
        // The shell of a batch job has a SLURM_PROCID, too.
        let task: Option<u64> = variable("SLURM_PROCID").and_then(|task| task.parse().ok());
        in_step(&variable) && task.is_some_and(|task| task > 0)
    }

    fn read(
        variable: impl Fn(&str) -> Option<String>,
        record: Result<String, String>,
    ) -> Result<Option<Self>, SlurmError> {
        let Some(job) = variable("SLURM_JOB_ID") else { return Ok(None) };
        let in_step = in_step(&variable);
        let [name, tasks] = match in_step {
            true => ["SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE"],
            false => ["SLURM_JOB_NODELIST", "SLURM_TASKS_PER_NODE"],
        };
        let Some(list) = variable(name) else {
            return Err(SlurmError::Partial { job, missing: name });
        };
        let unreadable = |name: &str, value: &str, expected| SlurmError::Unreadable {
            name: name.into(),
            value: value.into(),
            expected,
        };
        let names = host_list::names(&list)
            .ok_or_else(|| unreadable(name, &list, "a list of nodes such as n[1-2]"))?;
        let per_node = |name: &str, missing: usize| match variable(name) {
            None => Ok(vec![missing; names.len()]),
            Some(text) => host_list::counts(&text)
                .filter(|counts| counts.len() == names.len() || in_step)
                .ok_or_else(|| unreadable(name, &text, "one number for each node, as 2(x2)")),
        };
        let number = |name: &str| match variable(name) {
            None => Ok(None),
            Some(text) => {
                text.parse::<usize>().map(Some).map_err(|_| unreadable(name, &text, "a number"))
            }
        };
        let said = match &record {
            Ok(text) => Some(Record::read(text)).filter(Record::is_over).map(|record| record.state),
            Err(reason) => reason.contains(UNKNOWN_JOB).then(|| reason.clone()),
        };
        if let Some(said) = said {
            return Err(SlurmError::Over { job, name, list, said });
        }
        let tasks = per_node(tasks, 1)?;
        // In a step on some of the job's nodes this list is of all of them; the record knows.
        let cpus = per_node("SLURM_JOB_CPUS_PER_NODE", 1)?;
        let mut nodes: Vec<Node> = names
            .iter()
            .zip(tasks.iter().zip(cpus.iter().cycle()))
            .map(|(name, (&tasks, &cpus))| Node { name: name.clone(), tasks, cpus, gpus: 0 })
            .collect();
        let gpus_by = match record {
            Ok(record) => {
                let granted = granted(&record)
                    .ok_or_else(|| unreadable("scontrol show job", &record, "a job's record"))?;
                for node in &mut nodes {
                    if let Some(there) = granted.iter().find(|there| there.name == node.name) {
                        (node.cpus, node.gpus) = (there.cpus, there.gpus);
                    }
                }
                format!("by scontrol show job {job}")
            }
            Err(reason) => count_gpus(&mut nodes, &variable, &number, reason)?,
        };
        // Slurm's own defaults are one task for each node.
        let tasks_by = ["SLURM_NTASKS_PER_NODE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"]
            .into_iter()
            .find(|name| variable(name).is_some())
            .filter(|_| tasks.iter().any(|tasks| *tasks > 1));
        let cpus_per_task = number("SLURM_CPUS_PER_TASK")?;
        Ok(Some(Self { job, nodes, cpus_per_task, tasks_by, gpus_by }))
    }

    /// Refuses tasks that are neither `workers_per_gpu` for each GPU nor one for each node.
    ///
    /// # Errors
    /// Both sources.
    pub fn check_tasks(&self, workers_per_gpu: usize) -> Result<(), SlurmError> {
        let Some(tasks_by) = self.tasks_by else { return Ok(()) };
        let is_full = |node: &&Node| node.tasks == node.gpus.saturating_mul(workers_per_gpu);
        let Some(node) = self.nodes.iter().find(|node| !is_full(node)) else { return Ok(()) };
        let Node { name, tasks, gpus, .. } = node;
        Err(SlurmError::Contradiction {
            one: format!("{tasks_by} puts {tasks} tasks on {name}"),
            other: format!("it has {gpus} GPUs ({})", self.gpus_by),
            remedy: format!(
                "ask for tasks, {workers_per_gpu} for each GPU, as cluster.workers_per_gpu says, or \
                 for --ntasks-per-node=1"
            ),
        })
    }
}

/// The GPUs of each node by variables, of which several may speak; how they were counted.
fn count_gpus(
    nodes: &mut [Node],
    variable: &impl Fn(&str) -> Option<String>,
    number: &impl Fn(&str) -> Result<Option<usize>, SlurmError>,
    reason: String,
) -> Result<String, SlurmError> {
    // `a100:2,v100:1` names the kinds, too.
    let of_kind = |name: &str| -> Option<usize> {
        let count = |kind: &str| kind.rsplit(':').next()?.parse::<usize>().ok();
        variable(name)?.split(',').map(count).sum()
    };
    let (here, each) = (number("SLURM_GPUS_ON_NODE")?, of_kind("SLURM_GPUS_PER_NODE"));
    if let (Some(here), Some(each)) = (here, each)
        && here != each
    {
        return Err(SlurmError::Contradiction {
            one: format!("SLURM_GPUS_ON_NODE is {here}"),
            other: format!("SLURM_GPUS_PER_NODE is {each}"),
            remedy: "one of them is left over from another job: unset it".into(),
        });
    }
    if let Some(gpus) = each {
        nodes.iter_mut().for_each(|node| node.gpus = gpus);
        return Ok("by SLURM_GPUS_PER_NODE".into());
    }
    if let Some(gpus) = of_kind("SLURM_GPUS_PER_TASK") {
        nodes.iter_mut().for_each(|node| node.gpus = gpus * node.tasks);
        return Ok("by SLURM_GPUS_PER_TASK".into());
    }
    if let (Some(gpus), 2..) = (of_kind("SLURM_GPUS"), nodes.len()) {
        return Err(SlurmError::Scattered { gpus, nodes: nodes.len(), reason });
    }
    nodes.iter_mut().for_each(|node| node.gpus = here.unwrap_or(0));
    Ok("by SLURM_GPUS_ON_NODE".into())
}

/// The nodes of `scontrol show job --details`, whose lines are like
/// `Nodes=n[1-2] CPU_IDs=0-3,8 Mem=0 GRES=gpu:a100:4(IDX:0-3)`.
fn granted(record: &str) -> Option<Vec<Node>> {
    let mut nodes = Vec::new();
    for line in record.lines().map(str::trim).filter(|line| line.starts_with("Nodes=")) {
        let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name));
        let cpus = field("CPU_IDs=").map_or(0, |ids| ids.split(',').map(width).sum());
        let gpus = field("GRES=").map_or(0, |gres| {
            let kinds = gres.split("),").filter(|kind| kind.starts_with("gpu:"));
            let count = |kind: &str| -> Option<usize> {
                kind.split('(').next()?.rsplit(':').next()?.parse().ok()
            };
            kinds.filter_map(count).sum()
        });
        for name in host_list::names(field("Nodes=")?)? {
            nodes.push(Node { name, tasks: 0, cpus, gpus });
        }
    }
    Some(nodes)
}

/// How many numbers `0-3` names.
fn width(range: &str) -> usize {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) if first <= last => last - first + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Variables as Slurm 22.05 sets them, and what scontrol says.
    fn read(variables: &str, record: Option<&str>) -> Result<Allocation, SlurmError> {
        let variable = |name: &str| {
            let pairs = variables.split_whitespace().filter_map(|pair| pair.split_once('='));
            let mut values = pairs.filter(|(key, _)| format!("SLURM_{key}") == name);
            values.next().map(|(_, value)| value.to_owned())
        };
        let record = record.map(str::to_owned).ok_or_else(|| "no scontrol".to_owned());
        Allocation::read(variable, record).map(|found| found.expect("there is a job"))
    }

    fn shape(allocation: &Allocation) -> String {
        let node =
            |Node { name, tasks, cpus, gpus }: &Node| format!("{name}:{tasks}t{cpus}c{gpus}g");
        allocation.nodes.iter().map(node).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_way_of_asking_is_understood_by_the_record() {
        let even = "JobId=7 JobName=x\n   NumNodes=2\n     Nodes=n[1-2] CPU_IDs=0-3 Mem=0 \
                    GRES=gpu:4(IDX:0-3)\n";
        let found = read(
            "JOB_ID=7 JOB_NODELIST=n[1-2] TASKS_PER_NODE=4(x2) NTASKS=8 NTASKS_PER_NODE=4 \
             JOB_CPUS_PER_NODE=4(x2)",
            Some(even),
        )
        .unwrap();
        assert_eq!(shape(&found), "n1:4t4c4g n2:4t4c4g");
        assert_eq!(found.tasks_by, Some("SLURM_NTASKS_PER_NODE"));
        assert!(found.check_tasks(1).is_ok());
        assert!(found.check_tasks(2).is_err());

        let uneven = "     Nodes=n1 CPU_IDs=0 Mem=0 GRES=gpu:a100:3(IDX:0-2)\n     Nodes=n2 \
                      CPU_IDs=0,2-3 Mem=0 GRES=gpu:a100:1(IDX:0)\n";
        let total = "JOB_ID=7 JOB_NODELIST=n[1-2] TASKS_PER_NODE=1(x2) GPUS=4 GPUS_ON_NODE=3";
        let found = read(total, Some(uneven)).unwrap();
        assert_eq!(shape(&found), "n1:1t1c3g n2:1t3c1g");
        assert_eq!(found.tasks_by, None);
        let error = read(total, None).unwrap_err().to_string();
        assert!(error.contains("SLURM_GPUS is 4") && error.contains("no scontrol"), "{error}");

        let none = "     Nodes=n1 CPU_IDs=0-1 Mem=0 GRES=\n";
        let found = read("JOB_ID=7 JOB_NODELIST=n1 TASKS_PER_NODE=2 NTASKS=2", Some(none)).unwrap();
        assert_eq!(shape(&found), "n1:2t2c0g");
    }

    #[test]
    fn variables_do_where_there_is_no_scontrol() {
        let shape_of = |variables: &str| shape(&read(variables, None).unwrap());
        let two = "JOB_ID=7 JOB_NODELIST=n[1-2] JOB_CPUS_PER_NODE=8(x2)";
        let with = |rest: &str| shape_of(&format!("{two} {rest}"));
        assert_eq!(with("TASKS_PER_NODE=1(x2) GPUS_PER_NODE=a100:8"), "n1:1t8c8g n2:1t8c8g");
        assert_eq!(with("TASKS_PER_NODE=1(x2) GPUS_PER_NODE=a100:2,v100:1"), "n1:1t8c3g n2:1t8c3g");
        assert_eq!(with("TASKS_PER_NODE=2,1 GPUS_PER_TASK=1"), "n1:2t8c2g n2:1t8c1g");
        assert_eq!(with("TASKS_PER_NODE=8(x2) GPUS_ON_NODE=8"), "n1:8t8c8g n2:8t8c8g");
        assert_eq!(with("TASKS_PER_NODE=1(x2)"), "n1:1t8c0g n2:1t8c0g");
        // One task for each node, on one node of two.
        assert_eq!(
            with("STEP_ID=0 STEP_NODELIST=n2 STEP_TASKS_PER_NODE=1 STEP_NUM_TASKS=1"),
            "n2:1t8c0g"
        );
    }

    #[test]
    fn contradictions_name_both_sources() {
        let error =
            read("JOB_ID=7 JOB_NODELIST=n1 TASKS_PER_NODE=1 GPUS_ON_NODE=2 GPUS_PER_NODE=4", None)
                .unwrap_err()
                .to_string();
        assert!(error.contains("ON_NODE is 2, but SLURM_GPUS_PER_NODE is 4"), "{error}");
        let tasks = "JOB_ID=7 JOB_NODELIST=n1 TASKS_PER_NODE=4 NTASKS=4 GPUS_ON_NODE=8";
        let error = read(tasks, None).unwrap().check_tasks(1).unwrap_err().to_string();
        assert!(error.contains("SLURM_NTASKS puts 4 tasks on n1"), "{error}");
        assert!(error.contains("8 GPUs (by SLURM_GPUS_ON_NODE)"), "{error}");
        let tasks = "JOB_ID=7 JOB_NODELIST=n1 TASKS_PER_NODE=4 NTASKS=4 GPUS_ON_NODE=2";
        assert!(read(tasks, None).unwrap().check_tasks(2).is_ok());
        let error = read("JOB_ID=7 JOB_NODELIST=n[1-", None).unwrap_err().to_string();
        assert!(error.contains("SLURM_JOB_NODELIST is `n[1-`"), "{error}");
    }

    #[test]
    fn variables_that_are_left_over_are_named() {
        let error = read("JOB_ID=7", None).unwrap_err().to_string();
        assert!(
            error.starts_with("SLURM_JOB_ID is 7, but SLURM_JOB_NODELIST is not set"),
            "{error}"
        );
        assert!(error.contains("`unset ${!SLURM_JOB*}`"), "{error}");
        let left_over = "JOB_ID=7 JOB_NODELIST=n[1-2]";
        let error =
            read(left_over, Some("JobId=7\n JobState=CANCELLED\n")).unwrap_err().to_string();
        let words = "SLURM_JOB_ID is 7 and SLURM_JOB_NODELIST is n[1-2], but of that job Slurm says: \
                     CANCELLED;";
        assert!(error.starts_with(words), "{error}");
        let variable = |name: &str| match name {
            "SLURM_JOB_ID" => Some("7".to_owned()),
            "SLURM_JOB_NODELIST" => Some("n1".to_owned()),
            _ => None,
        };
        let unknown = "slurm_load_jobs error: Invalid job id specified".to_owned();
        let error = Allocation::read(variable, Err(unknown)).unwrap_err().to_string();
        assert!(error.contains("Slurm says: slurm_load_jobs error: Invalid job id"), "{error}");
    }

    #[test]
    fn outside_of_slurm_there_is_nothing() {
        assert_eq!(Allocation::read(|_| None, Err(String::new())), Ok(None));
    }
}
