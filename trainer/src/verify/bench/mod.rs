//! Fixed batches on a model of the parity layout, timed.
//!
//! Batch files are lines of tab-separated fields, ids separated by spaces. Training: batch number,
//! source ids, target ids, decoder input ids, and a digit per target token, 1 where it is
//! predicted. Decoding: source ids, candidate lengths.

pub(crate) mod reduction;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tandem_config::schema::cluster::{GradientDtype, Reduction};
use tandem_config::schema::training::Optimizer;
use tch::{Device, Kind, no_grad};

use crate::data::batches::{Lengths, evaluation_batches};
use crate::data::example::{Padded, PairBatch};
use crate::device::calls::Calls;
use crate::device::cuda;
use crate::device::precision::Kinds;
use crate::inference::Sources;
use crate::inference::mask_predict::translate;
use crate::model::Pass;
use crate::objective::{Sums, Translation, rows};
use crate::optim::Adam;
use crate::parallel::solo::Solo;
use crate::parallel::{Reducer, reducer};
use crate::random::{Purpose, stream};
use crate::training::metrics::user_seconds;
use crate::training::update::Updates;
use crate::verify::parity::{ParityModel, Use};

/// Bytes of a bucket do not matter to a single rank.
const BUCKET_ELEMENTS: usize = 1 << 19;

/// What is timed.
pub(crate) struct Workload<'a> {
    /// A folder of the parity layout.
    pub model: &'a Path,
    /// The file of batches.
    pub batches: &'a Path,
    /// What computes.
    pub device: Device,
    /// What is held and computed in.
    pub kinds: Kinds,
    /// How often the batches are run.
    pub repeats: u32,
}

/// Times an optimizer step for each batch; the losses are without dropout, before any step.
///
/// # Errors
/// A folder that is not of the parity layout, or batches that do not fit it.
pub(crate) fn train(work: &Workload) -> anyhow::Result<Value> {
    let device = work.device;
    let parity = ParityModel::open(work.model, device, work.kinds, Use::Train)?;
    let batches = train_batches(work.batches, &parity)?;
    let (length_loss, smoothing) = parity.loss_settings();
    let ParityModel { model, parameters, .. } = parity;
    let masked = Translation::over(model, length_loss, smoothing);
    let losses: Vec<f64> = batches
        .iter()
        .map(|batch| {
            let sums = no_grad(|| masked.loss(batch, device, &Pass::eval()).sums());
            sums.loss / sums.denominator
        })
        .collect();
    let adam = Adam::new(&Optimizer::default(), &parameters.weights);
    let settings = reducer::Settings {
        reduction: Reduction::Plain,
        dtype: GradientDtype::F32,
        shards: 1,
        sums: Sums::COUNT,
        bucket_elements: BUCKET_ELEMENTS,
        into_forward: false,
    };
    let reducer = Reducer::new(Box::new(Solo), &parameters, &settings);
    let mut updates = Updates::new(adam, reducer, &parameters);
    let mut steps = 0;
    let mut step = |batch: &PairBatch| -> anyhow::Result<()> {
        let masks = stream(1, Purpose::Dropout, &[steps]);
        steps += 1;
        let loss = masked.loss(batch, device, &Pass::train(masks));
        updates.reducer.begin(0, &loss.losses.with(loss.counts, Kind::Float));
        loss.surrogate.backward();
        updates.reducer.send_rest();
        let sums = updates.reducer.sums()?;
        updates.begin(&parameters, &sums, 0.0, |_| 5e-4)?;
        Ok(updates.finish(&parameters)?)
    };
    // Adam's state and the allocator's blocks are made once; on a GPU those of each shape.
    let warm_up = if device == Device::Cpu { &batches[..1] } else { &batches[..] };
    warm_up.iter().try_for_each(&mut step)?;
    let (seconds, user_cpu_seconds) = timed(work, || batches.iter().try_for_each(&mut step))?;
    let (last, calls) = Calls::of(|| step(&batches[0]));
    last?;
    let tokens: i64 = batches.iter().map(|batch| batch.target.tokens()).sum();
    Ok(json!({
        "batches": batches.len(),
        "target_tokens": tokens,
        "target_tokens_per_second": tokens as f64 / median(&seconds),
        "seconds": seconds,
        "user_cpu_seconds": user_cpu_seconds,
        "losses": losses,
        "operators_per_step": calls.total(),
        "operators": calls.operators,
        "waits_per_step": calls.waits,
    }))
}

