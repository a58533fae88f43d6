//! Making, cutting, healing and removing an underlay. Blocking; needs root.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use tracing::info;

use super::ranges::{self, Taken};
use super::record::{Lock, Record};
use super::{Config, NODES_MAX, Ranges, Recorded, Underlay, UnderlayNode};
use crate::error::{NetlinkContext as _, NetnsContext as _};
use crate::netlink::NetlinkError;
use crate::netlink::route::{Link, Route, Routing, Scope};
use crate::nft::{self, Batch, Hook, Point};
use crate::settings::Ipv4Net;
use crate::{Error, netns, sysctl};

const BRIDGE: &str = "switch";
const NODE_LINK: &str = "eth0";
const HOST_PORT: &str = "host";

/// Names with the id must fit the 15 characters of a link.
const CLUSTER_ID_LENGTH_MAX: usize = 10;

/// Routes as wide as this are detours to somewhere else: more specific ones win.
const WIDE_PREFIX_MAX: u8 = 8;

/// Makes the cluster's namespaces, switch and host link, or completes what is there.
pub fn create(config: &Config) -> Result<Underlay, Error> {
    check(config)?;
    let _lock = Lock::take(&config.run_dir)?;
    let mut host = Routing::open().when(|| "reaching the host's network".to_owned())?;
    let old = Record::read(&config.run_dir, &config.cluster_id)?;
    let wanted = config.ranges.or(old.as_ref().map(|record| record.underlay.ranges));
    let ranges = ranges::choose(wanted, &taken(config, &mut host)?)?;
    let underlay = describe(config, ranges);
    let forwards = sysctl::get("ipv4/ip_forward").is_some_and(|value| value == "1");
    let turned_on = old.as_ref().is_some_and(|old| old.turned_forwarding_on) || !forwards;
    if let Some(old) = &old {
        remove_former_nodes(&old.underlay, &underlay, &mut host)?;
    }
    // Written first: a creation that is killed half-way can be swept.
    Record::new(&config.data_dir, underlay.clone(), turned_on).write()?;
    build(&underlay, &mut host)?;
    info!(cluster = %config.cluster_id, underlay = %ranges.underlay, "underlay made");
    Ok(underlay)
}

/// Takes the node's cable out: nothing reaches it, and it reaches nothing.
pub fn cut(underlay: &Underlay, node: &str) -> Result<(), Error> {
    switch_port(underlay, node, false)
}

/// Puts the cable back.
pub fn heal(underlay: &Underlay, node: &str) -> Result<(), Error> {
    switch_port(underlay, node, true)
}

/// Removes all that the cluster's underlay made. One that is not there is no error.
/// Processes inside keep a namespace alive, without links.
pub fn remove(run_dir: &Path, cluster_id: &str) -> Result<(), Error> {
    let _lock = Lock::take(run_dir)?;
    remove_locked(run_dir, cluster_id)
}

/// The clusters that have an underlay on this machine.
pub fn recorded(run_dir: &Path) -> Result<Vec<Recorded>, Error> {
    let _lock = Lock::take(run_dir)?;
    let recorded = |record: Record| Recorded {
        cluster_id: record.underlay.cluster_id,
        data_dir: record.data_dir,
    };
    Ok(Record::all(run_dir)?.into_iter().map(recorded).collect())
}

fn check(config: &Config) -> Result<(), Error> {
    let id = &config.cluster_id;
    let sound = (1..=CLUSTER_ID_LENGTH_MAX).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if !sound {
        return Err(Error::BadClusterId { id: id.clone() });
    }
    if config.nodes.len() > NODES_MAX {
        return Err(Error::TooManyNodes { count: config.nodes.len() });
    }
    Ok(())
}

fn describe(config: &Config, ranges: Ranges) -> Underlay {
    let dir = config.run_dir.join(&config.cluster_id).join("netns");
    let node = |(k, name): (u32, &String)| UnderlayNode {
        name: name.clone(),
        address: ranges.node_address(k),
        pod_cidr: ranges.node_pods(k),
        netns: dir.join(name),
    };
    Underlay {
        cluster_id: config.cluster_id.clone(),
        run_dir: config.run_dir.clone(),
        ranges,
        nodes: (1..).zip(&config.nodes).map(node).collect(),
    }
}

/// The ranges of other clusters, and what the host's own network has.
fn taken(config: &Config, host: &mut Routing) -> Result<Vec<Taken>, Error> {
    let what = || "looking for free address ranges".to_owned();
    let mut taken = Vec::new();
    for record in Record::all(&config.run_dir)? {
        let other = record.underlay;
        if other.cluster_id == config.cluster_id {
            continue;
        }
        let holder = format!("the cluster in {}", record.data_dir.display());
        for range in [other.ranges.underlay, other.ranges.pods, other.ranges.services] {
            taken.push(Taken { range, holder: holder.clone() });
        }
    }
    let own = host.link(&host_link(&config.cluster_id)).when(what)?.map(|link| link.index);
    for assigned in host.addresses().when(what)? {
        if Some(assigned.link) != own {
            let range = Ipv4Net::new(assigned.address, assigned.prefix);
            taken.push(Taken { range, holder: format!("the host's address {}", assigned.address) });
        }
    }
    for (_, route) in host.all_routes().when(what)? {
        let foreign = own.is_none() || route.link != own;
        if foreign && route.destination.prefix() > WIDE_PREFIX_MAX {
            let holder = format!("the host's route to {}", route.destination);
            taken.push(Taken { range: route.destination, holder });
        }
    }
    Ok(taken)
}

