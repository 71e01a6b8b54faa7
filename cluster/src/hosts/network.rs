//! The network between this machine and the others of a run: which ones are others, and the way there.
//!
//! Addresses decide, not names, of which a machine has many: a short and a full one, Slurm's, and those
//! that lead back to itself (Debian's 127.0.1.1).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::process::{self, Interface};
use crate::slurm;

/// How long a name server may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Open MPI's settings of the networks between workers, and between its own daemons.
const MPI_LAYERS: [&str; 2] = ["btl_tcp", "oob_tcp"];
/// The kind of addresses that Open MPI does not take for workers: 4 or 6.
const MPI_FAMILY: &str = "OMPI_MCA_btl_tcp_disable_family";
/// Where Open MPI's settings lie, the user's and those of Debian's package.
const MPI_FILES: [&str; 2] = [".openmpi/mca-params.conf", "/etc/openmpi/openmpi-mca-params.conf"];
/// NCCL's interface, by its name.
pub const NCCL_INTERFACE: &str = "NCCL_SOCKET_IFNAME";

/// How this machine reaches the other hosts of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ways {
    /// The other hosts.
    pub hosts: Vec<String>,
    /// This machine's addresses as they see it: one where all are reached by the same interface.
    pub addresses: Vec<IpAddr>,
    /// The interfaces.
    pub interfaces: Vec<String>,
    /// The networks, as 10.1.0.0/16, where every host is in one of them.
    pub networks: Vec<String>,
    /// Which of the hosts has an address.
    places: BTreeMap<IpAddr, String>,
}

impl Ways {
    /// The ways to these hosts; names of this machine itself are left out.
    ///
    /// # Errors
    /// A host that has no address, or to which no interface leads.
    pub fn to<'a>(hosts: impl Iterator<Item = &'a str>) -> io::Result<Self> {
        let hosts: Vec<&str> = hosts.collect();
        let here = ours(hosts.iter().copied());
        let others: BTreeSet<&str> =
            hosts.into_iter().filter(|host| !here.contains(host)).collect();
        let mut ways = Self::default();
        if others.is_empty() {
            return Ok(ways);
        }
        let interfaces = process::interfaces();
        let mut addresses = addresses_of(others.iter().copied());
        let mut are_near = true;
        for host in others {
            let no_way = |error: io::Error| {
                io::Error::new(error.kind(), format!("no way to the host {host}: {error}"))
            };
            let there = match addresses.remove(host) {
                Some(found) if !found.is_empty() => found,
                _ => slurm::address_of(host).into_iter().collect(),
            };
            let (nearest, address) = way(&there).map_err(no_way)?;
            ways.hosts.push(host.into());
            ways.places.extend(there.iter().map(|address| (*address, host.into())));
            push_new(&mut ways.addresses, address);
            let interface = interfaces.iter().find(|interface| interface.address == address);
            if let Some(interface) = interface {
                push_new(&mut ways.interfaces, interface.name.clone());
                if let Some(network) = interface.network_of(nearest) {
                    push_new(&mut ways.networks, network);
                    continue;
                }
            }
            are_near = false;
        }
        if !are_near {
            // Behind a router hosts are in networks that are not known here.
            ways.networks.clear();
        }
        Ok(ways)
    }

    /// Which of the hosts has this address, by the name that the run has for it.
    pub fn host_at(&self, address: IpAddr) -> Option<&str> {
        self.places.get(&address).map(String::as_str)
    }

    /// Which of the hosts mpirun or srun means by a name, of which mpirun leaves out the domain.
    pub fn host_called(&self, name: &str) -> Option<&str> {
        let short = |host: &&String| host.split('.').next() == Some(name);
        let exact = self.hosts.iter().find(|host| *host == name);
        exact.or_else(|| self.hosts.iter().find(short)).map(String::as_str)
    }

    /// What keeps Open MPI to these networks, and the user's own choice of an interface for NCCL, of
    /// which mpirun would not pass to other hosts. Values that the user has set take precedence.
    pub fn environment(&self) -> Vec<(String, String)> {
        let variable = |name: &str| std::env::var(name).ok();
        self.variables(variable, &mpi_settings())
    }

    fn variables(
        &self,
        variable: impl Fn(&str) -> Option<String>,
        settings: &str,
    ) -> Vec<(String, String)> {
        if self.hosts.is_empty() {
            return Vec::new();
        }
        let chosen = |layer: &&str| is_chosen(layer, &variable, settings);
        let layers = MPI_LAYERS.iter().filter(|layer| !self.networks.is_empty() && !chosen(layer));
        let mut variables: Vec<(String, String)> = layers
            .map(|layer| (format!("OMPI_MCA_{layer}_if_include"), self.networks.join(",")))
            .collect();
        // It takes networks of IPv4 alone, and would try addresses of IPv4 that do not join the hosts.
        if self.by_ipv6() && !chosen(&MPI_LAYERS[0]) && variable(MPI_FAMILY).is_none() {
            variables.push((MPI_FAMILY.into(), "4".into()));
        }
        variables.extend(variable(NCCL_INTERFACE).map(|value| (NCCL_INTERFACE.into(), value)));
        variables
    }

    /// Whether all hosts are reached by IPv6.
    pub fn by_ipv6(&self) -> bool {
        !self.hosts.is_empty() && self.addresses.iter().all(IpAddr::is_ipv6)
    }

    /// The other interfaces of this machine that are up and could lead to hosts.
    pub fn other_interfaces(&self) -> BTreeSet<String> {
        let could_lead = |interface: &Interface| {
            let is_local = match interface.address {
                IpAddr::V4(address) => address.is_loopback() || address.is_link_local(),
                IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
            };
            !is_local && !self.interfaces.contains(&interface.name)
        };
        let found = process::interfaces().into_iter().filter(could_lead);
        found.map(|interface| interface.name).collect()
    }

    /// A description of the interfaces by which workers on these hosts exchange their sums.
    pub fn describe(&self) -> Option<String> {
        let hosts = match self.hosts.as_slice() {
            [] => return None,
            [only] => only.clone(),
            [first, .., last] => format!("{first} to {last}"),
        };
        let name = "OMPI_MCA_btl_tcp_if_include";
        let interfaces = self.interfaces.join(", ");
        Some(match (std::env::var(name), self.networks.as_slice()) {
            (Ok(set), _) => format!("{interfaces} leads to {hosts}, and {name} is {set}"),
            (_, []) => format!("{interfaces} leads to {hosts}"),
            (_, networks) => format!("{interfaces} leads to {hosts} ({})", networks.join(", ")),
        })
    }
}