/// Times Mask-Predict by the case's rule, with the given length candidates, in batches of so many
/// padded source tokens.
///
/// # Errors
/// A folder that is not of the parity layout, or sentences that do not fit it.
pub(crate) fn decode(work: &Workload, max_tokens: usize) -> anyhow::Result<Value> {
    let device = work.device;
    let parity = ParityModel::open(work.model, device, work.kinds, Use::Decode)?;
    let sentences = decode_sentences(work.batches, &parity)?;
    let decoding = parity.decoding()?;
    let lengths: Vec<Lengths> = sentences.iter().map(|row| (row.0.len() as u32, 0)).collect();
    let mut hypotheses = vec![Vec::new(); sentences.len()];
    let mut run = || -> anyhow::Result<()> {
        for samples in evaluation_batches(&lengths, max_tokens) {
            let row = |&sample: &u32| &sentences[sample as usize];
            let ids: Vec<&[u32]> = samples.iter().map(|sample| &row(sample).0[..]).collect();
            let (ids, real) = rows(&Padded::new(&ids, parity.source_pad as u32), device);
            let lengths = samples.iter().map(|sample| row(sample).1.clone()).collect();
            let sources = Sources { ids, real, lengths: Some(lengths) };
            let positions = parity.target.positions();
            let (model, ids) = (&parity.model, parity.target_ids);
            let found = translate(model, &decoding, ids, positions, &sources, &mut || true);
            for (sample, translation) in samples.iter().zip(found.unwrap_or_default()) {
                hypotheses[*sample as usize] = translation.ids;
            }
        }
        Ok(())
    };
    run()?;
    let (seconds, user_cpu_seconds) = timed(work, run)?;
    Ok(json!({
        "sentences": sentences.len(),
        "sentences_per_second": sentences.len() as f64 / median(&seconds),
        "seconds": seconds,
        "user_cpu_seconds": user_cpu_seconds,
        "hypotheses": hypotheses,
    }))
}

