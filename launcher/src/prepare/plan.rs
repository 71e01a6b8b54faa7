//! The plan of a run: ranks, parameters, memory, disk, command lines.

use std::path::PathBuf;

use serde::Serialize;
use tandem_cluster::engine;
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::store::AVERAGE;
use tandem_cluster::topology::{Device, Topology};
use tandem_config::RunConfig;
use tandem_config::composition::{Composition, CompositionError};
use tandem_config::load::labelling_bert;
use tandem_config::parameters::estimate::{self, Inputs};
use tandem_config::parameters::{self, frozen_count, trained_count};
use tandem_config::schema::decoding::Decoding;
use tandem_config::schema::training::Precision;

use crate::prepare::worker::Work;
use crate::prepare::{dependency, distillation};
use crate::terminal::text::{quoted, thousands};

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Plan {
    /// The run folder.
    pub run: PathBuf,
    /// The ranks, with their hosts and devices.
    pub topology: Topology,
    /// The model's size.
    pub size: Size,
    /// Remarks for the user.
    pub notes: Vec<String>,
    /// The command lines that would be started, one after the other.
    pub commands: Vec<String>,
}

/// The size of a model and of its training.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Size {
    /// Trained parameters.
    pub trained: usize,
    /// Frozen parameters.
    pub frozen: usize,
    /// The peak memory of one rank on its device, in bytes: weights, gradients, optimizer state and
    /// activations; on CPUs the program, too.
    pub memory_per_rank: u64,
    /// The estimated share of the activations in it, in bytes.
    pub activations: u64,
    /// Bytes of one checkpoint.
    pub checkpoint: u64,
    /// Bytes of the most checkpoints that are kept at once.
    pub disk: u64,
}

impl Plan {
    /// Plans a run.
    ///
    /// # Errors
    /// A BERT that is not on this machine or is unusable.
    pub(crate) fn new(
        config: &RunConfig,
        topology: Topology,
        program: PathBuf,
    ) -> Result<Self, CompositionError> {
        let run = RunFolder::new(config.run.path());
        let mut notes = Vec::new();
        let composition = Composition::open(config)?;
        notes.extend(head_note(&composition));
        notes.extend(dependency::note(config));
        notes.extend(distillation::notes(config));
        notes.extend(soft_label_note(config));
        notes.extend(decoding_note(config));
        notes.extend(precision_note(config, topology.device));
        let work = Work::Train { resume: None, evaluate_first: false };
        let mut commands = vec![command(&topology, &work, &program, &run)];
        if config.data.test.is_some() && config.model.decoder.is_some() {
            let work = Work::Evaluate {
                model: None,
                checkpoint: Some(run.store().folder().join(AVERAGE)),
                split: "test".into(),
                output: run.evaluation("test", config.training.steps).path().to_owned(),
                decoding: None,
            };
            commands.push(command(&topology, &work, &program, &run));
        }
        Ok(Self {
            run: run.path().to_owned(),
            size: size(config, &composition, &topology)?,
            topology,
            notes,
            commands,
        })
    }
}

