//! Collective operations over NCCL, on tensors in GPU memory.
//!
//! The operations only queue work in a separate stream ([`stream`]) and return, so that gradients are
//! reduced during backward; [`Collective::settle`] lets computation wait for them. The communicator is
//! non-blocking: creating it, queueing and waiting all end at a deadline, or as soon as NCCL has detected an
//! error. Then the communicator is aborted (`ncclCommAbort`), which ends its kernels, and every later call
//! fails.
//!
//! Ranks find each other through MPI: in one exchange, each sends its version of NCCL and its GPU, and rank
//! 0 the unique id. A library that is missing on one host, a different version, or too many ranks on one GPU
//! is therefore an error of all ranks at once, instead of an endless wait in NCCL.

pub mod stream;

use std::cell::Cell;
use std::ffi::{c_char, c_void};
use std::time::{Duration, Instant};

use crossbeam::channel::bounded;
use cudarc::driver::sys::CUdevice;
use cudarc::nccl::sys::{ncclComm_t, ncclDataType_t, ncclRedOp_t, ncclResult_t, ncclUniqueId};
use tch::{Device, Kind, Tensor};

use super::mpi::Mpi;
use super::{Collective, CollectiveError, Message};
use crate::device::driver;
use crate::device::nccl::{self as library, Library, NcclError, Version};
use stream::Stream;

/// How often NCCL is asked how it gets on.
const POLL_INTERVAL: Duration = Duration::from_micros(50);
/// How long NCCL may take to end a communicator that all ranks leave.
const FINALIZE_DEADLINE: Duration = Duration::from_secs(10);
/// How long NCCL may take to destroy or abort a communicator: it may wait for ranks that have ended.
const RELEASE_DEADLINE: Duration = Duration::from_secs(1);

/// An NCCL communicator of all ranks.
pub struct Nccl {
    library: &'static Library,
    rank: usize,
    world_size: usize,
    device: Device,
    deadline: Duration,
    /// Null after an error.
    communicator: Cell<ncclComm_t>,
    stream: Stream,
}

// SAFETY: CUDA's and NCCL's handles may be used by any thread, by one at a time.
unsafe impl Send for Nccl {}

/// What a rank sends to the others before there is a communicator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Card {
    /// 0 if the rank cannot use NCCL.
    version: Version,
    gpu: [u8; 16],
    /// The unique id; only that of rank 0 is used.
    id: [u8; 128],
}

impl Nccl {
    /// Creates the communicator of the ranks of `mpi`; no wait is longer than `deadline`. `device` is this
    /// rank's GPU, which it shares with at most `workers_per_gpu - 1` others. (In tests it is the CPU, and
    /// stand-ins for the two libraries work on main memory.)
    ///
    /// # Errors
    /// Why this rank or another cannot use NCCL.
    pub fn start(
        mpi: &Mpi,
        device: Device,
        workers_per_gpu: usize,
        deadline: Duration,
    ) -> Result<Self, NcclError> {
        let mine = Card::new(device, mpi.rank() == 0);
        let card = mine.as_ref().map_or(Card::UNUSABLE, |(.., card)| *card);
        let cards: Vec<Card> = mpi.gather(&card.to_bytes()).iter().map(Card::from_bytes).collect();
        let (library, gpu, _) = mine?;
        if workers_per_gpu > 1 && library.version < library::OLDEST_SHARING {
            return Err(library.cannot_share(workers_per_gpu));
        }
        check(&cards, workers_per_gpu)?;
        Self::join(library, mpi.rank(), &cards, (gpu, device), deadline)
    }

    fn join(
        library: &'static Library,
        rank: usize,
        cards: &[Card],
        (gpu, device): (CUdevice, Device),
        deadline: Duration,
    ) -> Result<Self, NcclError> {
        let world_size = cards.len();
        let stream = Stream::new(gpu, device)?;
        let id = ncclUniqueId { internal: cards[0].id.map(|byte| byte as c_char) };
        let mut communicator = std::ptr::null_mut();
        // SAFETY: the config outlives the call, and `communicator` points to our own memory.
        let result = unsafe {
            let (size, mut config) = (world_size as i32, library::non_blocking());
            let join = library.functions.comm_init_rank_config;
            join(&mut communicator, size, id, rank as i32, &mut config)
        };
        let communicator = Cell::new(communicator);
        let nccl = Self { library, rank, world_size, device, deadline, communicator, stream };
        nccl.queued("joining the other ranks", result)?;
        Ok(nccl)
    }

    /// Waits for a call that NCCL may continue in the background.
    fn queued(&self, operation: &'static str, result: ncclResult_t) -> Result<(), NcclError> {
        let outcome = match result {
            // A call that returned success may still fail: the communicator's state decides.
            ncclResult_t::ncclSuccess | ncclResult_t::ncclInProgress => {
                self.wait(operation, |state| Ok(state == ncclResult_t::ncclSuccess))
            }
            error => Err(self.library.failed(operation, error)),
        };
        self.or_give_up(outcome)
    }

