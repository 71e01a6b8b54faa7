//! `tandem plan` counts the buffers of gradients that the reducer has.

use tandem_config::parameters::reduction::buffers;
use tandem_trainer::parallel::shards::{Node, in_pieces, shards_of};

#[test]
fn as_many_buffers_are_planned_as_are_needed() {
    for shards in 1..=40 {
        for ranks in 1..=12 {
            let of_rank = |rank| {
                let pieces = Node::root(shards).pieces(&shards_of(rank, ranks, shards));
                in_pieces(&pieces).iter().map(|turn| turn.buffer + 1).max().unwrap_or(1)
            };
            let most = (0..ranks).map(of_rank).max();
            assert_eq!(Some(buffers(shards, ranks)), most, "{shards} shards, {ranks} ranks");
        }
    }
}
