//! What the network thread owns: leases, routes, rules, and what was applied last.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use tracing::{debug, info};

use crate::conntrack;
use crate::error::NetlinkContext as _;
use crate::ipam::{HostPort, Lease, Pool};
use crate::netlink::route::{Link, Route, Routing, Scope};
use crate::rules::Rules;
use crate::sandbox::{self, Wiring};
use crate::service::{Ledger, Protocol, ServiceChange, ServicePort, StaleFlows};
use crate::settings::{Config, Ipv4Net, Peer};
use crate::{Error, sysctl};

#[derive(Debug)]
pub(super) struct State {
    pub(super) config: Config,
    gateway: Ipv4Addr,
    pub(super) uplink: Link,
    pub(super) pool: Pool,
    pub(super) routing: Routing,
    pub(super) rules: Rules,
    /// `None` until the first full synchronisation.
    pub(super) services: Option<Ledger>,
    /// Those of the last synchronisation.
    pub(super) peers: Vec<Peer>,
}

impl State {
    pub(super) fn setup(config: Config) -> Result<Self, Error> {
        let what = || format!("setting up the network of node {}", config.node_id);
        let gateway = config.pod_cidr.nth(1).ok_or(Error::TooSmall { cidr: config.pod_cidr })?;
        let mut routing = Routing::open().when(what)?;
        let uplink = find_uplink(&mut routing, &config)?;
        prepare_lo(&mut routing, &config)?;
        sysctl::set("ipv4/ip_forward", "1")?;
        // What comes in for a service and leaves the same way is no detour, and a
        // redirect would eat the allowance for the refusal that has to follow.
        for link in ["all", uplink.name.as_str()] {
            sysctl::set(&format!("ipv4/conf/{link}/send_redirects"), "0")?;
        }
        let pool = Pool::open(config.pod_cidr, &config.ipam_dir)?;
        let mut rules = Rules::open(&config)?;
        rules.write_frame(&config, pool.all())?;
        let mut state = Self {
            config,
            gateway,
            uplink,
            pool,
            routing,
            rules,
            services: None,
            peers: Vec::new(),
        };
        state.route_services()?;
        Ok(state)
    }

    /// A node without a default route must reach services too, and always from its own
    /// address. Rules send such packets elsewhere before they leave.
    pub(super) fn route_services(&mut self) -> Result<(), Error> {
        let route = self.service_route();
        self.routing
            .replace_route(&route)
            .when(|| format!("adding a route to the services {}", route.destination))
    }

    pub(super) fn service_route(&self) -> Route {
        Route {
            destination: self.config.service_cidr,
            gateway: None,
            link: Some(self.uplink.index),
            source: Some(self.config.node_address),
        }
    }

    pub(super) fn attach(
        &mut self,
        uid: &str,
        netns: &Path,
        host_ports: &[HostPort],
    ) -> Result<Lease, Error> {
        self.check_link(uid)?;
        let lease = self.pool.lease(uid, host_ports)?;
        let wiring = Wiring {
            uid,
            netns,
            link: self.config.node_id.link(uid),
            address: lease.address,
            gateway: self.gateway,
            to_loopback: !lease.host_ports.is_empty(),
            mtu: Some(self.config.mtu.unwrap_or(self.uplink.mtu)).filter(|mtu| *mtu > 0),
        };
        sandbox::connect(&mut self.routing, &wiring)?;
        self.rules.set_leases(self.pool.all())?;
        self.forget_untranslated(&lease)?;
        debug!(uid, address = %lease.address, "sandbox attached");
        Ok(lease)
    }

    /// The names of links are short: the link of another sandbox must not be taken for, or
    /// replaced by, this one's.
    fn check_link(&self, uid: &str) -> Result<(), Error> {
        let link = self.config.node_id.link(uid);
        let holder = self
            .pool
            .all()
            .find(|lease| lease.uid != uid && self.config.node_id.link(&lease.uid) == link);
        match holder {
            Some(holder) => {
                Err(Error::LinkTaken { link, uid: uid.to_owned(), holder: holder.uid.clone() })
            }
            None => Ok(()),
        }
    }

    /// UDP clients of a host port may have sent before anyone answered there; their flows
    /// would go on to lead to the node itself.
    fn forget_untranslated(&mut self, lease: &Lease) -> Result<(), Error> {
        let udp = lease.host_ports.iter().filter(|port| port.protocol == Protocol::Udp);
        let answered: Vec<StaleFlows> = udp
            .map(|port| {
                let to = SocketAddrV4::new(lease.address, port.container_port);
                StaleFlows {
                    addresses: port.host_ip.into_iter().collect(),
                    port: port.host_port,
                    node_port: Some(port.host_port).filter(|_| port.host_ip.is_none()),
                    endpoints: HashSet::from([to]),
                }
            })
            .collect();
        self.forget_stale(&answered)
    }

    pub(super) fn detach(&mut self, uid: &str) -> Result<(), Error> {
        if self.check_link(uid).is_ok() {
            sandbox::disconnect(&mut self.routing, &self.config.node_id.link(uid), uid)?;
        }
        let Some(lease) = self.pool.get(uid).cloned() else {
            return Ok(());
        };
        self.rules.set_leases(self.pool.all().filter(|other| other.uid != uid))?;
        // The next holder of the address must not inherit its flows.
        self.forget_flows(&HashSet::from([lease.address]))?;
        // Last: until here the address could not be given to another.
        self.pool.release(uid)?;
        debug!(uid, address = %lease.address, "sandbox detached");
        Ok(())
    }

    pub(super) fn leases(&self) -> Vec<Lease> {
        self.pool.all().cloned().collect()
    }

