//! Runs of consecutive weights that an optimizer step updates together.

use std::ops::Range;

use tch::Device;

use crate::model::{Block, Parameters};

/// Consecutive parameters in the flat tensors that are updated at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The first block that needs them.
    pub block: Block,
    /// The indices of the parameters in the list.
    pub parameters: Range<usize>,
    /// The parameters' elements in the flat tensors.
    pub elements: Range<usize>,
}

/// Whether a parameter belongs to a BERT beside the encoder, which may have a learning rate of its own.
pub fn is_beside(name: &str) -> bool {
    name.starts_with("fused.")
}

/// Divides all trained weights into runs, in order: on CPUs one for each block of each side, so that the next
/// forward pass need not wait for all gradients; on GPUs, where it does and each call costs the host time,
/// one for each learning rate. They depend only on the model, so that updating them one by one gives the same
/// bits for any number of ranks.
pub fn runs(parameters: &Parameters) -> Vec<Run> {
    match parameters.weights.device() {
        Device::Cpu => joined(parameters, |name| (Block::of(name), name.split('.').next())),
        _ => joined(parameters, by_rate),
    }
}

fn by_rate(name: &str) -> (Block, Option<&str>) {
    (Block::Outside, is_beside(name).then_some("fused"))
}

/// Consecutive parameters are joined if what `of` says of their names is the same.
fn joined<'a>(
    parameters: &'a Parameters,
    of: impl Fn(&'a str) -> (Block, Option<&'a str>),
) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut start = 0;
    for (index, leaf) in parameters.trained.iter().enumerate() {
        let (key, end) = (of(&parameters.names[index]), start + leaf.numel());
        let block = key.0;
        match runs.last_mut() {
            Some(run) if of(&parameters.names[run.parameters.start]) == key => {
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
        let of = |runs: Vec<Run>| -> Vec<_> {
            runs.into_iter().map(|run| (run.block, run.parameters, run.elements)).collect()
        };
        let expected = [
            (Block::Outside, 0..1, 0..2),
            (Block::Encoder(0), 1..3, 2..6),
            (Block::Encoder(1), 3..4, 6..8),
            (Block::Outside, 4..5, 8..10),
            (Block::Outside, 5..6, 10..12),
        ];
        assert_eq!(of(runs(&parameters)), expected);
        let on_gpus = joined(&parameters, by_rate);
        assert_eq!(of(on_gpus), [(Block::Outside, 0..5, 0..10), (Block::Outside, 5..6, 10..12)]);
        Ok(())
    }
}