fn build(underlay: &Underlay, host: &mut Routing) -> Result<(), Error> {
    let what = || format!("making the underlay of cluster {}", underlay.cluster_id);
    let switch_path = underlay.switch();
    netns::make(&switch_path).when(what)?;
    let mut switch = netns::in_netns(&switch_path, open_switch).when(what)??;
    let bridge = switch.link(BRIDGE).when(what)?.ok_or_else(|| vanished(BRIDGE))?;
    for (k, node) in (1u32..).zip(&underlay.nodes) {
        netns::make(&node.netns).when(what)?;
        let mut inside = in_node(node)?;
        ensure_veth(&mut switch, &mut inside, &port_name(k), NODE_LINK, &node.netns)?;
        plug(&mut switch, &port_name(k), bridge.index).when(what)?;
        configure_node(&mut inside, node, underlay).when(what)?;
    }
    connect_host(underlay, host, &mut switch, bridge.index)?;
    write_host_rules(underlay)
}

/// A cluster that comes back with fewer nodes leaves nothing of the others.
fn remove_former_nodes(old: &Underlay, new: &Underlay, host: &mut Routing) -> Result<(), Error> {
    for (k, node) in (1u32..).zip(&old.nodes) {
        if new.nodes.contains(node) {
            continue;
        }
        let what = || format!("removing the network of the former {}", node.name);
        if netns::is_namespace(&old.switch()) {
            let mut switch =
                netns::in_netns(&old.switch(), Routing::open).when(what)?.when(what)?;
            switch.delete_link(&port_name(k)).when(what)?;
        }
        if let Some(link) = host.link(&host_link(&old.cluster_id)).when(what)? {
            host.delete_route(&via(node.pod_cidr, node.address, &link)).when(what)?;
        }
        netns::remove(&node.netns).when(what)?;
    }
    Ok(())
}

/// Runs inside the switch's namespace.
fn open_switch() -> Result<Routing, Error> {
    let what = || "making the switch".to_owned();
    // What crosses the switch is for the nodes to filter, each for itself.
    for name in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables"]
    {
        sysctl::set_if_there(&format!("bridge/{name}"), "0")?;
    }
    let mut routing = Routing::open().when(what)?;
    routing.add_bridge(BRIDGE).when(what)?;
    let bridge = routing.link(BRIDGE).when(what)?.ok_or_else(|| vanished(BRIDGE))?;
    routing.set_up(bridge.index, true).when(what)?;
    Ok(routing)
}

fn in_node(node: &UnderlayNode) -> Result<Routing, Error> {
    let what = || format!("reaching the network of {}", node.name);
    netns::in_netns(&node.netns, Routing::open).when(what)?.when(what)
}

/// A veth between two namespaces, made anew unless both ends are there.
fn ensure_veth(
    near: &mut Routing,
    far: &mut Routing,
    near_name: &str,
    far_name: &str,
    far_netns: &Path,
) -> Result<(), Error> {
    let what = || format!("making the link {near_name}");
    if near.link(near_name).when(what)?.is_some() && far.link(far_name).when(what)?.is_some() {
        return Ok(());
    }
    near.delete_link(near_name).when(what)?;
    far.delete_link(far_name).when(what)?;
    let namespace = File::open(far_netns).map_err(|source| Error::File {
        action: "opening the network namespace",
        path: far_netns.into(),
        source,
    })?;
    near.add_veth(near_name, far_name, namespace.as_fd(), None).when(what)
}

fn plug(switch: &mut Routing, port: &str, bridge: u32) -> Result<(), NetlinkError> {
    if let Some(link) = switch.link(port)? {
        switch.set_master(link.index, bridge)?;
        switch.set_up(link.index, true)?;
    }
    Ok(())
}

fn configure_node(
    inside: &mut Routing,
    node: &UnderlayNode,
    underlay: &Underlay,
) -> Result<(), NetlinkError> {
    if let Some(lo) = inside.link("lo")? {
        inside.set_up(lo.index, true)?;
    }
    let Some(link) = inside.link(NODE_LINK)? else {
        return Ok(());
    };
    let prefix = underlay.ranges.underlay.prefix();
    inside.add_address(link.index, node.address, prefix, Scope::Universe)?;
    inside.set_up(link.index, true)?;
    inside.replace_route(&Route {
        destination: Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 0),
        gateway: Some(underlay.host_address()),
        link: Some(link.index),
        source: None,
    })
}