    pub(super) fn sweep(&mut self, known: &HashSet<String>) -> Result<Vec<String>, Error> {
        let mut doomed: Vec<String> = self
            .pool
            .all()
            .map(|lease| lease.uid.clone())
            .filter(|uid| !known.contains(uid))
            .collect();
        doomed.sort();
        let mut first = Ok(());
        for uid in &doomed {
            match self.detach(uid) {
                Ok(()) => info!(uid, "leftover sandbox detached"),
                // The others go all the same.
                Err(error) => first = first.and(Err(error)),
            }
        }
        let keep: HashSet<String> =
            self.pool.all().map(|lease| self.config.node_id.link(&lease.uid)).collect();
        for link in self.own_links()? {
            if !keep.contains(&link) {
                first = first.and(sandbox::disconnect(&mut self.routing, &link, "that is unknown"));
            }
        }
        first.map(|()| doomed)
    }

    fn own_links(&mut self) -> Result<Vec<String>, Error> {
        let prefix = self.config.node_id.link_prefix();
        let links = self
            .routing
            .links()
            .when(|| format!("listing the links of node {}", self.config.node_id))?;
        Ok(links.into_iter().map(|link| link.name).filter(|n| n.starts_with(&prefix)).collect())
    }

    pub(super) fn sync_services(&mut self, mut ports: Vec<ServicePort>) -> Result<(), Error> {
        ports.retain(|port| !self.is_dns(port));
        match &self.services {
            None => {
                let ledger = Ledger::of(ports);
                self.replace_services(&ledger.all())?;
                let stale = ledger.udp_flows();
                self.services = Some(ledger);
                self.forget_stale(&stale)
            }
            Some(ledger) => {
                let keep: HashSet<&str> = ports.iter().map(|port| port.key.as_str()).collect();
                let gone = ledger.keys().filter(|key| !keep.contains(*key));
                let gone: Vec<_> = gone.map(|key| ServiceChange::Remove(key.to_owned())).collect();
                let changes = gone.into_iter().chain(ports.into_iter().map(ServiceChange::Set));
                self.apply(changes.collect())
            }
        }
    }

    pub(super) fn apply(&mut self, mut changes: Vec<ServiceChange>) -> Result<(), Error> {
        changes.retain(|change| !matches!(change, ServiceChange::Set(port) if self.is_dns(port)));
        let Some(mut ledger) = self.services.take() else {
            return Err(Error::NotSynchronised);
        };
        // On an error the ledger is not put back: the next synchronisation is a full one.
        let (difference, stale) = ledger.change(changes);
        self.rules.change_services(&difference)?;
        self.services = Some(ledger);
        self.forget_stale(&stale)
    }

    /// The cluster's DNS listens on its address itself.
    fn is_dns(&self, port: &ServicePort) -> bool {
        self.config.dns_address.is_some_and(|dns| port.cluster_addresses.contains(&dns))
    }

    fn forget_stale(&mut self, stale: &[StaleFlows]) -> Result<(), Error> {
        if stale.is_empty() {
            return Ok(());
        }
        let what = || "ending UDP flows to removed endpoints".to_owned();
        let assigned = self.routing.addresses().when(what)?;
        let local = assigned.into_iter().map(|assigned| assigned.address).collect();
        let count = conntrack::forget_stale(stale, &local).when(what)?;
        if count > 0 {
            debug!(count, "stale UDP flows ended");
        }
        Ok(())
    }

    pub(super) fn forget_flows(&self, addresses: &HashSet<Ipv4Addr>) -> Result<usize, Error> {
        conntrack::forget_addresses(addresses).when(|| format!("ending the flows of {addresses:?}"))
    }

    /// Everything is tried; the first thing that failed is the error.
    pub(super) fn teardown(&mut self) -> Result<(), Error> {
        let what = || "removing the node's network".to_owned();
        let mut first = Ok(());
        for lease in self.leases() {
            first = first.and(self.detach(&lease.uid));
        }
        for link in self.own_links()? {
            first = first.and(sandbox::disconnect(&mut self.routing, &link, "that is unknown"));
        }
        for route in self.peer_routes()? {
            first = first.and(self.routing.delete_route(&route).when(what));
        }
        let services = self.service_route();
        first = first.and(self.routing.delete_route(&services).when(what));
        if let (Some(dns), Some(lo)) =
            (self.config.dns_address, self.routing.link("lo").when(what)?)
        {
            first = first.and(self.routing.delete_address(lo.index, dns, 32).when(what));
        }
        self.services = None;
        self.peers.clear();
        first.and(self.rules.drop_table())
    }
}

pub(super) fn find_uplink(routing: &mut Routing, config: &Config) -> Result<Link, Error> {
    let address = config.node_address;
    let what = || format!("looking for the link with the node's address {address}");
    let index = routing
        .addresses()
        .when(what)?
        .into_iter()
        .find(|assigned| assigned.address == address)
        .map(|assigned| assigned.link)
        .ok_or(Error::NoUplink { address })?;
    routing
        .links()
        .when(what)?
        .into_iter()
        .find(|link| link.index == index)
        .ok_or(Error::NoUplink { address })
}

pub(super) fn prepare_lo(routing: &mut Routing, config: &Config) -> Result<(), Error> {
    let what = || "preparing the node's loopback link".to_owned();
    let lo = routing
        .link("lo")
        .when(what)?
        .ok_or_else(|| Error::LinkVanished { link: "lo".to_owned() })?;
    routing.set_up(lo.index, true).when(what)?;
    if let Some(dns) = config.dns_address {
        // Scope host: masquerading must never choose it as a source.
        routing
            .add_address(lo.index, Ipv4Net::new(dns, 32).address(), 32, Scope::Host)
            .when(|| format!("putting the DNS address {dns} on the loopback link"))?;
    }
    Ok(())
}
