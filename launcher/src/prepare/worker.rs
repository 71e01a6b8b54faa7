//! The worker program and its command lines.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tandem_cluster::engine::Job;
use tandem_cluster::process::output_within;
use tandem_cluster::run::control::DEVICE_VARIABLE;
use tandem_cluster::run::libraries::Libraries;
use tandem_cluster::topology::{Device, Topology};
use tandem_config::schema::decoding::Decoding;

use crate::terminal::exit::Refused;

/// The variable with the worker program's path, if it is not in the launcher's folder.
const WORKER_VARIABLE: &str = "TANDEM_WORKER";

/// How long the worker may take to count GPUs; after that, workers are started without the check.
const COUNT_TIMEOUT: Duration = Duration::from_secs(60);

/// Finds the worker program.
///
/// # Errors
/// There is none in the launcher's folder, or at the variable's path.
pub(crate) fn find() -> Result<PathBuf, Refused> {
    let (path, place) = match std::env::var_os(WORKER_VARIABLE) {
        Some(path) => (PathBuf::from(path), format!("at the path in {WORKER_VARIABLE}")),
        None => {
            let launcher = std::env::current_exe().unwrap_or_default();
            (launcher.with_file_name("tandem-worker"), "next to the launcher".into())
        }
    };
    let path = std::path::absolute(&path).unwrap_or(path);
    if path.is_file() {
        return Ok(path);
    }
    Err(Refused(format!(
        "there is no worker program {place}: {}; build it with `cargo build --release`, or set \
         {WORKER_VARIABLE} to its path",
        path.display()
    )))
}

/// Asks the worker program which libraries and GPUs it finds on this machine.
///
/// # Errors
/// A description of why it does not answer.
pub(crate) fn libraries(program: &Path, patience: Duration) -> Result<Libraries, String> {
    let answer = said(Command::new(program).arg("libraries"), patience)?;
    serde_json::from_str(&answer)
        .map_err(|_| format!("{} is not a worker of this version of Tandem", program.display()))
}

/// Runs a program and returns its output.
///
/// # Errors
/// The program's standard error if it fails, or a timeout.
pub(crate) fn said(command: &mut Command, patience: Duration) -> Result<String, String> {
    let output = output_within(command, patience).map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr).trim().to_owned()),
    }
}

/// Checks that the worker can use the GPUs of a topology on this machine. If the worker does not answer, it
/// reports the reason itself when it is started.
///
/// # Errors
/// The worker can use fewer GPUs: there is no fallback to CPUs.
pub(crate) fn check_gpus(program: &Path, topology: &Topology) -> Result<(), Refused> {
    if topology.device != Device::Cuda || topology.remote_host().is_some() {
        return Ok(());
    }
    let Ok(found) = libraries(program, COUNT_TIMEOUT) else { return Ok(()) };
    let wanted = topology.gpus_per_host();
    if found.gpus >= wanted {
        return Ok(());
    }
    let (sees, help) = match found.no_cuda {
        Some(reason) => (
            format!("its libtorch cannot use CUDA: {reason}"),
            "install one that can with `make setup TORCH=cuda`",
        ),
        None => (
            format!("its libtorch sees {}", found.gpus),
            "check `nvidia-smi` and CUDA_VISIBLE_DEVICES",
        ),
    };
    let needed = if wanted == 1 { "a GPU".into() } else { format!("{wanted} GPUs") };
    Err(Refused(format!(
        "the run needs {needed}, but the worker cannot use them: {sees}; {help}, or set \
         `cluster.device: cpu`"
    )))
}

/// What a group of workers does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Work {
    /// Trains, from the start or from a checkpoint's folder.
    Train {
        /// The verified checkpoint.
        resume: Option<PathBuf>,
        /// Whether to score that checkpoint first.
        evaluate_first: bool,
    },
    /// Decodes and scores a split.
    Evaluate {
        /// The folder of the model's run, if it is not the current run.
        model: Option<PathBuf>,
        /// The verified checkpoint; `None` measures the speed of untrained weights.
        checkpoint: Option<PathBuf>,
        /// `valid` or `test`.
        split: String,
        /// The folder for translations.
        output: PathBuf,
        /// The decoding, if it differs from the run's config.
        decoding: Option<Decoding>,
    },
    Translate {
        /// The folder of the task and its translations.
        task: PathBuf,
    },
    /// Translates what it is sent.
    Serve {
        /// The folder of the run whose model it is.
        model: PathBuf,
        /// The verified checkpoint.
        checkpoint: PathBuf,
    },
}

