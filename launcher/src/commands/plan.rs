//! `tandem plan`: prints what a launch would do.

use std::path::PathBuf;

use tandem_cluster::topology::Topology;

use crate::prepare;
use crate::prepare::dependency;
use crate::prepare::plan::Plan;
use crate::prepare::worker;
use crate::terminal::exit::{Exit, Refused};
use crate::terminal::output;

/// Print what a launch would do: workers, parameters, memory, disk, command lines.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run's config.
    config: PathBuf,
    /// Change a key of the config: path.to.key=value.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let config = prepare::load(&self.config, &self.overrides)?;
        dependency::check(&config)?;
        let topology =
            Topology::find_now(&config.cluster).map_err(|error| Refused(error.to_string()))?;
        let program = worker::find().unwrap_or_else(|_| "tandem-worker".into());
        let refused = worker::check_gpus(&program, &topology).err();
        let mut plan = Plan::new(&config, topology, program)?;
        plan.notes.extend(refused.map(|refused| format!("cannot be launched: {refused}")));
        if self.json {
            output::print(serde_json::to_string_pretty(&plan)?)?;
        } else {
            output::print(plan)?;
        }
        Ok(Exit::Done)
    }
}
