//! What every distributed verb does first and last: log file, MPI, coordinator, goodbye.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use mpi::environment::Universe;
use tandem_cluster::error::with_causes;
use tandem_cluster::hosts::network::{self, NCCL_INTERFACE};
use tandem_cluster::process;
use tandem_cluster::run::control::{self, ControlError, Invitation, Report, Session};
use tandem_cluster::run::exit::Exit;
use tandem_cluster::run::folder::RunFolder;
use tandem_cluster::run::ngrams::NgramsError;
use tandem_config::{Problems, RunConfig, load, load_trained};
use tch::Device;

use crate::data::batches::BatchError;
use crate::data::read::ReadError;
use crate::data::split::DataError;
use crate::data::wordpiece::WordpieceError;
use crate::device::{native, nccl};
use crate::inference::language_model::{LanguageModelError, TooManyTokens};
use crate::model::parameters::ParameterError;
use crate::parallel::mpi::Mpi;
use crate::parallel::nccl::Nccl;
use crate::parallel::solo::Solo;
use crate::parallel::{Collective, CollectiveError};
use crate::session::blame;
use crate::session::build_id;
use crate::session::preflight;
use crate::session::weights::Misfit;
use crate::session::worker::Worker;
use crate::training::train::Diverged;

/// How long the report of a failing rank may take to arrive.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs `body` as this rank of the run in `run`, with MPI if there are others; returns the
/// process's exit code.
///
/// # Errors
/// What happens before there is a coordinator to report to.
pub(super) fn run(
    run: &Path,
    body: impl FnOnce(&Worker, Option<Mpi>) -> anyhow::Result<Exit>,
) -> anyhow::Result<Exit> {
    run_as(|path| load(path, &[]), run, body)
}

/// The same, to use a trained model, whose texts need not be there.
///
/// # Errors
/// As [`run`].
pub(super) fn run_trained(
    run: &Path,
    body: impl FnOnce(&Worker, Option<Mpi>) -> anyhow::Result<Exit>,
) -> anyhow::Result<Exit> {
    run_as(load_trained, run, body)
}

fn run_as(
    load: impl FnOnce(&Path) -> Result<RunConfig, Problems>,
    run: &Path,
    body: impl FnOnce(&Worker, Option<Mpi>) -> anyhow::Result<Exit>,
) -> anyhow::Result<Exit> {
    let rank = number("OMPI_COMM_WORLD_RANK").or_else(|| number("SLURM_PROCID")).unwrap_or(0);
    let run = RunFolder::new(run.to_owned());
    let (invitation, world_size) = (Invitation::from_env()?, control::world_size()?);
    let mut engine = None;
    if let Some(invitation) = &invitation {
        engine = Some(log_to_file(&run, invitation.attempt, rank)?);
        keep_nccl_to_the_network();
    }
    // Before MPI, which waits for all ranks: the launcher is to know which of them are there.
    let worker = match join(load, run, invitation.as_ref(), (rank, world_size)) {
        Ok(worker) => worker,
        Err(error) => return decline(&error, invitation.as_ref(), rank, engine),
    };
    drop(engine);
    if let Some(session) = worker.session() {
        tell_panics(session.clone());
    }
    worker.report(Report::Identity { facts: versions(&worker) });
    if preflight::is_wanted() {
        preflight::look(&worker);
    }
    let mut universe = None;
    let result = start_mpi(&worker).and_then(|mpi| {
        let (started, mpi) = mpi.unzip();
        universe = started;
        body(&worker, mpi)
    });
    let exit = match &result {
        Ok(exit) => *exit,
        Err(error) => {
            let words = with_causes(error.as_ref());
            process::say(format_args!("error: {words}"));
            let message = blame::with_samples(&words);
            worker.report(Report::Failed { message, backtrace: error.backtrace().to_string() });
            exit_of(error)
        }
    };
    if let Some(session) = worker.session() {
        session.clone().goodbye(exit);
    }
    if result.is_err() {
        // Without MPI_Finalize, which would wait for ranks that do not know yet.
        process::exit_now(exit.code().into());
    }
    drop(universe);
    Ok(exit)
}

/// This rank, with all that its host has to have for it.
fn join(
    load: impl FnOnce(&Path) -> Result<RunConfig, Problems>,
    run: RunFolder,
    invitation: Option<&Invitation>,
    ranks: (usize, usize),
) -> anyhow::Result<Worker> {
    let config = load(&run.config())?;
    Worker::join(run, config, invitation, ranks, local_rank())
}