fn command(topology: &Topology, work: &Work, program: &std::path::Path, run: &RunFolder) -> String {
    let words = engine::command_line(topology, &work.job(program, run.path(), topology));
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

fn size(
    config: &RunConfig,
    composition: &Composition,
    topology: &Topology,
) -> Result<Size, CompositionError> {
    let parameters = parameters::model(composition);
    let labels = labelling_bert(config)?;
    let (labels, ranks) = (labels.as_ref(), topology.ranks);
    let estimate =
        estimate::estimate(config, Inputs { composition, parameters: &parameters, labels, ranks });
    let program = if topology.device == Device::Cpu { estimate::PROGRAM } else { 0 };
    Ok(Size {
        trained: trained_count(&parameters),
        frozen: frozen_count(&parameters),
        memory_per_rank: estimate.memory() + program,
        activations: estimate.activations,
        checkpoint: estimate.checkpoint,
        disk: estimate.disk,
    })
}

/// The decoder's head is trained when its folder has none, which changes the count.
fn head_note(composition: &Composition) -> Option<String> {
    let folder = composition.decoder.as_ref()?.headless()?;
    Some(format!("{} has no masked-language-model head: the head is trained", folder.display()))
}

/// A note on what TF32 means on the device.
fn precision_note(config: &RunConfig, device: Device) -> Option<String> {
    let meaning = match device {
        Device::Cpu => "a CPU has no TF32 and computes in f32",
        Device::Cuda => "matrix products round f32 to TF32, with 10 bits behind the point",
    };
    let is_chosen = config.training.precision == Precision::Tf32;
    is_chosen.then(|| format!("precision tf32: {meaning}"))
}

/// A note that translations are found in fewer or other passes, which changes them.
fn decoding_note(config: &RunConfig) -> Option<String> {
    let Decoding::MaskPredict(decoding) = &config.decoding else { return None };
    let threshold = decoding.threshold.map(|threshold| {
        format!("tokens of a probability of {threshold} or more are not masked again")
    });
    let prune_after = decoding.prune_after.map(|passes| {
        let plural = if passes == 1 { "" } else { "es" };
        format!("after {passes} pass{plural} only the best of the lengths is refined")
    });
    let correct = decoding.correct.then(|| "tokens that are seen are predicted anew".to_owned());
    let rules: Vec<String> = threshold.into_iter().chain(prune_after).chain(correct).collect();
    (!rules.is_empty()).then(|| {
        let most = decoding.most_passes();
        format!("decoding: at most {most} passes; {}", rules.join("; "))
    })
}

/// A note that a BERT labels the data before the first step, which takes time and space.
fn soft_label_note(config: &RunConfig) -> Option<String> {
    let labels = config.model.soft_labels()?;
    Some(format!(
        "soft_labels: {} labels the training pairs once, before the first step; the cache takes {} \
         bytes for each target token",
        labels.bert(),
        8 * labels.top
    ))
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Topology { ranks, device, threads, workers_per_gpu, .. } = &self.topology;
        writeln!(f, "run      {}", self.run.display())?;
        let plural = |count: usize, one: &str| match count {
            1 => format!("1 {one}"),
            count => format!("{count} {one}s"),
        };
        let (workers, threads) = (plural(*ranks, "worker"), plural(*threads, "thread"));
        let hosts = self.topology.hosts_in_words();
        write!(f, "workers  {workers} on {hosts}, {device}, {threads} each")?;
        if self.topology.shares_gpus() {
            write!(f, ", up to {workers_per_gpu} workers on each GPU")?;
        }
        match self.topology.collective() {
            Some(collective) => writeln!(f, ", connected by {collective}")?,
            None => writeln!(f)?,
        }
        let size = &self.size;
        let (trained, frozen) = (thousands(size.trained as u64), thousands(size.frozen as u64));
        writeln!(f, "model    {trained} parameters trained, {frozen} frozen")?;
        let (memory, activations) = (bytes(size.memory_per_rank), bytes(size.activations));
        let place =
            if *device == Device::Cuda { " on its GPU, in addition to CUDA's own" } else { "" };
        write!(f, "memory   about {memory} per worker{place}, of which activations {activations}")?;
        if self.topology.shares_gpus() {
            let memory = bytes(size.memory_per_rank.saturating_mul(*workers_per_gpu as u64));
            write!(f, "; up to {memory} on each GPU")?;
        }
        writeln!(f)?;
        let (disk, checkpoint) = (bytes(size.disk), bytes(size.checkpoint));
        writeln!(f, "disk     at most {disk} of checkpoints, {checkpoint} each")?;
        for note in &self.notes {
            writeln!(f, "note     {note}")?;
        }
        for (index, command) in self.commands.iter().enumerate() {
            let label = if index == 0 { "start    " } else { "then     " };
            write!(f, "{label}{command}")?;
            if index + 1 < self.commands.len() {
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

/// Formats a size: `12 MB`.
fn bytes(count: u64) -> String {
    match count as f64 {
        count if count < 1e6 => format!("{:.0} kB", count / 1e3),
        count if count < 1e9 => format!("{:.0} MB", count / 1e6),
        count => format!("{:.1} GB", count / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use tandem_cluster::topology::{EngineKind, Share};

    #[test]
    fn the_demo_on_two_workers_and_on_shared_gpus() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let config = tandem_config::load(&root.join("configs/demo.yaml"), &[]).unwrap();
        let cpus = Topology {
            ranks: 2,
            device: Device::Cpu,
            workers_per_gpu: 1,
            threads: 1,
            engine: EngineKind::Mpirun,
            hosts: vec![Share { host: "n1".into(), ranks: 2 }],
        };
        let host = |host: &str| Share { host: host.into(), ranks: 4 };
        let gpus = Topology {
            ranks: 8,
            device: Device::Cuda,
            workers_per_gpu: 2,
            threads: 8,
            engine: EngineKind::Srun,
            hosts: vec![host("n1"), host("n2")],
        };
        let plan = |topology| Plan::new(&config, topology, "tandem-worker".into()).unwrap();
        let plans = [cpus, gpus].map(|topology| plan(topology).to_string()).join("\n\n");
        let here = std::env::current_dir().unwrap();
        let plans = plans.replace(&here.display().to_string(), "[HERE]");
        insta::assert_snapshot!(plans.replace(&root.display().to_string(), "[REPOSITORY]"));
    }

    #[test]
    fn tf32_is_said_to_be_f32_on_cpus() {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/demo.yaml");
        let note = |precision: &str, device| {
            let precision = format!("training.precision={precision}");
            precision_note(&tandem_config::load(&demo, &[precision]).unwrap(), device)
        };
        assert_eq!(note("f32", Device::Cuda), None);
        assert!(note("tf32", Device::Cpu).unwrap().ends_with("computes in f32"));
        assert!(note("tf32", Device::Cuda).unwrap().ends_with("10 bits behind the point"));
    }

    #[test]
    fn fewer_passes_are_noted() {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/demo.yaml");
        let note = |settings: &[&str]| {
            let key = |set: &&str| format!("decoding.mask_predict.{set}");
            let overrides: Vec<String> = settings.iter().map(key).collect();
            decoding_note(&tandem_config::load(&demo, &overrides).unwrap())
        };
        assert_eq!(note(&[]), None);
        let both = "decoding: at most 10 passes; tokens of a probability of 0.5 or more are not masked \
                    again; after 1 pass only the best of the lengths is refined";
        assert_eq!(note(&["threshold=0.5", "prune_after=1"]).as_deref(), Some(both));
        let correct = "decoding: at most 10 passes; tokens that are seen are predicted anew";
        assert_eq!(note(&["correct=true"]).as_deref(), Some(correct));
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(bytes(12_345), "12 kB");
        assert_eq!(bytes(12_345_678), "12 MB");
        assert_eq!(bytes(1_234_567_890), "1.2 GB");
    }
}
