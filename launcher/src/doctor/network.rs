//! Names, addresses and interfaces.

use super::{Site, Trouble, fail, warn};
use crate::prepare::hub::is_missing;

pub(super) fn host_name(site: &Site) -> Option<Trouble> {
    if site.resolves {
        return None;
    }
    let host = &site.machine.host;
    warn(
        format!("this machine's name, {host}, does not resolve, which may delay Open MPI"),
        format!("add `127.0.1.1 {host}` to /etc/hosts"),
    )
}

pub(super) fn loopback(site: &Site) -> Option<Trouble> {
    let reason = site.loopback.as_ref().err()?;
    fail(
        reason.clone(),
        "allow loopback connections in the firewall: workers report to the launcher through them",
    )
}

pub(super) fn hosts(site: &Site) -> Option<Trouble> {
    let reason = site.hosts.as_ref().err()?;
    fail(
        reason.clone(),
        "each host must resolve the others' names (Slurm's NodeAddr will do), log in to them by ssh without a \
         password, and be able to connect to them through the firewall",
    )
}

pub(super) fn other_interfaces(site: &Site) -> Option<Trouble> {
    let others: Vec<&str> = site.other_interfaces.iter().map(String::as_str).collect();
    let (others, used) = match others.as_slice() {
        [] => return None,
        [only] => (format!("{only} is"), site.ways.interfaces.join(", ")),
        _ => (format!("{} are", others.join(", ")), site.ways.interfaces.join(", ")),
    };
    let restricted = match site.ways.networks.as_slice() {
        [] if site.ways.by_ipv6() => format!("Open MPI to IPv6 and NCCL to {used}"),
        [] => format!("NCCL to {used}, but not Open MPI, since the hosts share no IPv4 network"),
        networks => format!("Open MPI to {} and NCCL to {used}", networks.join(", ")),
    };
    warn(
        format!(
            "{others} up besides {used}, which leads to the other hosts: Tandem restricts {restricted}"
        ),
        "to use another network between the hosts, name it in OMPI_MCA_btl_tcp_if_include and, on GPUs, \
         in NCCL_SOCKET_IFNAME",
    )
}

/// The network interfaces.
fn interfaces(site: &Site) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(site.system_file("/sys/class/net")) else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

pub(super) fn mpi_interfaces(site: &Site) -> Option<Trouble> {
    let there = interfaces(site);
    for layer in ["btl_tcp", "oob_tcp"] {
        let name = |end: &str| format!("OMPI_MCA_{layer}_if_{end}");
        let (include, exclude) = (name("include"), name("exclude"));
        if site.variable(&include).is_some() && site.variable(&exclude).is_some() {
            return fail(
                format!("{include} and {exclude} are both set, but Open MPI accepts only one"),
                "unset one of them",
            );
        }
        // Networks, as in 10.0.0.0/8, may be named as well.
        let named = site.variable(&include).unwrap_or_default().split(',').map(str::trim);
        let is_missing = |name: &&str| {
            !name.is_empty() && !name.contains('/') && !there.iter().any(|it| it == name)
        };
        if let Some(missing) = named.into_iter().find(is_missing) {
            return fail(
                format!(
                    "{include} names the interface {missing}, which this machine does not have"
                ),
                format!("name one of {}, or unset it", there.join(", ")),
            );
        }
    }
    None
}

pub(super) fn nccl_interface(site: &Site) -> Option<Trouble> {
    let named = site.variable("NCCL_SOCKET_IFNAME")?;
    let there = interfaces(site);
    if named.is_empty() || named.starts_with('^') {
        return None;
    }
    let fits = |name: &str| match named.strip_prefix('=') {
        Some(exact) => exact.split(',').any(|it| it == name),
        None => named.split(',').any(|it| name.starts_with(it)),
    };
    if there.iter().any(|name| fits(name)) {
        return None;
    }
    fail(
        format!("NCCL_SOCKET_IFNAME is {named}, which matches no interface of this machine"),
        format!("name one of {}, or unset it", there.join(", ")),
    )
}

pub(super) fn proxy(site: &Site) -> Option<Trouble> {
    // Only the hub is asked through a proxy; workers connect to the launcher directly.
    let mut config = site.run.as_ref()?.config.clone();
    config.model.pretrained_mut().iter().find(|name| is_missing(name))?;
    let names = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    let (name, value) = names
        .iter()
        .find_map(|name| Some((name, site.variable(name).filter(|it| !it.is_empty())?)))?;
    let schemes = ["http://", "https://", "socks4://", "socks5://"];
    if schemes.iter().any(|scheme| value.len() > scheme.len() && value.starts_with(scheme)) {
        return None;
    }
    fail(
        format!(
            "{name} is `{value}`, which is not the URL of a proxy: models cannot be downloaded from the hub"
        ),
        "set it to http://HOST:PORT, or unset it",
    )
}
