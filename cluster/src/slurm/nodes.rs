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
    let record = ask(Command::new("scontrol").args(["show", "node", node])).ok()?;
    Some((address(&record)?, 0).to_socket_addrs().ok()?.next()?.ip())
}

/// The field of a node's record.
fn address(record: &str) -> Option<&str> {
    record.split_whitespace().find_map(|word| word.strip_prefix("NodeAddr="))
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

    #[test]
    fn a_node_has_an_address_beside_its_name() {
        let record =
            "NodeName=n1 Arch=x86_64\n   NodeAddr=198.18.0.11 NodeHostName=n1 Port=17820\n";
        assert_eq!(address(record), Some("198.18.0.11"));
        assert_eq!(address("Node n9 not found\n"), None);
    }
}
