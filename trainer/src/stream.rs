//! This rank's micro-batches, one after another, from any point of the training on.

use crate::data::batches::{Batches, Epoch};
use crate::data::example::Draw;
use crate::objective::{Examples, MicroBatch};

/// An endless stream: micro-batch n of all goes to shard n mod `shards`, and a rank takes the
/// shards that are its own. Where it starts is a seek, not a replay.
pub struct MicroBatches {
    batches: Batches,
    examples: Examples,
    shards: u64,
    position: u64,
    rank: u64,
    world_size: u64,
    epoch: Option<(u64, Epoch)>,
}

impl MicroBatches {
    /// The stream from micro-batch `position` on, which begins a step.
    pub fn new(
        batches: Batches,
        examples: Examples,
        shards: u64,
        position: u64,
        (rank, world_size): (u64, u64),
    ) -> Self {
        Self { batches, examples, shards, position, rank, world_size, epoch: None }
    }
}

impl Iterator for MicroBatches {
    type Item = MicroBatch;

    fn next(&mut self) -> Option<MicroBatch> {
        while (self.position % self.shards) % self.world_size != self.rank {
            self.position += 1;
        }
        let (number, place) = self.batches.locate(self.position);
        self.position += 1;
        let epoch = match self.epoch.take() {
            Some((current, epoch)) if current == number => epoch,
            _ => self.batches.epoch(number),
        };
        let batch = self.examples.batch(epoch.batch(place), Draw::Train { epoch: number });
        self.epoch = Some((number, epoch));
        Some(batch)
    }
}
