//! Ranks that talk through NCCL, over tensors in the memory of GPUs; one GPU is one rank.
//!
//! The operations only queue work in a stream of their own ([`stream`]) and return, so that
//! gradients are reduced while backward goes on; [`Collective::settle`] waits for them. The
//! communicator does not block either: making it, queueing and waiting all end at a deadline, or as
//! soon as NCCL has noticed an error. Then the communicator is given up (`ncclCommAbort`), which
//! ends its kernels, and every later call fails.
//!
//! Ranks are started by mpirun and find each other through MPI: each tells the others its version of
//! NCCL and its GPU, and rank 0 the unique id, in one exchange. So a library that is missing on one
//! host, another version, or one GPU for two ranks is an error of all ranks at once, instead of a
//! wait without end in NCCL.

pub mod library;
mod stream;

use std::cell::Cell;
use std::ffi::{c_char, c_void};
use std::time::{Duration, Instant};

use crossbeam::channel::bounded;
use cudarc::driver::sys::CUdevice;
use cudarc::nccl::sys::{
    self, ncclComm_t, ncclDataType_t, ncclRedOp_t, ncclResult_t, ncclUniqueId,
};
use tch::{Device, Kind, Tensor};

pub use library::{NcclError, Version};

use super::mpi::Mpi;
use super::{Collective, CollectiveError, Message};
use stream::Stream;

/// How often NCCL is asked how it gets on.
const LOOK: Duration = Duration::from_micros(50);
/// How long NCCL may take to let go of a communicator: it may wait for ranks that are gone.
const RELEASE_DEADLINE: Duration = Duration::from_secs(1);

/// The ranks that mpirun started, one GPU each.
pub struct Nccl {
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

/// What a rank tells the others before there is a communicator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Card {
    /// 0 if the rank cannot use NCCL.
    version: Version,
    gpu: [u8; 16],
    /// The unique id, which is rank 0's that counts.
    id: [u8; 128],
}

impl Nccl {
    /// Joins the ranks of `mpi`; no wait is longer than `deadline`. `device` is this rank's GPU.
    /// (In tests it is the CPU, and stand-ins of the two libraries work on main memory.)
    ///
    /// # Errors
    /// What keeps this rank or another from using NCCL.
    pub fn start(mpi: &Mpi, device: Device, deadline: Duration) -> Result<Self, NcclError> {
        let mine = Card::new(device, mpi.rank() == 0);
        let card = mine.as_ref().map_or(Card::UNUSABLE, |(_, card)| *card);
        let cards: Vec<Card> = mpi.gather(&card.to_bytes()).iter().map(Card::from_bytes).collect();
        let (gpu, _) = mine?;
        Self::join(mpi.rank(), &cards, gpu, device, deadline)
    }

    fn join(
        rank: usize,
        cards: &[Card],
        gpu: CUdevice,
        device: Device,
        deadline: Duration,
    ) -> Result<Self, NcclError> {
        check(cards)?;
        let world_size = cards.len();
        let stream = Stream::new(gpu, device)?;
        let id = ncclUniqueId { internal: cards[0].id.map(|byte| byte as c_char) };
        let mut communicator = std::ptr::null_mut();
        // SAFETY: the config outlives the call, and the communicator's place is ours.
        let result = unsafe {
            let (size, mut config) = (world_size as i32, library::non_blocking());
            sys::ncclCommInitRankConfig(&mut communicator, size, id, rank as i32, &mut config)
        };
        let communicator = Cell::new(communicator);
        let nccl = Self { rank, world_size, device, deadline, communicator, stream };
        nccl.queued("joining the other ranks", result)?;
        Ok(nccl)
    }

    /// Waits out a call that NCCL goes on with in the background.
    fn queued(&self, operation: &'static str, result: ncclResult_t) -> Result<(), NcclError> {
        let outcome = match result {
            ncclResult_t::ncclSuccess => Ok(()),
            ncclResult_t::ncclInProgress => {
                self.wait(operation, |state| Ok(state == ncclResult_t::ncclSuccess))
            }
            error => Err(library::failed(operation, error)),
        };
        self.or_give_up(outcome)
    }

    /// Waits until `done`, which is given the communicator's state, as long as that is no error.
    fn wait(
        &self,
        operation: &'static str,
        done: impl Fn(ncclResult_t) -> Result<bool, NcclError>,
    ) -> Result<(), NcclError> {
        let (started, communicator) = (Instant::now(), self.usable()?);
        loop {
            let mut state = ncclResult_t::ncclSuccess;
            // SAFETY: the communicator is alive and the place is ours.
            let asked = unsafe { sys::ncclCommGetAsyncError(communicator, &mut state) };
            for result in [asked, state] {
                if !matches!(result, ncclResult_t::ncclSuccess | ncclResult_t::ncclInProgress) {
                    return Err(library::failed(operation, result));
                }
            }
            if done(state)? {
                return Ok(());
            }
            if started.elapsed() > self.deadline {
                return Err(NcclError::Deadline { operation, deadline: self.deadline });
            }
            std::thread::sleep(LOOK);
        }
    }

