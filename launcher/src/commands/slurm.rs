//! `tandem slurm`: submits a run as a batch job.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use tandem_cluster::process::say;
use tandem_cluster::run::atomic;
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::slurm;
use tandem_cluster::topology::Topology;

use crate::prepare;
use crate::prepare::dependency;
use crate::slurm::script::{Request, Script};
use crate::terminal::exit::{Exit, Refused};
use crate::terminal::output;

/// Write a batch script that launches a run, and submit it to Slurm.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run's config.
    config: PathBuf,
    /// Change a key of the config: path.to.key=value.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    #[command(flatten)]
    request: Request,
    /// Print the script without submitting it.
    #[arg(long)]
    print: bool,
    /// More options for sbatch, after `--`: for example `-- --account=nlp --array=1-4`.
    #[arg(last = true, value_name = "OPTION")]
    sbatch: Vec<String>,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let config = prepare::load(&self.config, &self.overrides)?;
        dependency::check(&config)?;
        if let Some(warning) = self.request.check_time(&self.sbatch, &config.cluster)? {
            say(format_args!("warning: {warning}"));
        }
        let pool = self.request.pool(&config.cluster)?;
        let topology =
            Topology::find(&config.cluster, &pool).map_err(|error| Refused(error.to_string()))?;
        let run = RunFolder::new(config.run.path());
        let script = Script {
            config: std::path::absolute(&self.config)?,
            overrides: &self.overrides,
            request: &self.request,
            sbatch: &self.sbatch,
            run: &run,
            settings: &config.cluster,
            topology: &topology,
        }
        .to_string();
        if self.print {
            output::write(script)?;
            return Ok(Exit::Done);
        }
        std::fs::create_dir_all(run.path())
            .with_context(|| format!("cannot create {}", run.path().display()))?;
        let path = run.job_script();
        atomic::write(&path, &script)?;
        let submitted = slurm::ask(Command::new("sbatch").arg("--parsable").arg(&path));
        let job = submitted.map_err(|error| {
            let script = path.display();
            Refused(format!("sbatch rejected the job: {error}\nthe script is {script}"))
        })?;
        let job = job.trim();
        output::print(format_args!(
            "submitted job {job}: {} workers, script {}\nsee its progress with `tandem status {}`",
            topology.ranks,
            path.display(),
            run.path().display()
        ))?;
        Ok(Exit::Done)
    }
}
