//! One group of workers for a verb of its own: evaluating or translating with a trained model.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;
use tandem_cluster::run_folder::RunFolder;
use tandem_cluster::topology::{Machine, Topology};
use tandem_config::RunConfig;

use crate::coordinator::evaluation::Part;
use crate::coordinator::finish::Parts;
use crate::coordinator::group::{self, End, Setting};
use crate::exit::{Exit, Refused};
use crate::interrupts::Interrupts;
use crate::worker::{self, Work};

/// What is needed to use a trained model.
pub struct Session {
    run: RunFolder,
    config: RunConfig,
    topology: Topology,
    program: PathBuf,
    interrupts: Interrupts,
}

impl Session {
    /// Gets ready, without starting anything.
    ///
    /// # Errors
    /// No worker program, or a topology that contradicts this machine.
    pub fn new(run: RunFolder, config: RunConfig) -> anyhow::Result<Self> {
        let topology = Topology::find(&config.cluster, &Machine::this())
            .map_err(|error| Refused(error.to_string()))?;
        let program = worker::find()?;
        let interrupts = Interrupts::catch()?;
        Ok(Self { run, config, topology, program, interrupts })
    }

    /// Does the work once; the ranks' evaluated parts, or how it ended otherwise.
    ///
    /// # Errors
    /// Workers that cannot be started.
    pub fn work(&self, work: &Work) -> anyhow::Result<Result<Vec<Part>, Exit>> {
        let generation = self.run.begin_attempt()?;
        let setting = Setting {
            run: &self.run,
            topology: &self.topology,
            deadlines: &self.config.cluster.deadlines,
            interrupts: &self.interrupts,
        };
        let job = work.job(&self.program, self.run.path(), &self.topology);
        let mut parts = Parts::default();
        let end = group::run(&setting, generation, job, &mut parts)?;
        for notice in &parts.notices {
            eprintln!("note: {notice}");
        }
        Ok(match end {
            End::Done => Ok(parts.parts),
            End::Stopped | End::Interrupted => Err(Exit::Interrupted),
            End::StopOverdue => Err(Exit::Deadline),
            End::Failed(failure) => {
                eprintln!("{}", failure.report("nothing was changed; try again"));
                Err(Exit::Failed)
            }
        })
    }
}

/// A line of what workers write when they translate.
#[derive(Debug, Deserialize)]
struct Translated {
    index: usize,
    hypothesis: String,
}

/// The ranks' translations of `count` lines, in the input's order.
///
/// # Errors
/// A line that is missing, there twice, or unreadable.
pub fn merge_translations(folder: &Path, count: usize) -> anyhow::Result<String> {
    let mut lines = BTreeMap::new();
    for rank in 0.. {
        let path = folder.join(format!("rank-{rank}.jsonl"));
        if !path.exists() {
            break;
        }
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        for line in text.lines() {
            let Translated { index, hypothesis } = serde_json::from_str(line)
                .with_context(|| format!("{} is not what workers write", path.display()))?;
            if lines.insert(index, hypothesis).is_some() {
                anyhow::bail!("line {} was translated twice", index + 1);
            }
        }
    }
    if let Some(missing) = (0..count).find(|index| !lines.contains_key(index)) {
        anyhow::bail!("line {} was not translated", missing + 1);
    }
    // One line in, one line out, whatever the model says.
    Ok(lines.into_values().map(|line| line.replace(['\n', '\r'], " ") + "\n").collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn translations_come_in_the_order_of_the_input() {
        let folder = tempfile::TempDir::new().unwrap();
        let write = |rank: usize, text: &str| {
            fs::write(folder.path().join(format!("rank-{rank}.jsonl")), text).unwrap();
        };
        write(0, "{\"index\":2,\"hypothesis\":\"c\"}\n{\"index\":0,\"hypothesis\":\"a\"}\n");
        write(1, "{\"index\":1,\"hypothesis\":\"b\"}\n");
        assert_eq!(merge_translations(folder.path(), 3).unwrap(), "a\nb\nc\n");
        let error = merge_translations(folder.path(), 4).unwrap_err().to_string();
        assert_eq!(error, "line 4 was not translated");
        write(1, "{\"index\":2,\"hypothesis\":\"b\"}\n");
        let error = merge_translations(folder.path(), 3).unwrap_err().to_string();
        assert_eq!(error, "line 3 was translated twice");
    }
}
