//! How a step's shards (micro-batches) are assigned to ranks, and in which order they are summed.
//!
//! Floating-point sums depend on their order. A binary tree over the shards gives an order that does not
//! depend on the ranks: a rank has consecutive shards, sums the largest subtrees within them, and passes
//! on these pieces. If the numbers of shards and ranks are powers of two, each rank has a single piece,
//! otherwise a few more.

use std::ops::Range;

/// The shards of `rank`: consecutive ones, evenly distributed over the ranks.
pub fn shards_of(rank: usize, world_size: usize, shards: usize) -> Range<usize> {
    (rank * shards).div_ceil(world_size)..((rank + 1) * shards).div_ceil(world_size)
}

/// A node of the tree: the sum of the shards from `start` to before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    start: usize,
    end: usize,
}

impl Node {
    /// The sum of all shards.
    pub fn root(shards: usize) -> Self {
        Self { start: 0, end: shards }
    }

    /// A single shard.
    pub fn leaf(shard: usize) -> Self {
        Self { start: shard, end: shard + 1 }
    }

    /// The shards whose sum this is.
    pub fn shards(self) -> Range<usize> {
        self.start..self.end
    }

    /// The two children of this node, unless it is a single shard. The left one has the largest power of two
    /// of shards that leaves at least one to the right one.
    pub fn children(self) -> Option<(Self, Self)> {
        let shards = self.end - self.start;
        let middle = self.start + shards.next_power_of_two() / 2;
        (shards > 1).then_some((Self { end: middle, ..self }, Self { start: middle, ..self }))
    }

    /// The largest nodes of this subtree within the shards `own`, from left to right.
    pub fn pieces(self, own: &Range<usize>) -> Vec<Self> {
        if own.start <= self.start && self.end <= own.end {
            return vec![self];
        }
        let overlaps = self.start < own.end && own.start < self.end;
        match self.children().filter(|_| overlaps) {
            Some((left, right)) => [left.pieces(own), right.pieces(own)].concat(),
            None => Vec::new(),
        }
    }
}

/// How one of a rank's shards is summed: its gradient is accumulated in a buffer. Afterwards, buffers that
/// are complete are added to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The shard.
    pub shard: usize,
    /// The buffer in which its gradient is accumulated.
    pub buffer: usize,
    /// Whether that buffer is zeroed first.
    pub is_first: bool,
    /// Buffers to add afterwards, one after the other: which one, and to which other.
    pub additions: Vec<(usize, usize)>,
}

/// The turns of a rank that sums its shards from left to right, in one buffer.
pub fn in_turn(own: Range<usize>) -> Vec<Turn> {
    let start = own.start;
    let turn = |shard| Turn { shard, buffer: 0, is_first: shard == start, additions: Vec::new() };
    own.map(turn).collect()
}

/// The turns of a rank that sums the n-th of these pieces in the n-th buffer.
pub fn in_pieces(pieces: &[Node]) -> Vec<Turn> {
    let mut turns = Vec::new();
    for (buffer, piece) in pieces.iter().enumerate() {
        add_up(*piece, buffer, &mut turns);
    }
    turns
}

fn add_up(node: Node, buffer: usize, turns: &mut Vec<Turn>) {
    let turn = |shard, is_first| Turn { shard, buffer, is_first, additions: Vec::new() };
    let Some((left, right)) = node.children() else {
        turns.push(turn(node.start, true));
        return;
    };
    add_up(left, buffer, turns);
    if right.children().is_none() {
        // Accumulating into a buffer is an addition, too.
        turns.push(turn(right.start, false));
        return;
    }
    add_up(right, buffer + 1, turns);
    if let Some(last) = turns.last_mut() {
        last.additions.push((buffer + 1, buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(start: usize, end: usize) -> Node {
        Node { start, end }
    }

    #[test]
    fn shards_are_dealt_evenly_and_the_first_rank_always_has_some() {
        let deal = |world_size, shards| -> Vec<Range<usize>> {
            (0..world_size).map(|rank| shards_of(rank, world_size, shards)).collect()
        };
        assert_eq!(deal(3, 8), [0..3, 3..6, 6..8]);
        assert_eq!(deal(4, 8), [0..2, 2..4, 4..6, 6..8]);
        assert_eq!(deal(4, 2), [0..1, 1..1, 1..2, 2..2]);
    }

    #[test]
    fn powers_of_two_have_one_piece_and_others_few() {
        let pieces = |world_size, shards| -> Vec<Vec<Node>> {
            let own = |rank| shards_of(rank, world_size, shards);
            (0..world_size).map(|rank| Node::root(shards).pieces(&own(rank))).collect()
        };
        assert_eq!(pieces(1, 6), [[node(0, 6)]]);
        assert_eq!(pieces(2, 8), [[node(0, 4)], [node(4, 8)]]);
        let thirds = [vec![node(0, 2), node(2, 3)], vec![node(3, 4), node(4, 6)], vec![node(6, 8)]];
        assert_eq!(pieces(3, 8), thirds);
        assert_eq!(pieces(4, 2), [vec![node(0, 1)], vec![], vec![node(1, 2)], vec![]]);
    }

    /// Sums texts instead of numbers, which show the order: each shard's gradient is its number.
    fn expression(turns: &[Turn], buffers: usize) -> Vec<String> {
        let mut sums = vec![String::new(); buffers];
        for Turn { shard, buffer, is_first, additions } in turns {
            sums[*buffer] =
                if *is_first { shard.to_string() } else { format!("({}+{shard})", sums[*buffer]) };
            for &(from, to) in additions {
                sums[to] = format!("({}+{})", sums[to], sums[from]);
            }
        }
        sums
    }

    #[test]
    fn turns_add_up_what_the_tree_says() {
        let all = in_pieces(&Node::root(8).pieces(&(0..8)));
        assert_eq!(expression(&all, 3)[0], "(((0+1)+(2+3))+((4+5)+(6+7)))");
        let odd = in_pieces(&Node::root(7).pieces(&(0..7)));
        assert_eq!(expression(&odd, 2)[0], "(((0+1)+(2+3))+((4+5)+6))");
        let middle = in_pieces(&Node::root(8).pieces(&(3..6)));
        assert_eq!(expression(&middle, 2), ["3", "(4+5)"]);
        assert_eq!(expression(&in_turn(3..6), 1), ["((3+4)+5)"]);
        assert_eq!((in_turn(3..3), in_pieces(&[])), (vec![], vec![]));
    }
}
