//! Ranks that talk through MPI, over tensors in main memory.

use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};
use tch::{Device, Kind, Tensor};

use super::{Collective, CollectiveError};

/// Elements of one all-reduce: 2 MiB, about three times as fast as one call for everything.
const CHUNK_ELEMENTS: usize = 512 << 10;

/// The ranks that mpirun started.
pub struct Mpi {
    world: SimpleCommunicator,
    rank: usize,
    world_size: usize,
}

// SAFETY: MPI is initialised with Threading::Multiple, and the world's handle is valid on every
// thread.
unsafe impl Send for Mpi {}

impl Mpi {
    /// Starts MPI. The universe must live until the last collective operation, and be dropped on
    /// the thread that made it.
    ///
    /// # Errors
    /// An MPI without threads, or another number of ranks than `expected`.
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
        // Some mixtures of launcher and library start n worlds of one, without a word.
        if world_size != expected {
            return Err(CollectiveError::WorldSize { expected, found: world_size });
        }
        Ok((universe, Self { world, rank, world_size }))
    }
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
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
}

/// The elements of a tensor in main memory.
///
/// # Panics
/// If the tensor is not contiguous f32 in main memory, as the trait's contract asks.
fn floats(tensor: &mut Tensor) -> &mut [f32] {
    assert_eq!((tensor.kind(), tensor.device()), (Kind::Float, Device::Cpu));
    assert!(tensor.is_contiguous(), "collectives take contiguous tensors");
    if tensor.numel() == 0 {
        return &mut [];
    }
    // SAFETY: contiguous f32 in main memory, borrowed as long as the tensor.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr() as *mut f32, tensor.numel()) }
}