impl Work {
    /// The worker's command.
    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Self::Train { .. } => "train",
            Self::Evaluate { .. } => "evaluate",
            Self::Translate { .. } => "translate",
            Self::Serve { .. } => "serve",
        }
    }

    /// The job that does this work on a run folder.
    pub(crate) fn job(&self, program: &Path, run: &Path, topology: &Topology) -> Job {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut arguments = vec![self.verb().to_owned(), "--run".into(), text(run)];
        let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        match self {
            Self::Train { resume, evaluate_first } => {
                if let Some(checkpoint) = resume {
                    option("--resume", text(checkpoint));
                }
                if *evaluate_first {
                    arguments.push("--evaluate-first".into());
                }
            }
            Self::Evaluate { model, checkpoint, split, output, decoding } => {
                if let Some(model) = model {
                    option("--model", text(model));
                }
                if let Some(checkpoint) = checkpoint {
                    option("--checkpoint", text(checkpoint));
                }
                option("--split", split.clone());
                option("--output", text(output));
                if let Some(decoding) = decoding {
                    let json = serde_json::to_string(decoding);
                    option("--decoding", json.expect("a decoding is JSON"));
                }
            }
            Self::Translate { task } => option("--task", text(task)),
            Self::Serve { model, checkpoint } => {
                option("--model", text(model));
                option("--checkpoint", text(checkpoint));
            }
        }
        let mut environment = vec![
            ("OMP_NUM_THREADS".to_owned(), topology.threads.to_string()),
            (DEVICE_VARIABLE.to_owned(), topology.device.to_string()),
        ];
        environment.extend(topology.sharing_environment());
        Job { program: program.to_owned(), arguments, environment }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    use tandem_cluster::process::host_name;
    use tandem_cluster::topology::{EngineKind, Share};

    #[test]
    fn command_lines_are_those_of_the_worker() {
        let topology = Topology {
            ranks: 2,
            device: Device::Cpu,
            workers_per_gpu: 1,
            threads: 3,
            engine: EngineKind::Mpirun,
            hosts: vec![Share { host: "here".into(), ranks: 2 }],
        };
        let line = |work: Work| {
            let job = work.job(Path::new("/w"), Path::new("/runs/a"), &topology);
            assert!(job.environment.contains(&("OMP_NUM_THREADS".into(), "3".into())));
            job.arguments.join(" ")
        };
        let train = |resume: Option<&str>, evaluate_first| {
            line(Work::Train { resume: resume.map(PathBuf::from), evaluate_first })
        };
        assert_eq!(train(None, false), "train --run /runs/a");
        assert_eq!(train(Some("/c"), false), "train --run /runs/a --resume /c");
        assert_eq!(train(Some("/c"), true), "train --run /runs/a --resume /c --evaluate-first");
        let (checkpoint, output) = (Some(PathBuf::from("/c")), PathBuf::from("/o"));
        let split = "test".into();
        assert_eq!(
            line(Work::Evaluate { model: None, checkpoint, split, output, decoding: None }),
            "evaluate --run /runs/a --checkpoint /c --split test --output /o"
        );
        assert_eq!(
            line(Work::Translate { task: "/t".into() }),
            "translate --run /runs/a --task /t"
        );
        assert_eq!(
            line(Work::Serve { model: "/m".into(), checkpoint: "/c".into() }),
            "serve --run /runs/a --model /m --checkpoint /c"
        );
    }

    #[test]
    fn workers_that_share_gpus_get_variables_for_nccl() {
        let topology = |workers_per_gpu, engine| Topology {
            ranks: 2,
            device: Device::Cuda,
            workers_per_gpu,
            threads: 1,
            engine,
            hosts: vec![Share { host: "here".into(), ranks: 2 }],
        };
        let works = [
            Work::Train { resume: None, evaluate_first: false },
            Work::Evaluate {
                model: None,
                checkpoint: None,
                split: "test".into(),
                output: "/o".into(),
                decoding: None,
            },
            Work::Translate { task: "/t".into() },
        ];
        for (work, engine) in
            works.iter().zip([EngineKind::Mpirun, EngineKind::Srun].iter().cycle())
        {
            let has_variable = |workers_per_gpu| {
                let topology = topology(workers_per_gpu, *engine);
                let job = work.job(Path::new("/w"), Path::new("/runs/a"), &topology);
                job.environment.iter().any(|(name, _)| name == "NCCL_MULTI_RANK_GPU_ENABLE")
            };
            assert!(has_variable(2) && !has_variable(1), "{work:?}");
        }
    }

    #[test]
    fn a_worker_without_usable_gpus_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("worker");
        let write = |script: &str| {
            std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&program, PermissionsExt::from_mode(0o700)).unwrap();
        };
        let says = |libraries: &Libraries| {
            write(&format!("echo '{}'", serde_json::to_string(libraries).unwrap()));
        };
        let mut topology = Topology {
            ranks: 4,
            device: Device::Cuda,
            workers_per_gpu: 2,
            threads: 1,
            engine: EngineKind::Mpirun,
            hosts: vec![Share { host: host_name(), ranks: 4 }],
        };
        let check = |topology: &Topology| {
            check_gpus(&program, topology).map_err(|refused| refused.to_string())
        };
        says(&Libraries { gpus: 2, ..Libraries::default() });
        assert_eq!(check(&topology), Ok(()));
        says(&Libraries { gpus: 1, ..Libraries::default() });
        let said = check(&topology).unwrap_err();
        assert!(said.starts_with(
            "the run needs 2 GPUs, but the worker cannot use them: its libtorch sees 1"
        ));
        let no_cuda = Some("libtorch_cuda.so: not found".to_owned());
        says(&Libraries { no_cuda, ..Libraries::default() });
        let said = check(&topology).unwrap_err();
        assert!(
            said.contains("cannot use CUDA: libtorch_cuda.so: not found; install one"),
            "{said}"
        );
        // CPUs and other machines are not checked, and a worker that does not answer is ignored.
        topology.hosts[0].host = "elsewhere".into();
        assert_eq!(check(&topology), Ok(()));
        topology.hosts[0].host = host_name();
        topology.device = Device::Cpu;
        assert_eq!(check(&topology), Ok(()));
        topology.device = Device::Cuda;
        write("exit 1");
        assert_eq!(check(&topology), Ok(()));
    }
}
