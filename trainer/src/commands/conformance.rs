//! `tandem-worker conformance`.

use tch::Device;

use crate::parallel::mpi::Mpi;
use crate::parallel::{Collective, collective, tree};

/// Test the collective operations of the ranks that mpirun started.
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self) -> anyhow::Result<u8> {
        let world_size = super::rank::number("OMPI_COMM_WORLD_SIZE").unwrap_or(1);
        let (_universe, mpi) = Mpi::start(world_size)?;
        collective::conformance(&mpi, Device::Cpu)?;
        tree::conformance(&mpi, Device::Cpu)?;
        if mpi.rank() == 0 {
            println!("mpi conforms with {world_size} ranks");
        }
        Ok(0)
    }
}
