//! Which nodes of a job Slurm has lost.

use std::net::{IpAddr, ToSocketAddrs};
use std::process::Command;

use super::{Job, ask};

/// Those of these nodes that are down or do not answer; none where Slurm does not say.
pub fn lost_nodes<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let names: Vec<&str> = names.collect();
    let mut command = Command::new("sinfo");
    command.args(["--noheader", "--Node", "--format=%N %T", "--nodes", &names.join(",")]);
    ask(&mut command).map_or(Vec::new(), |answer| read(&answer))
}

/// The address by which Slurm itself reaches a node, whose name need not lead to one.
pub fn address_of(node: &str) -> Option<IpAddr> {
    Job::this()?;
    let mut command = Command::new("scontrol");
    let answer = ask(command.args(["show", "node", node, "--oneliner"])).ok()?;
    let address = answer.split_whitespace().find_map(|word| word.strip_prefix("NodeAddr="))?;
    Some((address, 0).to_socket_addrs().ok()?.next()?.ip())
}

/// Reads lines such as `n1 mixed`, `n2 down*` or `n3 allocated*`; a star means that the node does
/// not answer.
fn read(answer: &str) -> Vec<String> {
    let lines = answer.lines().filter_map(|line| line.trim().split_once(' '));
    let is_lost = |state: &str| state.ends_with('*') || state.starts_with("down");
    lines.filter(|(_, state)| is_lost(state)).map(|(name, _)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_are_down_or_silent_are_lost() {
        assert_eq!(
            read("n1 mixed\nn2 down*\nn3 allocated*\nn4 down\nn5 draining\n"),
            ["n2", "n3", "n4"]
        );
        assert_eq!(read(""), [""; 0]);
    }
}