/// MPI, where there are other ranks.
fn start_mpi(worker: &Worker) -> anyhow::Result<Option<(Universe, Mpi)>> {
    if worker.world_size == 1 {
        return Ok(None);
    }
    let (universe, mpi) = Mpi::start(worker.world_size)?;
    let (rank, found) = (worker.rank, mpi.rank());
    anyhow::ensure!(rank == found, "this is rank {found} by MPI, and {rank} by its variables");
    Ok(Some((universe, mpi)))
}

/// Reports to the launcher why this rank does not start, for example because its host lacks a file or a
/// GPU.
///
/// # Errors
/// There is no launcher to report to.
fn decline(
    error: &anyhow::Error,
    invitation: Option<&Invitation>,
    rank: usize,
    engine: Option<File>,
) -> anyhow::Result<Exit> {
    let words = with_causes(error.as_ref());
    let no_session = |words: &str| {
        // The launcher reads what the engine's log says of a rank that does not start.
        if let Some(mut engine) = engine {
            let host = network::own_name();
            let _ = writeln!(engine, "error: rank {rank} on {host}: {words}");
        }
        anyhow::anyhow!("{words}")
    };
    if error.is::<ControlError>() {
        return Err(no_session(&words));
    }
    let Some(invitation) = invitation else { anyhow::bail!("{words}") };
    let session = match Session::start(invitation, rank, "none") {
        Ok(session) => session,
        Err(no_way) => return Err(no_session(&format!("{words}; and {no_way}"))),
    };
    process::say(format_args!("error: {words}"));
    session.report(Report::Failed { message: words, backtrace: error.backtrace().to_string() });
    let exit = if error.is::<Problems>() { Exit::Usage } else { Exit::Failed };
    session.goodbye(exit);
    process::exit_now(exit.code().into());
}

/// The ranks that mpirun started without a launcher; one where it did not.
///
/// # Errors
/// As [`Mpi::start`].
pub(super) fn started_by_mpirun() -> Result<(Universe, Mpi), CollectiveError> {
    Mpi::start(number("OMPI_COMM_WORLD_SIZE").unwrap_or(1))
}

/// What sums gradients over the ranks: MPI in main memory, NCCL between GPUs. The way there is tried, if the
/// launcher asks for it.
///
/// # Errors
/// What keeps a rank from using NCCL.
pub(super) fn collective(
    worker: &Worker,
    mpi: Option<Mpi>,
) -> Result<Box<dyn Collective>, CollectiveError> {
    let Some(mpi) = mpi else { return Ok(Box::new(Solo)) };
    if preflight::is_wanted() {
        preflight::meet(worker, &mpi)?;
    }
    let world: Box<dyn Collective> = match worker.device {
        Device::Cpu => Box::new(mpi),
        _ => {
            let cluster = &worker.config.cluster;
            let deadlines = &cluster.deadlines;
            // One rank may save or evaluate while another waits for it in the next step. The
            // launcher knows which phase each is in, and comes first.
            let longest = deadlines.step + deadlines.save.max(deadlines.evaluate);
            let longest = Duration::from_secs_f64(longest);
            Box::new(Nccl::start(&mpi, worker.device, cluster.workers_per_gpu, longest)?)
        }
    };
    if preflight::is_wanted() {
        preflight::reduce(worker, &*world)?;
    }
    Ok(world)
}

/// What must be the same on every rank before anything is loaded: the program and its libraries.
fn versions(worker: &Worker) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    versions.insert("tandem-worker build".to_owned(), build_id::this());
    versions.insert("libtorch version".to_owned(), native::loaded_torch_version());
    if worker.world_size > 1
        && let Ok(version) = mpi::environment::library_version()
    {
        // What follows is who built it.
        let version = version.split(',').next().unwrap_or_default().to_owned();
        versions.insert("MPI version".to_owned(), version);
    }
    if let (Device::Cuda(_), Ok(nccl)) = (worker.device, nccl::load()) {
        versions.insert("NCCL version".to_owned(), nccl.version.to_string());
    }
    versions
}

