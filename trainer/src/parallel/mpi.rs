//! Collective operations over MPI, on tensors in main memory.

use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::environment::Universe;
use mpi::request;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Destination, Source};
use tch::{Device, Kind, Tensor};

use super::{Collective, CollectiveError, Message};

/// Elements per all-reduce call: 2 MiB, which is about three times as fast as one call for everything.
const CHUNK_ELEMENTS: usize = 512 << 10;

/// The ranks started by mpirun.
pub struct Mpi {
    world: SimpleCommunicator,
    rank: usize,
    world_size: usize,
}

// SAFETY: MPI is initialised with Threading::Multiple, and the world's handle is valid on every
// thread.
unsafe impl Send for Mpi {}

impl Mpi {
    /// Initialises MPI. The universe must live until the last collective operation, and be dropped on
    /// the thread that created it.
    ///
    /// # Errors
    /// An MPI without thread support, or another number of ranks than `expected`.
    pub fn start(expected: usize) -> Result<(Universe, Self), CollectiveError> {
        let (universe, threading) = mpi::initialize_with_threading(Threading::Multiple)
            .ok_or_else(|| CollectiveError::Mpi("it has been started already".into()))?;
        if threading != Threading::Multiple {
            return Err(CollectiveError::Mpi(format!(
                "it was built for {threading:?} threads, Tandem needs MPI_THREAD_MULTIPLE"
            )));
        }
        let world = universe.world();
        let (rank, world_size) = (world.rank() as usize, world.size() as usize);
        // Some combinations of launcher and library silently start n worlds of one rank.
        if world_size != expected {
            return Err(CollectiveError::WorldSize { expected, found: world_size });
        }
        Ok((universe, Self { world, rank, world_size }))
    }

    /// Gathers a value of each rank, in the order of ranks.
    pub fn gather<const BYTES: usize>(&self, mine: &[u8; BYTES]) -> Vec<[u8; BYTES]> {
        let mut all = vec![0; BYTES * self.world_size];
        self.world.all_gather_into(&mine[..], &mut all[..]);
        all.as_chunks().0.to_vec()
    }
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn is_done_on_return(&self) -> bool {
        true
    }

    fn all_reduce_sum(&self, tensor: &mut Tensor) -> Result<(), CollectiveError> {
        let mut mine = Vec::new();
        for chunk in floats(tensor).chunks_mut(CHUNK_ELEMENTS) {
            mine.clear();
            mine.extend_from_slice(chunk);
            self.world.all_reduce_into(&mine[..], chunk, SystemOperation::sum());
        }
        Ok(())
    }

    fn exchange(&self, sends: &[Message], receives: &mut [Message]) -> Result<(), CollectiveError> {
        let process = |peer: usize| self.world.process_at_rank(peer as i32);
        request::scope(|scope| {
            let mut pending = Vec::with_capacity(sends.len() + receives.len());
            for Message { peer, elements } in receives {
                let elements = floats(elements);
                pending.push(process(*peer).immediate_receive_into(scope, elements));
            }
            for Message { peer, elements } in sends {
                pending.push(process(*peer).immediate_send(scope, floats_of(elements)));
            }
            for request in pending {
                request.wait();
            }
        });
        Ok(())
    }

    fn all_gather(&self, tensor: &mut Tensor) -> Result<(), CollectiveError> {
        let all = floats(tensor);
        let slice = all.len() / self.world_size;
        let mine = all[slice * self.rank..][..slice].to_vec();
        self.world.all_gather_into(&mine[..], all);
        Ok(())
    }
}

/// The elements of a tensor in main memory.
///
/// # Panics
/// If the tensor is not contiguous f32 in main memory, as the trait's contract asks.
fn floats(tensor: &mut Tensor) -> &mut [f32] {
    let (start, length) = place(tensor);
    // SAFETY: contiguous f32 in main memory, borrowed as long as the tensor.
    unsafe { std::slice::from_raw_parts_mut(start, length) }
}

/// Like [`floats`], but read-only.
fn floats_of(tensor: &Tensor) -> &[f32] {
    let (start, length) = place(tensor);
    // SAFETY: as in `floats`.
    unsafe { std::slice::from_raw_parts(start, length) }
}

fn place(tensor: &Tensor) -> (*mut f32, usize) {
    assert_eq!((tensor.kind(), tensor.device()), (Kind::Float, Device::Cpu));
    assert!(tensor.is_contiguous(), "collectives take contiguous tensors");
    match tensor.numel() {
        // An empty tensor may have a null pointer.
        0 => (std::ptr::NonNull::dangling().as_ptr(), 0),
        length => (tensor.data_ptr() as *mut f32, length),
    }
}
