//! Runs of consecutive weights that an optimizer step updates together.

use std::ops::Range;

use crate::model::{Block, Parameters};

/// Consecutive parameters in the flat tensors that belong to one block of one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The block.
    pub block: Block,
    /// The indices of the parameters in the list.
    pub parameters: Range<usize>,
    /// The parameters' elements in the flat tensors.
    pub elements: Range<usize>,
}

/// Divides all trained weights into runs, in order. They depend only on the model, so that updating them one
/// by one gives the same bits for any number of ranks.
pub fn runs(parameters: &Parameters) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut start = 0;
    let side = |index: usize| parameters.names[index].split('.').next();
    for (index, leaf) in parameters.trained.iter().enumerate() {
        let (block, end) = (Block::of(&parameters.names[index]), start + leaf.numel());
        match runs.last_mut() {
            Some(run) if run.block == block && side(run.parameters.start) == side(index) => {
                run.parameters.end = index + 1;
                run.elements.end = end;
            }
            _ => runs.push(Run { block, parameters: index..index + 1, elements: start..end }),
        }
        start = end;
    }
    runs
}

#[cfg(test)]
mod tests {
    use tandem_config::parameters::{Init, Parameter};
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn consecutive_parameters_of_one_block_and_side_are_one_run()
    -> Result<(), Box<dyn std::error::Error>> {
        let parameter = |name: &str| Parameter {
            name: name.into(),
            shape: vec![2],
            trained: true,
            init: Init::Ones,
        };
        let list = [
            "encoder.length_embedding.weight",
            "encoder.layer.0.adapter.up.weight",
            "encoder.layer.0.adapter.down.weight",
            "encoder.layer.1.adapter.up.weight",
            "decoder.switch.bias",
            "fused.embeddings.weight",
        ]
        .map(parameter);
        let parameters = Parameters::new(&list, &[], 1, Kind::Float, Device::Cpu)?;
        let found = runs(&parameters).into_iter();
        let found: Vec<_> = found.map(|run| (run.block, run.parameters, run.elements)).collect();
        let expected = [
            (Block::Outside, 0..1, 0..2),
            (Block::Encoder(0), 1..3, 2..6),
            (Block::Encoder(1), 3..4, 6..8),
            (Block::Outside, 4..5, 8..10),
            (Block::Outside, 5..6, 10..12),
        ];
        assert_eq!(found, expected);
        Ok(())
    }
}
