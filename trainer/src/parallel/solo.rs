//! A world of one rank.

use tch::Tensor;

use super::{Collective, CollectiveError, Message};

/// The collective operations of a single rank.
#[derive(Debug)]
pub struct Solo;

impl Collective for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn is_done_on_return(&self) -> bool {
        true
    }

    fn all_reduce_sum(&self, _tensor: &mut Tensor) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn exchange(&self, _: &[Message], _: &mut [Message]) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn all_gather(&self, _tensor: &mut Tensor) -> Result<(), CollectiveError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::parallel::collective::conformance;

    #[test]
    fn conforms() -> Result<(), CollectiveError> {
        conformance(&Solo, Device::Cpu)
    }
}
