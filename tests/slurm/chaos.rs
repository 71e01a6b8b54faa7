//! Chaos on several hosts, whose network and power fail, too.
//!
//! The long form strikes 228 times, and `docs/chaos.log` is what it said: `make chaos`

use tandem_tests::chaos::chaos;
use tandem_tests::fault::{ANYWHERE, NETWORK};
use tandem_tests::hosts::Hosts;

#[test]
#[ignore = "needs root: make test-slurm"]
fn a_failing_network_changes_nothing() {
    chaos(Some(&Hosts::start(2)), NETWORK.into(), 2, 5, 5);
}

/// Each kind 4 times for each number of workers.
#[test]
#[ignore = "needs root, and half an hour: make chaos"]
fn much_chaos_on_hosts_changes_nothing() {
    let hosts = Hosts::start(4);
    let kinds = [&ANYWHERE[..], &NETWORK].concat();
    for workers in [1, 2, 4] {
        chaos(Some(&hosts), kinds.clone(), workers, kinds.len() * 4, 12);
    }
}
