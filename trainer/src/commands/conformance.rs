//! `tandem-worker conformance`.

use tch::Device;

use crate::parallel::{Collective, collective, tree};

/// Test the collective operations of the ranks that mpirun started.
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self) -> anyhow::Result<u8> {
        let (_universe, mpi) = super::rank::started_by_mpirun()?;
        collective::conformance(&mpi, Device::Cpu)?;
        tree::conformance(&mpi, Device::Cpu)?;
        if mpi.rank() == 0 {
            println!("mpi conforms with {} ranks", mpi.world_size());
        }
        Ok(0)
    }
}