/// The exit code: whether the launcher should try again, never again, or have the config or data fixed.
fn exit_of(error: &anyhow::Error) -> Exit {
    let unusable = match error.downcast_ref::<DataError>() {
        Some(DataError::Read(_) | DataError::Tokenizer(_) | DataError::Cache(_)) | None => false,
        Some(
            DataError::Report { .. }
            | DataError::Refused { .. }
            | DataError::Nothing { .. }
            | DataError::TooManyBad { .. }
            | DataError::Misfits { .. }
            | DataError::WrongKind { .. },
        ) => true,
    };
    let read = match (error.downcast_ref(), error.downcast_ref()) {
        (Some(DataError::Read(read)), _) | (_, Some(WordpieceError::Read(read))) => Some(read),
        _ => error.downcast_ref::<ReadError>(),
    };
    if unusable
        || read.is_some_and(ReadError::is_final)
        || error.is::<BatchError>()
        || error.is::<Misfit>()
        || matches!(error.downcast_ref(), Some(NgramsError::Damaged { .. }))
        || error.is::<LanguageModelError>()
        || error.is::<TooManyTokens>()
        || matches!(error.downcast_ref(), Some(ParameterError::Untied { .. }))
    {
        Exit::Usage
    } else if error.is::<Diverged>() {
        Exit::DoNotRetry
    } else {
        Exit::Failed
    }
}

/// This rank's number on its host. (mpirun's helpers are tasks of Slurm's, too, and pass its
/// variables on, so that Open MPI's come first.)
pub(super) fn local_rank() -> usize {
    let number = number("OMPI_COMM_WORLD_LOCAL_RANK").or_else(|| number("SLURM_LOCALID"));
    number.unwrap_or(0)
}

/// A number that the launcher or MPI has left in the environment.
pub(super) fn number(variable: &str) -> Option<usize> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// NCCL would take the first interface that it finds, which may lead to no other host. The user's choice
/// goes before it.
fn keep_nccl_to_the_network() {
    if std::env::var_os(NCCL_INTERFACE).is_none()
        && let Some(name) = control::interface()
    {
        // SAFETY: no other thread reads variables yet: there is none of this program.
        unsafe { std::env::set_var(NCCL_INTERFACE, format!("={name}")) };
    }
}

/// Lines of different ranks never mix: each writes to a file of its own from the start. Returns where
/// they went before: to the engine.
fn log_to_file(run: &RunFolder, attempt: u64, rank: usize) -> anyhow::Result<File> {
    let folder = run.attempt_logs(attempt);
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let path = run.rank_log(attempt, rank);
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let engine = std::io::stderr().as_fd().try_clone_to_owned().context("there is no output")?;
    for stream in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: both descriptors are open.
        if unsafe { libc::dup2(file.as_raw_fd(), stream) } < 0 {
            return Err(std::io::Error::last_os_error()).context("cannot redirect the output");
        }
    }
    Ok(engine.into())
}

/// What panicked, and then where: the first line is shown first.
fn describe(panic: &std::panic::PanicHookInfo<'_>) -> String {
    let what = panic.payload_as_str().unwrap_or("a panic without words");
    let by_libtorch = words_of_libtorch(what);
    let what = by_libtorch.as_deref().unwrap_or(what);
    match panic.location() {
        Some(place) => format!("{what}\n(panicked at {place})"),
        None => what.to_owned(),
    }
}

/// An error of libtorch's that nobody expected, without the words of Rust around it.
fn words_of_libtorch(panic: &str) -> Option<String> {
    let (_, said) = panic.split_once(" value: Torch(\"")?;
    // A trace of calls follows; the panic has it on one line.
    let said = said.split("\\n").next()?.trim_end_matches("\")");
    let is_about_memory = ["could not create a primitive", "allocate memory", "out of memory"];
    let hint = match is_about_memory.iter().any(|words| said.contains(words)) {
        true => " (it says so when memory runs out)",
        false => "",
    };
    Some(format!("libtorch: {said}{hint}"))
}

/// A panic is reported to the coordinator, then ends the process: a half-dead rank would leave the
/// others waiting.
fn tell_panics(session: Session) {
    std::panic::set_hook(Box::new(move |panic| {
        let backtrace = std::backtrace::Backtrace::force_capture().to_string();
        process::say(format_args!("{panic}\n{backtrace}"));
        let message = blame::with_samples(&describe(panic));
        session.report(Report::Failed { message, backtrace });
        if let Err(error) = session.wait_delivered(DRAIN_TIMEOUT) {
            process::say(format_args!("control: {error}"));
        }
        process::exit_now(Exit::Panicked.code().into());
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtorch_is_quoted_without_the_words_around() {
        let panic =
            |words: &str| format!("called `Result::unwrap()` on an `Err` value: Torch({words:?})");
        assert_eq!(
            words_of_libtorch(&panic("index out of range in self\nException raised from x")),
            Some("libtorch: index out of range in self".into())
        );
        assert_eq!(
            words_of_libtorch(&panic("could not create a primitive")),
            Some("libtorch: could not create a primitive (it says so when memory runs out)".into())
        );
        assert_eq!(words_of_libtorch("index 7 out of range"), None);
    }
}
