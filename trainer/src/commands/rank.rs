//! What every distributed verb does first and last: log file, MPI, coordinator, goodbye.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use mpi::environment::Universe;
use tandem_cluster::control::{
    ADDRESS_VARIABLE, GENERATION_VARIABLE, Report, Session, WORLD_SIZE_VARIABLE,
};
use tandem_cluster::process;
use tch::Device;

use crate::blame;
use crate::checkpoint::Misfit;
use crate::data::batches::BatchError;
use crate::data::corpus::DataError;
use crate::parallel::mpi::Mpi;
use crate::parallel::nccl::Nccl;
use crate::parallel::solo::Solo;
use crate::parallel::{Collective, CollectiveError};
use crate::train::Diverged;
use crate::worker::Worker;

/// How long the last words of a failing rank may take to arrive.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Runs `body` as this rank of the run in `run`, with MPI if there are others; answers the
/// process's exit code.
///
/// # Errors
/// What happens before there is a coordinator to tell it to.
pub fn run(
    run: &Path,
    body: impl FnOnce(&Worker, Option<Mpi>) -> anyhow::Result<u8>,
) -> anyhow::Result<u8> {
    let rank = number("OMPI_COMM_WORLD_RANK").or_else(|| number("SLURM_PROCID")).unwrap_or(0);
    let world_size = number(WORLD_SIZE_VARIABLE).unwrap_or(1);
    if std::env::var_os(ADDRESS_VARIABLE).is_some() {
        log_to_file(run, number(GENERATION_VARIABLE).unwrap_or(0), rank)?;
    }
    let config = tandem_config::load(&run.join("config.yaml"), &[])?;
    let (universe, mpi) = if world_size > 1 { Some(Mpi::start(world_size)?) } else { None }.unzip();
    let rank = mpi.as_ref().map_or(rank, Collective::rank);
    let worker = Worker::join(run, config, (rank, world_size), local_rank())?;
    if let Some(session) = worker.session() {
        tell_panics(session.clone());
    }
    let result = body(&worker, mpi);
    let code = match &result {
        Ok(code) => *code,
        Err(error) => {
            process::say(format_args!("error: {error:#}"));
            let message = blame::with_samples(&format!("{error:#}"));
            worker.report(Report::Failed { message, backtrace: error.backtrace().to_string() });
            exit_code(error)
        }
    };
    if let Some(session) = worker.session() {
        session.clone().goodbye(code.into());
    }
    if result.is_err() {
        // Without MPI_Finalize, which would wait for ranks that do not know yet.
        process::exit_now(code.into());
    }
    drop(universe);
    Ok(code)
}

/// The ranks that mpirun started without a launcher; one where it did not.
///
/// # Errors
/// As [`Mpi::start`].
pub fn started_by_mpirun() -> Result<(Universe, Mpi), CollectiveError> {
    Mpi::start(number("OMPI_COMM_WORLD_SIZE").unwrap_or(1))
}

/// What sums gradients over the ranks: MPI in main memory, NCCL between GPUs.
///
/// # Errors
/// What keeps a rank from using NCCL.
pub fn collective(
    worker: &Worker,
    mpi: Option<Mpi>,
) -> Result<Box<dyn Collective>, CollectiveError> {
    Ok(match mpi {
        None => Box::new(Solo),
        Some(mpi) if worker.device == Device::Cpu => Box::new(mpi),
        Some(mpi) => {
            let deadlines = &worker.config.cluster.deadlines;
            // One rank may save or evaluate while another waits for it in the next step. The
            // launcher knows which phase each is in, and comes first.
            let longest = deadlines.step + deadlines.save.max(deadlines.evaluate);
            Box::new(Nccl::start(&mpi, worker.device, Duration::from_secs_f64(longest))?)
        }
    })
}

/// What the launcher is to do: mend the config or data (2), never try again (93), or try again (1).
fn exit_code(error: &anyhow::Error) -> u8 {
    let unusable = match error.downcast_ref::<DataError>() {
        Some(DataError::Read(_) | DataError::Tokenizer(_) | DataError::Cache(_)) | None => false,
        Some(
            DataError::Refused { .. } | DataError::Nothing { .. } | DataError::WrongKind { .. },
        ) => true,
    };
    if unusable || error.is::<BatchError>() || error.is::<Misfit>() {
        2
    } else if error.is::<Diverged>() {
        93
    } else {
        1
    }
}

/// This rank's number on its host. (mpirun's helpers are tasks of Slurm's, too, and pass its
/// variables on, so that Open MPI's come first.)
pub fn local_rank() -> usize {
    let number = number("OMPI_COMM_WORLD_LOCAL_RANK").or_else(|| number("SLURM_LOCALID"));
    number.unwrap_or(0)
}

/// A number that the launcher or MPI has left in the environment.
pub fn number(variable: &str) -> Option<usize> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// Lines of different ranks never mix: each writes to a file of its own from the start.
fn log_to_file(run: &Path, generation: usize, rank: usize) -> anyhow::Result<()> {
    let folder = run.join("logs").join(format!("attempt-{generation}"));
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(format!("rank-{rank}.log"));
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    for stream in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: both descriptors are open.
        if unsafe { libc::dup2(file.as_raw_fd(), stream) } < 0 {
            return Err(std::io::Error::last_os_error()).context("cannot redirect the output");
        }
    }
    Ok(())
}

/// What panicked, and then where: the first line is what people see first.
fn describe(panic: &std::panic::PanicHookInfo<'_>) -> String {
    let what = panic.payload_as_str().unwrap_or("a panic without words");
    match panic.location() {
        Some(place) => format!("{what}\n(panicked at {place})"),
        None => what.to_owned(),
    }
}

/// A panic is told to the coordinator, then ends the process: a half-dead rank would leave the
/// others waiting.
fn tell_panics(session: Session) {
    std::panic::set_hook(Box::new(move |panic| {
        let backtrace = std::backtrace::Backtrace::force_capture().to_string();
        process::say(format_args!("{panic}\n{backtrace}"));
        let message = blame::with_samples(&describe(panic));
        session.report(Report::Failed { message, backtrace });
        if let Err(error) = session.wait_delivered(LAST_WORDS) {
            process::say(format_args!("control: {error}"));
        }
        process::exit_now(101);
    }));
}
