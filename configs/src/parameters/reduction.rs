//! How many buffers of gradients `reduction: reproducible` takes: the trainer adds up a step's
//! micro-batches (shards) as a binary tree says, and sums that wait for others have buffers of their own.

use std::ops::Range;

/// Buffers of the rank that holds the most of them.
pub fn buffers(shards: usize, ranks: usize) -> usize {
    let ranks = ranks.max(1);
    // Neighbouring shards, dealt out evenly.
    let first = |rank: usize| (rank * shards).div_ceil(ranks);
    let of_rank = |rank: usize| {
        let mut pieces = Vec::new();
        cut(&(0..shards), &(first(rank)..first(rank + 1)), &mut pieces);
        let pieces = pieces.into_iter().enumerate();
        pieces.map(|(before, shards)| before + depth(shards)).max().unwrap_or(1)
    };
    (0..ranks).map(of_rank).max().unwrap_or(1)
}

/// The sizes of the largest nodes below `node` that lie within a rank's `own` shards.
fn cut(node: &Range<usize>, own: &Range<usize>, pieces: &mut Vec<usize>) {
    if node.end <= own.start || own.end <= node.start {
        return;
    }
    if own.start <= node.start && node.end <= own.end {
        pieces.push(node.len());
        return;
    }
    let middle = node.start + left(node.len());
    cut(&(node.start..middle), own, pieces);
    cut(&(middle..node.end), own, pieces);
}

/// Buffers in which a node of so many shards is added up.
fn depth(shards: usize) -> usize {
    match (left(shards), shards - left(shards)) {
        (_, 0) => 1,
        // A single shard is accumulated where the others are.
        (left, 1) => depth(left),
        (left, right) => depth(left).max(1 + depth(right)),
    }
}

/// Shards of a node's left child: the largest power of two that leaves some to the right one; all of
/// them where there is but one.
fn left(shards: usize) -> usize {
    if shards > 1 { shards.next_power_of_two() / 2 } else { shards }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_grow_with_the_logarithm_of_the_shards() {
        let alone = [1, 2, 3, 4, 7, 8, 15, 16].map(|shards| buffers(shards, 1));
        assert_eq!(alone, [1, 1, 1, 2, 2, 3, 3, 4]);
        let of_eight = [2, 3, 4, 5, 8, 16].map(|ranks| buffers(8, ranks));
        assert_eq!(of_eight, [2, 2, 1, 2, 1, 1]);
    }
}