fn connect_host(
    underlay: &Underlay,
    host: &mut Routing,
    switch: &mut Routing,
    bridge: u32,
) -> Result<(), Error> {
    let what = || format!("connecting the host to cluster {}", underlay.cluster_id);
    let name = host_link(&underlay.cluster_id);
    ensure_veth(host, switch, &name, HOST_PORT, &underlay.switch())?;
    plug(switch, HOST_PORT, bridge).when(what)?;
    let link = host.link(&name).when(what)?.ok_or_else(|| vanished(&name))?;
    let prefix = underlay.ranges.underlay.prefix();
    host.add_address(link.index, underlay.host_address(), prefix, Scope::Universe).when(what)?;
    host.set_up(link.index, true).when(what)?;
    sysctl::set("ipv4/ip_forward", "1")?;
    for node in &underlay.nodes {
        host.replace_route(&via(node.pod_cidr, node.address, &link)).when(what)?;
    }
    route_services(underlay, host, switch)
}

fn via(destination: Ipv4Net, gateway: Ipv4Addr, link: &Link) -> Route {
    Route { destination, gateway: Some(gateway), link: Some(link.index), source: None }
}

/// The host reaches services through the first node whose cable is in.
fn route_services(
    underlay: &Underlay,
    host: &mut Routing,
    switch: &mut Routing,
) -> Result<(), Error> {
    let what = || format!("routing services of cluster {}", underlay.cluster_id);
    let name = host_link(&underlay.cluster_id);
    let link = host.link(&name).when(what)?.ok_or_else(|| vanished(&name))?;
    for (k, node) in (1u32..).zip(&underlay.nodes) {
        if switch.link(&port_name(k)).when(what)?.is_some_and(|port| port.up) {
            return host
                .replace_route(&via(underlay.ranges.services, node.address, &link))
                .when(what);
        }
    }
    Ok(())
}

/// Nodes reach the world as the host does.
fn write_host_rules(underlay: &Underlay) -> Result<(), Error> {
    let table = host_table(&underlay.cluster_id);
    let what = || format!("writing the rule table {table}");
    let mut socket = nft::open().when(what)?;
    let mut batch = Batch::new(&table);
    let hook = Hook { kind: "nat", point: Point::Postrouting, priority: 100 };
    batch.add_table("Atoll: the way out of the nodes on this machine");
    batch.add_chain("postrouting", Some(hook));
    batch.flush_chain("postrouting");
    batch.add_rule("postrouting", |rule| {
        rule.source_in(underlay.ranges.underlay, true)
            .destination_in(underlay.ranges.underlay, false)
            .masquerade();
    });
    batch.commit(&mut socket).when(what)
}

fn switch_port(underlay: &Underlay, node: &str, up: bool) -> Result<(), Error> {
    let what = || format!("switching the cable of {node}");
    underlay.node(node)?;
    let mut switch = netns::in_netns(&underlay.switch(), Routing::open).when(what)?.when(what)?;
    for (k, known) in (1u32..).zip(&underlay.nodes) {
        if known.name == node {
            let name = port_name(k);
            let port = switch.link(&name).when(what)?.ok_or_else(|| vanished(&name))?;
            switch.set_up(port.index, up).when(what)?;
        }
    }
    let mut host = Routing::open().when(what)?;
    route_services(underlay, &mut host, &mut switch)
}

fn remove_locked(run_dir: &Path, cluster_id: &str) -> Result<(), Error> {
    let what = || format!("removing the underlay of cluster {cluster_id}");
    let record = Record::read(run_dir, cluster_id)?;
    let mut host = Routing::open().when(what)?;
    host.delete_link(&host_link(cluster_id)).when(what)?;
    let mut socket = nft::open().when(what)?;
    nft::drop_table(&mut socket, &host_table(cluster_id)).when(what)?;
    let Some(record) = record else {
        return Ok(());
    };
    for node in &record.underlay.nodes {
        netns::remove(&node.netns).when(what)?;
    }
    netns::remove(&record.underlay.switch()).when(what)?;
    Record::delete(run_dir, cluster_id)?;
    hand_forwarding_on(run_dir, &record)?;
    let dir = run_dir.join(cluster_id);
    for empty in [dir.join("netns"), dir] {
        // Others may keep files there; then the folder stays.
        if let Err(error) = std::fs::remove_dir(&empty) {
            tracing::debug!(dir = %empty.display(), %error, "folder stays");
        }
    }
    Ok(())
}

/// The last cluster that goes turns forwarding off if clusters turned it on.
fn hand_forwarding_on(run_dir: &Path, gone: &Record) -> Result<(), Error> {
    if !gone.turned_forwarding_on {
        return Ok(());
    }
    match Record::all(run_dir)?.into_iter().next() {
        Some(mut heir) => {
            heir.turned_forwarding_on = true;
            heir.write()
        }
        None => sysctl::set("ipv4/ip_forward", "0"),
    }
}

fn vanished(link: &str) -> Error {
    Error::LinkVanished { link: link.to_owned() }
}

fn host_link(cluster_id: &str) -> String {
    format!("at-{cluster_id}")
}

fn host_table(cluster_id: &str) -> String {
    format!("atoll-host-{cluster_id}")
}

fn port_name(k: u32) -> String {
    format!("n{k}")
}

impl Underlay {
    fn switch(&self) -> PathBuf {
        self.run_dir.join(&self.cluster_id).join("switch")
    }
}