/// The seconds of each repeat, until the device has finished, and the user CPU seconds of all.
fn timed(
    work: &Workload,
    mut run: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<(Vec<f64>, f64)> {
    cuda::synchronize(work.device);
    let before = user_seconds();
    let mut seconds = Vec::new();
    for _ in 0..work.repeats {
        let started = Instant::now();
        run()?;
        cuda::synchronize(work.device);
        seconds.push(started.elapsed().as_secs_f64());
    }
    Ok((seconds, user_seconds() - before))
}

fn median(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// The sentences of one batch: source, target, decoder input, predicted positions.
#[derive(Default)]
struct Rows {
    sources: Vec<Vec<u32>>,
    targets: Vec<Vec<u32>>,
    inputs: Vec<Vec<u32>>,
    predicted: Vec<Vec<usize>>,
}

fn train_batches(path: &Path, parity: &ParityModel) -> anyhow::Result<Vec<PairBatch>> {
    let (encoder, decoder) = (&parity.source, &parity.target);
    let mut batches: BTreeMap<u64, Rows> = BTreeMap::new();
    each_line(path, |fields| {
        let &[number, source, target, input, predicted] = fields else {
            bail!("{} fields instead of 5", fields.len())
        };
        let rows = batches.entry(number.parse().context("the batch number")?).or_default();
        let source = ids(source, encoder.vocab_size, encoder.positions())?;
        let target = ids(target, decoder.vocab_size, decoder.positions())?;
        let input = ids(input, decoder.vocab_size, decoder.positions())?;
        ensure!(
            target.len() == input.len() && target.len() == predicted.len(),
            "{} target ids, {} decoder input ids and {} digits: they must be as many",
            target.len(),
            input.len(),
            predicted.len()
        );
        ensure!(predicted.bytes().all(|digit| matches!(digit, b'0' | b'1')), "digits are 0 or 1");
        let places = predicted.bytes().enumerate().filter(|(_, digit)| *digit == b'1');
        rows.predicted.push(places.map(|(place, _)| place).collect());
        rows.sources.push(source);
        rows.targets.push(target);
        rows.inputs.push(input);
        Ok(())
    })?;
    ensure!(!batches.is_empty(), "{} has no batches", path.display());
    Ok(batches.into_values().map(|rows| pair_batch(&rows, parity)).collect())
}

fn pair_batch(rows: &Rows, parity: &ParityModel) -> PairBatch {
    let pad = parity.target_ids.pad as u32;
    let target = Padded::new(&rows.targets, pad);
    let (mut loss_positions, mut labels) = (Vec::new(), Vec::new());
    for (row, (places, ids)) in rows.predicted.iter().zip(&rows.targets).enumerate() {
        for &place in places {
            loss_positions.push((row * target.columns + place) as i64);
            labels.push(i64::from(ids[place]));
        }
    }
    PairBatch {
        source: Padded::new(&rows.sources, parity.source_pad as u32),
        decoder_input: Padded::new(&rows.inputs, pad),
        target,
        loss_positions,
        labels,
        soft: None,
        replaced: None,
        samples: (0..rows.targets.len() as u32).collect(),
    }
}

fn decode_sentences(
    path: &Path,
    parity: &ParityModel,
) -> anyhow::Result<Vec<(Vec<u32>, Vec<usize>)>> {
    let (encoder, decoder) = (&parity.source, &parity.target);
    let mut sentences = Vec::new();
    each_line(path, |fields| {
        let &[source, lengths] = fields else { bail!("{} fields instead of 2", fields.len()) };
        let source = ids(source, encoder.vocab_size, encoder.positions())?;
        let most = decoder.positions();
        let length = |word: &str| match word.parse() {
            Ok(length) if (1..=most).contains(&length) => Ok(length),
            _ => bail!("`{word}` is not a length from 1 to {most}"),
        };
        let lengths = lengths.split_whitespace().map(length).collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(!lengths.is_empty(), "a sentence needs a candidate length");
        sentences.push((source, lengths));
        Ok(())
    })?;
    ensure!(!sentences.is_empty(), "{} has no sentences", path.display());
    Ok(sentences)
}

/// Calls `take` with the fields of each line that is not empty and no comment.
fn each_line(
    path: &Path,
    mut take: impl FnMut(&[&str]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    for (number, line) in text.lines().enumerate() {
        if !line.trim().is_empty() && !line.starts_with('#') {
            let fields: Vec<&str> = line.split('\t').collect();
            take(&fields).with_context(|| format!("{}:{}", path.display(), number + 1))?;
        }
    }
    Ok(())
}

fn ids(field: &str, vocabulary: usize, positions: usize) -> anyhow::Result<Vec<u32>> {
    let id = |word: &str| match word.parse() {
        Ok(id) if (id as usize) < vocabulary => Ok(id),
        _ => bail!("`{word}` is not an id below {vocabulary}"),
    };
    let ids = field.split_whitespace().map(id).collect::<anyhow::Result<Vec<u32>>>()?;
    ensure!((1..=positions).contains(&ids.len()), "{} ids, not 1 to {positions}", ids.len());
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn ids_out_of_the_vocabulary_are_refused() {
        assert_eq!(ids("3 0 9", 10, 4).ok(), Some(vec![3, 0, 9]));
        assert_eq!(ids("10", 10, 4).unwrap_err().to_string(), "`10` is not an id below 10");
        assert_eq!(ids("1 1 1", 10, 2).unwrap_err().to_string(), "3 ids, not 1 to 2");
    }
}