/// Whether the user has chosen the interfaces by which workers exchange their sums by MPI.
pub fn user_has_chosen() -> bool {
    is_chosen(MPI_LAYERS[0], |name| std::env::var(name).ok(), &mpi_settings())
}

/// Whether a layer of Open MPI's has its interfaces from a variable, or from files of settings.
fn is_chosen(layer: &str, variable: impl Fn(&str) -> Option<String>, settings: &str) -> bool {
    ["include", "exclude"].iter().any(|end| {
        let name = format!("{layer}_if_{end}");
        let sets = |line: &str| line.split('=').next().is_some_and(|it| it.trim() == name);
        variable(&format!("OMPI_MCA_{name}")).is_some() || settings.lines().any(sets)
    })
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// What Open MPI's files of settings say.
fn mpi_settings() -> String {
    let home = std::env::var_os("HOME").unwrap_or_default();
    let read = |path: &&str| std::fs::read_to_string(Path::new(&home).join(path)).ok();
    MPI_FILES.iter().filter_map(read).collect::<Vec<_>>().join("\n")
}

/// The name of this machine: that of the Slurm node if Slurm started this process, else its own.
pub fn own_name() -> String {
    std::env::var("SLURMD_NODENAME").unwrap_or_else(|_| process::host_name())
}

/// Those of the names that mean this machine, as `localhost` does.
pub fn ours<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let own = [process::host_name(), own_name()];
    let is_own = |name: &str| own.iter().any(|it| it == name);
    let (mut ours, others): (BTreeSet<&str>, BTreeSet<&str>) = names.partition(|name| is_own(name));
    let addresses = addresses_of(others.into_iter());
    let here = addresses.into_iter().filter(|(_, found)| found.iter().any(|it| is_here(*it)));
    ours.extend(here.map(|(name, _)| name));
    ours
}