    fn usable(&self) -> Result<ncclComm_t, NcclError> {
        let communicator = self.communicator.get();
        if communicator.is_null() { Err(NcclError::GivenUp) } else { Ok(communicator) }
    }

    fn or_give_up(&self, outcome: Result<(), NcclError>) -> Result<(), NcclError> {
        outcome.inspect_err(|_| self.release(sys::ncclCommAbort))
    }

    /// Lets go of the communicator, without waiting for ranks that are gone.
    fn release(&self, how: unsafe fn(ncclComm_t) -> ncclResult_t) {
        let communicator = self.communicator.replace(std::ptr::null_mut());
        if communicator.is_null() {
            return;
        }
        let address = communicator as usize;
        let (done, released) = bounded(1);
        std::thread::spawn(move || {
            // SAFETY: nobody else has the communicator any more.
            let _ = unsafe { how(address as ncclComm_t) };
            let _ = done.send(());
        });
        // Overdue or not: the process ends, or goes on without NCCL.
        let _ = released.recv_timeout(RELEASE_DEADLINE);
    }

    /// Where a tensor's elements are, how many, and of what type.
    ///
    /// # Panics
    /// If the tensor is not as the trait's contract asks.
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
        let here = |message: &Message| {
            let (start, count, kind) = self.elements(&message.elements);
            (start, count, kind, message.peer as i32)
        };
        let result = |result, operation| match result {
            ncclResult_t::ncclSuccess | ncclResult_t::ncclInProgress => Ok(()),
            error => Err(library::failed(operation, error)),
        };
        // SAFETY: the tensors are alive until the stream has been waited for, by the contract.
        unsafe {
            result(sys::ncclGroupStart(), "exchanging messages")?;
            for (start, count, kind, peer) in sends.iter().map(here) {
                let sent = sys::ncclSend(start, count, kind, peer, communicator, stream);
                result(sent, "sending a message")?;
            }
            for (start, count, kind, peer) in receives.iter().map(here) {
                let received = sys::ncclRecv(start, count, kind, peer, communicator, stream);
                result(received, "receiving a message")?;
            }
            self.queued("exchanging messages", sys::ncclGroupEnd())
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
        let sum = ncclRedOp_t::ncclSum;
        // SAFETY: the tensor is alive until the stream has been waited for, by the contract.
        let result =
            unsafe { sys::ncclAllReduce(start, start, count, kind, sum, communicator, stream) };
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
        // SAFETY: as above; in place, which NCCL allows where a rank's slice lies in its own place.
        let result =
            unsafe { sys::ncclAllGather(mine.cast(), start, slice, kind, communicator, stream) };
        Ok(self.queued("gathering from the ranks", result)?)
    }

    fn begin(&self) -> Result<(), CollectiveError> {
        let outcome = self.stream.follow().map_err(NcclError::from);
        Ok(self.or_give_up(outcome)?)
    }

    fn settle(&self) -> Result<(), CollectiveError> {
        let done = |_| Ok(self.stream.is_done()?);
        let outcome = self.stream.mark().map_err(NcclError::from);
        let outcome = outcome.and_then(|()| self.wait("the reduction of a step", done));
        Ok(self.or_give_up(outcome)?)
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        self.release(sys::ncclCommDestroy);
    }
}

impl Card {
    const UNUSABLE: Self = Self { version: Version(0), gpu: [0; 16], id: [0; 128] };
    const BYTES: usize = 4 + 16 + 128;

    /// This rank's, with its GPU.
    fn new(device: Device, names_the_communicator: bool) -> Result<(CUdevice, Self), NcclError> {
        let ordinal = if let Device::Cuda(index) = device { index } else { 0 };
        let version = library::load()?;
        let gpu = library::gpu(ordinal)?;
        let id = if names_the_communicator { library::unique_id()? } else { [0; 128] };
        Ok((gpu, Self { version, gpu: library::gpu_id(gpu)?, id }))
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

/// What keeps the ranks with these cards from working together.
fn check(cards: &[Card]) -> Result<(), NcclError> {
    if let Some(rank) = cards.iter().position(|card| card.version == Version(0)) {
        return Err(NcclError::Peer { rank });
    }
    let first = cards[0].version;
    if let Some(rank) = cards.iter().position(|card| card.version != first) {
        return Err(NcclError::Versions { first, rank, other: cards[rank].version });
    }
    for (second, card) in cards.iter().enumerate() {
        if let Some(first) = cards[..second].iter().position(|other| other.gpu == card.gpu) {
            return Err(NcclError::SharedGpu { first, second });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
