//! Chaos on this machine; `slurm/chaos.rs` has that on several hosts.

use tandem_tests::chaos::chaos;
use tandem_tests::fault::ANYWHERE;

#[test]
fn a_little_chaos_changes_nothing() {
    chaos(None, ANYWHERE.into(), 2, 5, 5);
}

/// Each kind 4 times for each number of workers.
#[test]
#[ignore = "a quarter of an hour: the long form of the test above"]
fn much_chaos_changes_nothing() {
    for workers in [1, 2, 4] {
        chaos(None, ANYWHERE.into(), workers, ANYWHERE.len() * 4, 12);
    }
}