/// The addresses of the names that resolve, as far as the name server answers in time.
fn addresses_of<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, Vec<IpAddr>> {
    let names: BTreeSet<&str> = names.collect();
    let (sender, answers) = mpsc::channel();
    for name in &names {
        let (sender, name) = (sender.clone(), (*name).to_owned());
        // In a thread of its own, which a name server that is silent may hold up.
        thread::spawn(move || {
            let found = (name.as_str(), 0).to_socket_addrs().into_iter().flatten();
            sender.send((found.map(|address| address.ip()).collect(), name))
        });
    }
    drop(sender);
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let mut addresses: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
    while let Ok((found, name)) =
        answers.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    {
        addresses.extend(names.get(&*name).map(|name| (*name, found)));
    }
    addresses
}

/// Whether an address is this machine's own: no machine lets a socket have that of another one.
fn is_here(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// The first of another host's addresses to which there is a way, and this machine's as seen there.
fn way(there: &[IpAddr]) -> io::Result<(IpAddr, IpAddr)> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "its name leads to no address");
    for &address in there {
        if is_here(address) {
            let words = format!("its name leads to {address}, which is this machine's own");
            failure = io::Error::new(io::ErrorKind::AddrNotAvailable, words);
            continue;
        }
        match address_towards(address) {
            Ok(own) => return Ok((address, own)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// This machine's address as another one sees it: that of the interface which leads there.
fn address_towards(there: IpAddr) -> io::Result<IpAddr> {
    let any = match there {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    // Nothing is sent: the system only chooses the interface.
    socket.connect((there, 9))?;
    Ok(socket.local_addr()?.ip())
}

/// The interface that leads to one of these addresses, unless it stays on this machine.
pub fn interface_towards(addresses: impl Iterator<Item = IpAddr>) -> Option<String> {
    let own = addresses.filter_map(|address| address_towards(address).ok());
    let own = own.into_iter().find(|own| !own.is_loopback())?;
    let interfaces = process::interfaces();
    Some(interfaces.into_iter().find(|interface| interface.address == own)?.name)
}

/// Listens on a free port for this machine alone, by IPv4 or, where there is none, by IPv6.
///
/// # Errors
/// Nobody could connect, as where the loopback interface is down.
pub fn listen_here() -> io::Result<TcpListener> {
    // An interface that is down lets itself be listened on.
    let listen = |address: IpAddr| {
        let listener = TcpListener::bind((address, 0))?;
        TcpStream::connect_timeout(&listener.local_addr()?, CONNECT_TIMEOUT)?;
        Ok(listener)
    };
    let by_ipv4: io::Result<TcpListener> = listen(Ipv4Addr::LOCALHOST.into());
    by_ipv4.or_else(|error| listen(Ipv6Addr::LOCALHOST.into()).map_err(|_| error)).map_err(|error| {
        let words = format!(
            "this machine cannot connect to itself (127.0.0.1): {error}; bring the loopback interface up: \
             `ip link set lo up`"
        );
        io::Error::new(error.kind(), words)
    })
}

/// Listens on a free port for all machines.
///
/// # Errors
/// Where the system gives none.
pub fn listen_to_all() -> io::Result<TcpListener> {
    let listen = |address: IpAddr| TcpListener::bind((address, 0));
    // The one of IPv6 hears IPv4, too; a system without it has only the other.
    listen(Ipv6Addr::UNSPECIFIED.into()).or_else(|_| listen(Ipv4Addr::UNSPECIFIED.into()))
}

impl Interface {
    /// The network in which this interface and another address are; none where it is behind a router,
    /// or of IPv6, which Open MPI does not take.
    fn network_of(&self, other: IpAddr) -> Option<String> {
        let (IpAddr::V4(own), IpAddr::V4(other)) = (self.address, other) else { return None };
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
        let network = u32::from(own) & mask;
        let is_in = u32::from(other) & mask == network;
        is_in.then(|| format!("{}/{}", Ipv4Addr::from(network), self.prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways() -> Ways {
        Ways {
            hosts: vec!["n1".into(), "n2".into()],
            addresses: vec![[10, 1, 0, 1].into()],
            interfaces: vec!["ib0".into()],
            networks: vec!["10.1.0.0/16".into()],
            places: [([10, 1, 0, 2].into(), "n2".into())].into(),
        }
    }

    fn said(ways: &Ways, set: &[(&str, &str)], settings: &str) -> String {
        let value = |name: &str| {
            let (_, value) = set.iter().find(|(known, _)| *known == name)?;
            Some((*value).to_owned())
        };
        let variables = ways.variables(value, settings).into_iter();
        variables.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn workers_keep_to_the_networks_between_the_hosts_unless_the_user_says_otherwise() {
        let [btl, oob] = MPI_LAYERS.map(|layer| format!("OMPI_MCA_{layer}_if_include=10.1.0.0/16"));
        assert_eq!(said(&ways(), &[], ""), format!("{btl} {oob}"));
        assert_eq!(said(&ways(), &[("OMPI_MCA_btl_tcp_if_exclude", "lo")], ""), oob);
        assert_eq!(said(&ways(), &[], "# btl\n oob_tcp_if_include = ib0\n"), btl);
        assert_eq!(said(&ways(), &[], "# btl_tcp_if_include = ib0\n"), format!("{btl} {oob}"));
        let nccl = [(NCCL_INTERFACE, "ib")];
        assert_eq!(said(&ways(), &nccl, ""), format!("{btl} {oob} {NCCL_INTERFACE}=ib"));
        let routed = Ways { networks: Vec::new(), ..ways() };
        assert_eq!(said(&routed, &[], ""), "", "hosts behind a router");
        assert_eq!(said(&Ways::default(), &nccl, ""), "", "no other host");
        let ipv6 = Ways { addresses: vec![Ipv6Addr::LOCALHOST.into()], ..routed };
        assert_eq!(said(&ipv6, &[], ""), format!("{MPI_FAMILY}=4"));
        assert_eq!(said(&ipv6, &[], "btl_tcp_if_include = ib0"), "");
        assert_eq!(said(&ipv6, &[(MPI_FAMILY, "0")], ""), "");
    }

    #[test]
    fn a_host_is_known_by_its_address_and_by_the_names_that_engines_have_for_it() {
        let ways = Ways { hosts: vec!["n1.cluster".into(), "n2".into()], ..ways() };
        assert_eq!(ways.host_at([10, 1, 0, 2].into()), Some("n2"));
        assert_eq!(ways.host_at([10, 1, 0, 3].into()), None);
        assert_eq!(ways.host_called("n2"), Some("n2"));
        assert_eq!(ways.host_called("n1"), Some("n1.cluster"));
        assert_eq!(ways.host_called("n1.cluster"), Some("n1.cluster"));
        assert_eq!(ways.host_called("n3"), None);
    }

    #[test]
    fn a_network_has_those_whose_first_bits_are_its_own() {
        let interface =
            |prefix| Interface { name: "eth0".into(), address: [10, 1, 200, 7].into(), prefix };
        let near = IpAddr::from([10, 1, 3, 4]);
        assert_eq!(interface(16).network_of(near).as_deref(), Some("10.1.0.0/16"));
        assert_eq!(interface(24).network_of(near), None);
        assert_eq!(interface(0).network_of(near).as_deref(), Some("0.0.0.0/0"));
        assert_eq!(interface(32).network_of(near), None);
        assert_eq!(interface(16).network_of(Ipv6Addr::LOCALHOST.into()), None);
    }

    #[test]
    fn names_of_this_machine_lead_nowhere() {
        let names = ["localhost", "127.0.0.1", "127.0.1.1", "::1"];
        let own = process::host_name();
        assert_eq!(ours(names.into_iter().chain([&*own])).len(), 5);
        assert_eq!(Ways::to(names.into_iter().chain([&*own])).unwrap(), Ways::default());
        let error = Ways::to(["no.such.host.invalid"].into_iter()).unwrap_err().to_string();
        assert_eq!(error, "no way to the host no.such.host.invalid: its name leads to no address");
    }

    #[test]
    fn a_name_of_another_host_that_leads_here_is_no_way() {
        let error = way(&[Ipv4Addr::new(127, 0, 1, 1).into()]).unwrap_err().to_string();
        assert!(error.contains("127.0.1.1"), "{error}");
    }
}
