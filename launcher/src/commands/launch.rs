//! `tandem launch`: a run, from its config to its report.

use std::path::PathBuf;

use tandem_cluster::process::say;
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::slurm::{Allocation, Job};

use crate::launch::{launch_on, place};
use crate::metrics;
use crate::prepare;
use crate::prepare::distillation;
use crate::prepare::worker;
use crate::slurm::job;
use crate::terminal::exit::Exit;
use crate::terminal::interrupts::Interrupts;

/// Train, evaluate and export what a config describes; goes on where an earlier launch ended.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's config, e.g. configs/demo.yaml.
    config: PathBuf,
    /// Change a key of the config: path.to.key=value.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Remove what an earlier launch of this run has made, and start over.
    #[arg(long)]
    restart: bool,
    /// Serve Prometheus metrics of the run at http://ADDRESS/metrics, e.g. 127.0.0.1:9100.
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<String>,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// Whatever keeps the run from starting.
    pub fn run(self) -> anyhow::Result<Exit> {
        let config = prepare::load(&self.config, &self.overrides)?;
        distillation::check(&config)?;
        let (program, interrupts) = (worker::find()?, Interrupts::catch()?);
        let run = RunFolder::new(config.run.path());
        if Allocation::is_follower() {
            return Ok(job::follow(&run, &interrupts));
        }
        if let Some(address) = &self.metrics {
            let bound = metrics::serve(address, run.clone())?;
            say(format_args!("metrics: http://{bound}/metrics"));
        }
        // Before Slurm is asked for more: what contradicts its variables is told first.
        let topology = place(&config)?;
        // The script of a job that goes on still says what its first start was asked to do.
        let restart = self.restart && !Job::continues();
        let watch = job::Watch::start(&run, &config.cluster.slurm, &interrupts)?;
        let ended = launch_on(config, topology, restart, program, interrupts);
        if let (Some(watch), Ok(exit)) = (watch, &ended) {
            watch.finish(*exit);
        }
        ended
    }
}
