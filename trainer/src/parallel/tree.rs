//! Sums over all shards with the same bits for any number of ranks.
//!
//! Each rank sends the others their slices of its pieces ([`shards`](super::shards)), sums its own slice of
//! all pieces in the order of the tree, and sends the result to everyone. With one piece on each rank, this
//! sends as many elements as a ring all-reduce.

use tch::{Device, Kind, Tensor};

use super::shards::{Node, shards_of};
use super::{Collective, CollectiveError, Message};

/// Elements that are summed at once: 2 MiB.
const CHUNK_ELEMENTS: i64 = 512 << 10;

/// The order of the sum, and the pieces of each rank.
#[derive(Debug)]
pub struct Tree {
    root: Node,
    /// The pieces of each rank.
    pieces: Vec<Vec<Node>>,
}

impl Tree {
    /// The tree over `shards` shards on `ranks` ranks.
    pub fn new(shards: usize, world_size: usize) -> Self {
        let root = Node::root(shards);
        let own = |rank| shards_of(rank, world_size, shards);
        Self { root, pieces: (0..world_size).map(|rank| root.pieces(&own(rank))).collect() }
    }

    /// The pieces of a rank.
    pub fn pieces(&self, rank: usize) -> &[Node] {
        &self.pieces[rank]
    }

    /// Replaces the first of `buffers` with the sum over all shards. The first few buffers hold this rank's
    /// pieces. All have the same length, a multiple of the number of ranks, and are overwritten.
    ///
    /// # Errors
    /// A failing communication library.
    pub fn sum(
        &self,
        collective: &dyn Collective,
        buffers: &[Tensor],
    ) -> Result<(), CollectiveError> {
        let length = buffers[0].size()[0];
        let world_size = collective.world_size() as i64;
        let chunk = (CHUNK_ELEMENTS / world_size).max(1) * world_size;
        for start in (0..length).step_by(chunk as usize) {
            let part = |buffer: &Tensor| buffer.narrow(0, start, chunk.min(length - start));
            let buffers: Vec<Tensor> = buffers.iter().map(part).collect();
            self.sum_chunk(collective, &buffers)?;
        }
        Ok(())
    }

    fn sum_chunk(
        &self,
        collective: &dyn Collective,
        buffers: &[Tensor],
    ) -> Result<(), CollectiveError> {
        let (rank, world_size) = (collective.rank(), collective.world_size());
        let length = buffers[0].size()[0] / world_size as i64;
        let slice = |buffer: &Tensor, of: usize| buffer.narrow(0, of as i64 * length, length);
        let mine = &buffers[..self.pieces[rank].len()];
        let (mut sends, mut receives) = (Vec::new(), Vec::new());
        for peer in (0..world_size).filter(|peer| *peer != rank) {
            sends.extend(mine.iter().map(|part| Message { peer, elements: slice(part, peer) }));
            let empty = || Tensor::empty([length], (Kind::Float, buffers[0].device()));
            receives.extend(self.pieces[peer].iter().map(|_| Message { peer, elements: empty() }));
        }
        collective.exchange(&sends, &mut receives)?;
        // Pieces are in the order of the tree, over all ranks.
        let place = receives.partition_point(|message| message.peer < rank);
        let mut parts: Vec<Tensor> = receives.into_iter().map(|message| message.elements).collect();
        parts.splice(place..place, mine.iter().map(|part| slice(part, rank)));
        let nodes = self.pieces.iter().flatten().copied();
        let total = add_up(self.root, &mut nodes.zip(parts).peekable());
        slice(&buffers[0], rank).copy_(&total);
        collective.all_gather(&mut buffers[0].shallow_clone())
    }
}

/// The sum of a node; `parts` yields its pieces from left to right.
fn add_up<I>(node: Node, parts: &mut std::iter::Peekable<I>) -> Tensor
where
    I: Iterator<Item = (Node, Tensor)>,
{
    if let Some((_, sum)) = parts.next_if(|(piece, _)| *piece == node) {
        return sum;
    }
    let Some((left, right)) = node.children() else {
        unreachable!("every shard is in a piece");
    };
    let mut sum = add_up(left, parts);
    sum += add_up(right, parts);
    sum
}

/// Tests that sums over few and many shards have the same bits as on one rank, with tensors on `device`; run
/// it on each rank.
///
/// # Errors
/// The first sum with other bits.
pub fn conformance(collective: &dyn Collective, device: Device) -> Result<(), CollectiveError> {
    let (rank, world_size) = (collective.rank(), collective.world_size());
    collective.begin()?;
    for shards in [1, 2, 3, 5, 8] {
        let tree = Tree::new(shards, world_size);
        for slice in [0, 1, 7, 300_007] {
            let length = slice * world_size as i64;
            let gradient = |shard: usize| {
                // The sum of these numbers depends on its order.
                let whole = Tensor::arange(length, (Kind::Int64, device)) * 3 + shard as i64 + 1;
                whole.to_kind(Kind::Float).reciprocal()
            };
            let sum = |node: Node| {
                let leaves = node.shards().map(|shard| (Node::leaf(shard), gradient(shard)));
                add_up(node, &mut leaves.peekable())
            };
            let mut buffers: Vec<Tensor> = tree.pieces(rank).iter().copied().map(sum).collect();
            if buffers.is_empty() {
                buffers.push(Tensor::zeros([length], (Kind::Float, device)));
            }
            tree.sum(collective, &buffers)?;
            if buffers[0] != sum(tree.root) {
                let operation = "the sum in a fixed order";
                return Err(CollectiveError::Conformance { operation, length, world_size });
            }
        }
    }
    collective.complete()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel::solo::Solo;

    #[test]
    fn one_rank_conforms() -> Result<(), CollectiveError> {
        conformance(&Solo, Device::Cpu)
    }
}
