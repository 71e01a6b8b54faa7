//! The operations that a backend offers, and the test that each backend passes.

use tch::{Device, Kind, Tensor};

/// Why a collective operation failed.
#[derive(Debug, thiserror::Error)]
pub enum CollectiveError {
    /// MPI could not be started as needed.
    #[error("MPI: {0}")]
    Mpi(String),
    /// Fewer or more ranks than the launcher started.
    #[error(
        "the launcher started {expected} ranks, MPI knows {found}; is `mpirun` of the same MPI \
         that tandem-worker was built with?"
    )]
    WorldSize {
        /// Ranks that the launcher started.
        expected: usize,
        /// Ranks that MPI knows.
        found: usize,
    },
    /// The communication thread is gone.
    #[error("the communication thread has ended")]
    ThreadEnded,
    /// A backend does not do what all must do.
    #[error("conformance: the sum of {length} elements over {world_size} ranks is wrong")]
    Conformance {
        /// Elements that were added up.
        length: i64,
        /// Number of ranks.
        world_size: usize,
    },
}

/// Operations in which every rank takes part.
///
/// # Contract
/// All ranks call the same methods in the same order with tensors of equal shape, contiguous and
/// f32. A rank that does not leaves the others waiting until the launcher's deadline ends the
/// attempt. Each implementation passes [`conformance`].
pub trait Collective: Send {
    /// This rank, counted from 0.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn world_size(&self) -> usize;

    /// Replaces `tensor` on every rank by the element-wise sum over all ranks.
    ///
    /// # Errors
    /// A failing communication library.
    fn all_reduce_sum(&self, tensor: &mut Tensor) -> Result<(), CollectiveError>;
}

/// What every backend must do; run it on each rank of a world.
///
/// # Errors
/// The first operation whose result is not what it must be.
pub fn conformance(world: &dyn Collective) -> Result<(), CollectiveError> {
    let (rank, size) = (world.rank() as i64, world.world_size() as i64);
    // Empty, odd, and larger than one chunk.
    for length in [0, 1, 7, 1_000_003] {
        let pattern = Tensor::arange(length, (Kind::Int64, Device::Cpu)).remainder(97);
        let mut sum = (&pattern * (rank + 1)).to_kind(Kind::Float);
        world.all_reduce_sum(&mut sum)?;
        // 1 + 2 + ... + size
        if sum != (pattern * (size * (size + 1) / 2)).to_kind(Kind::Float) {
            return Err(CollectiveError::Conformance { length, world_size: size as usize });
        }
    }
    Ok(())
}
