//! The collective operations of a backend, and the conformance test that each backend passes.

use tch::{Device, Kind, Tensor};

use crate::device::nccl::NcclError;

/// Why a collective operation failed.
#[derive(Debug, thiserror::Error)]
pub enum CollectiveError {
    /// MPI could not be initialised as needed.
    #[error("MPI: {0}")]
    Mpi(String),
    /// MPI's world has another size than the launcher's.
    #[error(
        "the launcher started {expected} ranks, MPI knows {found}; is `mpirun` of the same MPI \
         that tandem-worker was built with?"
    )]
    WorldSize {
        /// The number of ranks that the launcher started.
        expected: usize,
        /// The number of ranks in MPI's world.
        found: usize,
    },
    /// NCCL or the GPU failed.
    #[error(transparent)]
    Nccl(#[from] NcclError),
    /// The communication thread has ended.
    #[error("the communication thread has ended")]
    ThreadEnded,
    /// A backend fails the conformance test.
    #[error("conformance: {operation} of {length} elements over {world_size} ranks is wrong")]
    Conformance {
        /// The operation.
        operation: &'static str,
        /// The number of elements.
        length: i64,
        /// The number of ranks.
        world_size: usize,
    },
}

/// A message from or to another rank.
#[derive(Debug)]
pub struct Message {
    /// The other rank.
    pub peer: usize,
    /// The elements to send, or the tensor to receive into.
    pub elements: Tensor,
}

/// Collective operations: every rank takes part in each of them.
///
/// # Contract
/// All ranks call the same methods in the same order. Tensors are contiguous and f32, of equal
/// shape on every rank unless a method says otherwise, and may be empty. When a method returns,
/// whatever the calling thread does next with the tensors sees the result. A rank that does
/// something else leaves the others waiting until the launcher's deadline ends the attempt. Each
/// implementation passes [`conformance`].
pub trait Collective: Send {
    /// This rank, counted from 0.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn world_size(&self) -> usize;

    /// Replaces `tensor` on every rank by the element-wise sum over all ranks, in an order of the
    /// backend's own. NCCL takes bf16, too.
    ///
    /// # Errors
    /// A failing communication library.
    fn all_reduce_sum(&self, tensor: &mut Tensor) -> Result<(), CollectiveError>;

    /// Sends all `sends` and fills all `receives`, at once. Between two ranks, the n-th message
    /// that one sends is the n-th that the other receives, and has as many elements; no rank
    /// writes to itself.
    ///
    /// # Errors
    /// A failing communication library.
    fn exchange(&self, sends: &[Message], receives: &mut [Message]) -> Result<(), CollectiveError>;

    /// Takes `tensor` as one slice of equal length for each rank, in the order of ranks, of which
    /// this rank has filled in its own; fills in the others'.
    ///
    /// # Errors
    /// A failing communication library.
    fn all_gather(&self, tensor: &mut Tensor) -> Result<(), CollectiveError>;

    /// Called by a thread before it uses what other threads have queued: makes the thread's next operations
    /// wait for that.
    ///
    /// # Errors
    /// A failing device.
    fn begin(&self) -> Result<(), CollectiveError> {
        Ok(())
    }

    /// Whether results are visible to every thread when a call returns, without [`settle`].
    ///
    /// [`settle`]: Collective::settle
    fn is_done_on_return(&self) -> bool {
        false
    }

    /// Lets whatever any thread does next see the results of all calls so far, without waiting for them
    /// where they are computed on a device. Waits for those that were settled before: so an error is
    /// noticed, and the host is at most one step ahead of its device.
    ///
    /// # Errors
    /// A failing communication library, or a deadline.
    fn settle(&self) -> Result<(), CollectiveError> {
        Ok(())
    }

    /// Waits for the results of all calls so far, on a device, too.
    ///
    /// # Errors
    /// As [`settle`](Self::settle).
    fn complete(&self) -> Result<(), CollectiveError> {
        self.settle()?;
        self.settle()
    }
}

/// Lengths: empty, odd, and larger than one chunk of any backend.
const LENGTHS: [i64; 4] = [0, 1, 7, 1_000_003];

/// The conformance test of a backend, with tensors on `device`; run it on each rank.
///
/// # Errors
/// The first operation with a wrong result.
pub fn conformance(world: &dyn Collective, device: Device) -> Result<(), CollectiveError> {
    world.begin()?;
    for length in LENGTHS {
        let check = |operation, holds| {
            let world_size = world.world_size();
            let wrong = CollectiveError::Conformance { operation, length, world_size };
            if holds { Ok(()) } else { Err(wrong) }
        };
        check("the sum", sums(world, length, device)?)?;
        check("the exchange", exchanges(world, length, device)?)?;
        check("the gathering", gathers(world, length, device)?)?;
    }
    world.complete()
}

fn sums(world: &dyn Collective, length: i64, device: Device) -> Result<bool, CollectiveError> {
    let (rank, size) = (world.rank() as i64, world.world_size() as i64);
    let mut sum = pattern(length, rank + 1, device);
    world.all_reduce_sum(&mut sum)?;
    Ok(sum == pattern(length, size * (size + 1) / 2, device)) // 1 + 2 + ... + size
}

/// Rank a sends to rank b twice if a < b and once otherwise, but never to itself.
fn exchanges(world: &dyn Collective, length: i64, device: Device) -> Result<bool, CollectiveError> {
    let (rank, size) = (world.rank(), world.world_size());
    let peers = (0..size).filter(|peer| *peer != rank);
    // The n-th message from one rank to another: its length, and the factor of its values.
    let message = |from: usize, to: usize, nth: usize| {
        pattern(length + nth as i64, (from * size + to + 100 * nth) as i64, device)
    };
    let nths = |from: usize, to: usize| 0..if from < to { 2 } else { 1 };
    let (mut sends, mut receives, mut expected) = (Vec::new(), Vec::new(), Vec::new());
    for peer in peers {
        sends.extend(
            nths(rank, peer).map(|nth| Message { peer, elements: message(rank, peer, nth) }),
        );
        expected.extend(nths(peer, rank).map(|nth| message(peer, rank, nth)));
        receives.extend(
            nths(peer, rank).map(|nth| Message { peer, elements: message(peer, rank, nth) * -1 }),
        );
    }
    world.exchange(&sends, &mut receives)?;
    Ok(receives.iter().map(|message| &message.elements).eq(&expected))
}

fn gathers(world: &dyn Collective, length: i64, device: Device) -> Result<bool, CollectiveError> {
    let (rank, size) = (world.rank() as i64, world.world_size() as i64);
    let slices: Vec<Tensor> = (0..size).map(|rank| pattern(length, rank + 1, device)).collect();
    let mut gathered = Tensor::zeros([size * length], (Kind::Float, device));
    gathered.narrow(0, rank * length, length).copy_(&slices[rank as usize]);
    world.all_gather(&mut gathered)?;
    Ok(gathered == Tensor::cat(&slices, 0))
}

/// `[length]` numbers that differ from their neighbours, times `factor`; all sums of few are exact.
fn pattern(length: i64, factor: i64, device: Device) -> Tensor {
    let numbers = Tensor::arange(length, (Kind::Int64, device)).remainder(97);
    (numbers * factor).to_kind(Kind::Float)
}