    /// Polls the communicator's state until `done` returns true for it, or it is an error.
    fn wait(
        &self,
        operation: &'static str,
        done: impl Fn(ncclResult_t) -> Result<bool, NcclError>,
    ) -> Result<(), NcclError> {
        self.wait_within(self.deadline, operation, done)
    }

    fn wait_within(
        &self,
        deadline: Duration,
        operation: &'static str,
        done: impl Fn(ncclResult_t) -> Result<bool, NcclError>,
    ) -> Result<(), NcclError> {
        let (started, communicator) = (Instant::now(), self.usable()?);
        loop {
            let mut state = ncclResult_t::ncclSuccess;
            let ask = self.library.functions.comm_get_async_error;
            // SAFETY: the communicator is alive and the place is ours.
            let asked = unsafe { ask(communicator, &mut state) };
            for result in [asked, state] {
                if !matches!(result, ncclResult_t::ncclSuccess | ncclResult_t::ncclInProgress) {
                    return Err(self.library.failed(operation, result));
                }
            }
            if done(state)? {
                return Ok(());
            }
            if started.elapsed() > deadline {
                return Err(NcclError::Deadline { operation, deadline });
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn usable(&self) -> Result<ncclComm_t, NcclError> {
        let communicator = self.communicator.get();
        if communicator.is_null() { Err(NcclError::GivenUp) } else { Ok(communicator) }
    }

    fn or_give_up(&self, outcome: Result<(), NcclError>) -> Result<(), NcclError> {
        outcome.inspect_err(|_| self.release(self.library.functions.comm_abort))
    }

    /// Finalizes the communicator: NCCL completes queued operations first.
    fn finalize(&self) -> Result<(), NcclError> {
        let operation = "leaving the other ranks";
        // SAFETY: the communicator is alive.
        match unsafe { (self.library.functions.comm_finalize)(self.usable()?) } {
            ncclResult_t::ncclSuccess | ncclResult_t::ncclInProgress => {
                self.wait_within(FINALIZE_DEADLINE, operation, |state| {
                    Ok(state == ncclResult_t::ncclSuccess)
                })
            }
            error => Err(self.library.failed(operation, error)),
        }
    }

    /// Destroys or aborts the communicator, without waiting for ranks that have ended.
    fn release(&self, how: unsafe extern "C" fn(ncclComm_t) -> ncclResult_t) {
        let communicator = self.communicator.replace(std::ptr::null_mut());
        if communicator.is_null() {
            return;
        }
        let address = communicator as usize;
        let (done, released) = bounded(1);
        std::thread::spawn(move || {
            // SAFETY: no other reference to the communicator is left.
            let _ = unsafe { how(address as ncclComm_t) };
            let _ = done.send(());
        });
        // Even after a timeout, the process ends or continues without NCCL.
        let _ = released.recv_timeout(RELEASE_DEADLINE);
    }

    /// The pointer, number and type of a tensor's elements.
    ///
    /// # Panics
    /// If the tensor violates the trait's contract.
    fn elements(&self, tensor: &Tensor) -> (*mut c_void, usize, ncclDataType_t) {
        assert_eq!(tensor.device(), self.device);
        assert!(tensor.is_contiguous(), "collectives take contiguous tensors");
        let kind = match tensor.kind() {
            Kind::Float => ncclDataType_t::ncclFloat32,
            Kind::BFloat16 => ncclDataType_t::ncclBfloat16,
            other => panic!("collectives take f32 and bf16, not {other:?}"),
        };
        (tensor.data_ptr(), tensor.numel(), kind)
    }

    fn group(&self, sends: &[Message], receives: &[Message]) -> Result<(), NcclError> {
        let (communicator, stream) = (self.usable()?, self.stream.handle());
        let library::Functions { group_start, group_end, send, receive, .. } =
            self.library.functions;
        let here = |message: &Message| {
            let (start, count, kind) = self.elements(&message.elements);
            (start, count, kind, message.peer as i32)
        };
        let result = |result, operation| match result {
            ncclResult_t::ncclSuccess | ncclResult_t::ncclInProgress => Ok(()),
            error => Err(self.library.failed(operation, error)),
        };
        let operation = "exchanging messages";
        // SAFETY: the tensors are alive until the stream has been waited for, by the contract.
        unsafe {
            result(group_start(), operation)?;
            let mut sends = sends.iter().map(here);
            let mut receives = receives.iter().map(here);
            let queued = sends
                .try_for_each(|(start, count, kind, peer)| {
                    let sent = send(start, count, kind, peer, communicator, stream);
                    result(sent, "sending a message")
                })
                .and_then(|()| {
                    receives.try_for_each(|(start, count, kind, peer)| {
                        let received = receive(start, count, kind, peer, communicator, stream);
                        result(received, "receiving a message")
                    })
                });
            // An open group belongs to the thread and would absorb its next calls.
            let ended = group_end();
            queued?;
            self.queued(operation, ended)
        }
    }
}

impl Collective for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn all_reduce_sum(&self, tensor: &mut Tensor) -> Result<(), CollectiveError> {
        let (start, count, kind) = self.elements(tensor);
        let (communicator, stream) = (self.usable()?, self.stream.handle());
        let (sum, all_reduce) = (ncclRedOp_t::ncclSum, self.library.functions.all_reduce);
        // SAFETY: the tensor is alive until the stream has been waited for, by the contract.
        let result = unsafe { all_reduce(start, start, count, kind, sum, communicator, stream) };
        Ok(self.queued("summing over the ranks", result)?)
    }

    fn exchange(&self, sends: &[Message], receives: &mut [Message]) -> Result<(), CollectiveError> {
        let outcome = self.group(sends, receives);
        Ok(self.or_give_up(outcome)?)
    }

    fn all_gather(&self, tensor: &mut Tensor) -> Result<(), CollectiveError> {
        let (start, count, kind) = self.elements(tensor);
        let (communicator, stream) = (self.usable()?, self.stream.handle());
        let slice = count / self.world_size;
        let mine =
            start.cast::<u8>().wrapping_add(self.rank * slice * tensor.kind().elt_size_in_bytes());
        let all_gather = self.library.functions.all_gather;
        // SAFETY: as above; NCCL allows this in place, since a rank's slice is at its own offset.
        let result = unsafe { all_gather(mine.cast(), start, slice, kind, communicator, stream) };
        Ok(self.queued("gathering from the ranks", result)?)
    }

    fn begin(&self) -> Result<(), CollectiveError> {
        let outcome = self.stream.follow().map_err(NcclError::from);
        Ok(self.or_give_up(outcome)?)
    }

    fn settle(&self) -> Result<(), CollectiveError> {
        let done = |_| Ok(self.stream.is_done()?);
        let outcome = self.wait("the reduction of a step", done);
        let outcome = outcome.and_then(|()| self.stream.precede().map_err(NcclError::from));
        Ok(self.or_give_up(outcome)?)
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        let library::Functions { comm_destroy, comm_abort, .. } = self.library.functions;
        self.release(if self.finalize().is_ok() { comm_destroy } else { comm_abort });
    }
}

impl Card {
    const UNUSABLE: Self = Self { version: Version(0), gpu: [0; 16], id: [0; 128] };
    const BYTES: usize = 4 + 16 + 128;

    /// The card of this rank, with its GPU.
    fn new(
        device: Device,
        names_the_communicator: bool,
    ) -> Result<(&'static Library, CUdevice, Self), NcclError> {
        let ordinal = if let Device::Cuda(index) = device { index } else { 0 };
        let library = library::load()?;
        let gpu = driver::gpu(ordinal)?;
        let id = if names_the_communicator { library.unique_id()? } else { [0; 128] };
        Ok((library, gpu, Self { version: library.version, gpu: driver::gpu_id(gpu)?, id }))
    }

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&self.version.0.to_le_bytes());
        bytes[4..20].copy_from_slice(&self.gpu);
        bytes[20..].copy_from_slice(&self.id);
        bytes
    }

    fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let mut card = Self::UNUSABLE;
        let (version, rest) = bytes.split_at(4);
        card.version.0 = version.iter().rev().fold(0, |code, &byte| code << 8 | i32::from(byte));
        card.gpu.copy_from_slice(&rest[..16]);
        card.id.copy_from_slice(&rest[16..]);
        card
    }
}

/// Checks that ranks with these cards can work together, with at most `workers_per_gpu` on a GPU.
fn check(cards: &[Card], workers_per_gpu: usize) -> Result<(), NcclError> {
    if let Some(rank) = cards.iter().position(|card| card.version == Version(0)) {
        return Err(NcclError::Peer { rank });
    }
    let first = cards[0].version;
    if let Some(rank) = cards.iter().position(|card| card.version != first) {
        return Err(NcclError::Versions { first, rank, other: cards[rank].version });
    }
    for (second, card) in cards.iter().enumerate() {
        let mut before = (0..second).filter(|&rank| cards[rank].gpu == card.gpu);
        let first = before.next();
        let sharing = first.iter().count() + before.count() + 1;
        if let Some(first) = first.filter(|_| sharing > workers_per_gpu) {
            return Err(NcclError::SharedGpu { first, second });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
