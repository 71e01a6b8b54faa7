//! `tandem launch`: a run from its config to its report.

use std::path::PathBuf;

use tandem_cluster::process::say;
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::slurm::{Allocation, Job};

use crate::launch::{launch_on, place};
use crate::metrics;
use crate::prepare;
use crate::prepare::dependency;
use crate::prepare::worker;
use crate::slurm::job;
use crate::terminal::exit::Exit;
use crate::terminal::interrupts::Interrupts;

/// Train, evaluate and export the model of a config, or resume an interrupted run.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run's config, e.g. configs/demo.yaml.
    config: PathBuf,
    /// Change a key of the config: path.to.key=value.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Delete the results of earlier launches of this run and start over.
    #[arg(long)]
    restart: bool,
    /// Serve Prometheus metrics of the run at http://ADDRESS/metrics, e.g. 127.0.0.1:9100.
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<String>,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let config = prepare::load(&self.config, &self.overrides)?;
        dependency::check(&config)?;
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
        // A requeued or chained job runs the same script, which may say `--restart`.
        let restart = self.restart && !Job::continues();
        let watch = job::Watch::start(&run, &config.cluster.slurm, &interrupts)?;
        let ended = launch_on(config, topology, restart, program, interrupts);
        if let (Some(watch), Ok(exit)) = (watch, &ended) {
            watch.finish(*exit);
        }
        ended
    }
}
