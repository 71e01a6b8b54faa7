//! This rank's micro-batches, one after another, from any point of the training on.

use std::ops::Range;

use crate::data::batches::{Batches, Epoch, Lengths};
use crate::data::cache::CacheError;
use crate::data::example::Draw;
use crate::objective::{Examples, MicroBatch};
use crate::session::blame;

/// An endless stream: micro-batch n of all goes to shard n mod `shards`, and a rank takes the
/// shards that are its own; without any the stream is empty. Where it starts is a seek, not a
/// replay.
pub struct MicroBatches {
    batches: Batches,
    examples: Examples,
    shards: u64,
    position: u64,
    own: Range<u64>,
    epoch: Option<(u64, Epoch)>,
}

impl MicroBatches {
    /// The stream from micro-batch `position` on, which begins a step.
    pub fn new(
        batches: Batches,
        examples: Examples,
        shards: u64,
        position: u64,
        own: Range<u64>,
    ) -> Self {
        Self { batches, examples, shards, position, own, epoch: None }
    }

    /// The one of the current epoch that takes most memory, whoever's it is; none for a rank without any.
    /// `lengths` are those of all samples.
    ///
    /// # Errors
    /// A damaged cache.
    pub fn largest(&mut self, lengths: &[Lengths]) -> Result<Option<MicroBatch>, CacheError> {
        if self.own.is_empty() {
            return Ok(None);
        }
        let (number, _) = self.batches.locate(self.position);
        let epoch = self.batches.epoch(number);
        let samples = epoch.largest(lengths);
        let step = self.position / self.shards + 1;
        blame::works_on(samples);
        let batch = self.examples.batch(samples, Draw::Train { epoch: number, step })?;
        self.epoch = Some((number, epoch));
        Ok(Some(batch))
    }
}

impl Iterator for MicroBatches {
    type Item = Result<MicroBatch, CacheError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.own.is_empty() {
            return None;
        }
        while !self.own.contains(&(self.position % self.shards)) {
            self.position += 1;
        }
        let (number, place) = self.batches.locate(self.position);
        let step = self.position / self.shards + 1;
        self.position += 1;
        let epoch = match self.epoch.take() {
            Some((current, epoch)) if current == number => epoch,
            _ => self.batches.epoch(number),
        };
        let samples = epoch.batch(place);
        blame::works_on(samples);
        let batch = self.examples.batch(samples, Draw::Train { epoch: number, step });
        self.epoch = Some((number, epoch));
        Some(batch)
    }
}
