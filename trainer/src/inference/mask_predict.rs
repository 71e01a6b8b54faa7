//! Mask-Predict (Ghazvininejad et al. 2019): all positions at once, the least certain again.
//!
//! Other sentences of a batch have no part in a translation but by rounding, as in beam search: a batch
//! that others have left has other shapes. Shapes: R hypotheses, T tokens.

use tandem_config::schema::decoding::MaskPredict;
use tch::{Device, Tensor, no_grad};

use super::refine::{Row, refine};
use super::{Sources, TargetIds, Translation};
use crate::model::memory::Memory;
use crate::model::{Pass, Positions, Seq2Seq};

/// Translates a batch; lengths are at most `positions`. `poll` is called before each pass, and
/// ends the work by answering false.
pub fn translate(
    model: &Seq2Seq,
    config: &MaskPredict,
    ids: TargetIds,
    positions: usize,
    sources: &Sources,
    poll: &mut dyn FnMut() -> bool,
) -> Option<Vec<Translation>> {
    no_grad(|| {
        let encoded = model.encoder.forward(&sources.ids, &sources.real, &Pass::eval());
        let mut lengths = match (&sources.lengths, &encoded.length_log_probs) {
            (Some(lengths), _) => lengths.clone(),
            (None, Some(log_probs)) => most_probable(log_probs, config.length_candidates),
            (None, None) => panic!("a model without length prediction needs given lengths"),
        };
        for lengths in &mut lengths {
            // The released code asks for two tokens; a BERT has only so many positions.
            lengths.iter_mut().for_each(|length| *length = (*length).clamp(2, positions));
            lengths.sort_unstable();
            lengths.dedup();
        }
        let memory = model.decoder.memory(&encoded);
        let mut decoder = Decoder { model, ids, memory, selected: None };
        refine(config, &lengths, &mut |rows| decoder.predict(rows), poll)
    })
}

struct Decoder<'a> {
    model: &'a Seq2Seq,
    ids: TargetIds,
    memory: Memory,
    /// The sentences of the last pass's rows, and their memory.
    selected: Option<(Vec<i64>, Memory)>,
}

impl Decoder<'_> {
    /// The most probable token and its log-probability at each predicted position.
    fn predict(&mut self, rows: &[Row]) -> Vec<(i64, f32)> {
        let Self { model, ids, memory, selected } = self;
        let sentences: Vec<i64> = rows.iter().map(|row| row.sentence as i64).collect();
        let device = memory.device();
        selected.take_if(|(selected, _)| *selected != sentences);
        let (_, memory) = selected.get_or_insert_with(|| {
            let memory = memory.select(&Tensor::from_slice(&sentences).to_device(device));
            (sentences, memory)
        });
        let width = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
        let mut input = vec![ids.pad; rows.len() * width];
        let mut real = vec![false; rows.len() * width];
        let mut positions = Vec::new();
        for (line, row) in rows.iter().enumerate() {
            let start = line * width;
            input[start..start + row.tokens.len()].copy_from_slice(row.tokens);
            real[start..start + row.tokens.len()].fill(true);
            for &position in row.masked {
                input[start + position] = ids.mask;
            }
            positions.extend(row.predicted.iter().map(|position| (start + position) as i64));
        }
        let shape = [rows.len() as i64, width as i64];
        let input = Tensor::from_slice(&input).view(shape).to_device(device);
        let real = Tensor::from_slice(&real).view(shape).to_device(device);
        let positions = Tensor::from_slice(&positions).to_device(device);
        let at = Positions::new(&positions, &input);
        let hidden = model.decoder.forward(&input, &real, &*memory, &at, &Pass::eval()); // [N, D]
        model.head.most_probable(&model.head.transform(&hidden))
    }
}

/// The `count` most probable lengths of each row of `[B, classes]`.
fn most_probable(log_probs: &Tensor, count: usize) -> Vec<Vec<usize>> {
    let count = (count as i64).min(log_probs.size()[1] - 1);
    let (_, lengths) = log_probs.topk(count, -1, true, true);
    let lengths = Vec::<Vec<i64>>::try_from(lengths.to_device(Device::Cpu)).expect("[B, K]");
    lengths.into_iter().map(|row| row.into_iter().map(|length| length as usize).collect()).collect()
}
