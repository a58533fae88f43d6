//! The node's rule table: its fixed frame, and the elements that come and go in it.
//!
//! ```text
//! guard: nothing from a sandbox is for the node's loopback
//! prerouting ─ source is a sandbox → inside ┐ (address, protocol, port) → pick-… chain
//!            └ else                → outside ┤ (protocol, port) on the node → pick-… chain
//! output     ─                     → inside ┘ host ports
//! input, forward, output: new connections to ports without endpoints are refused
//! postrouting: masquerade what is marked, hairpins, and sandboxes' way out
//! ```
//! The table outlives the agent. At a start the frame is written again over the old
//! one, in one transaction; what is remembered for session affinity stays.
//!
//! What one lookup finds is never another one's key: Debian 12's `nft` (1.0.6) ends with an
//! assertion when it prints such a rule. So session affinity is written down behind the
//! translation, where the packet itself has the endpoint's address.

mod picks;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;

use crate::Error;
use crate::error::NetlinkContext as _;
use crate::ipam::{HostPort, Lease};
use crate::netlink::{NetlinkError, Socket, unless};
use crate::nft::{self, Batch, Data, Holds, Hook, Part, Point, Reg, Rule, SetSpec};
use crate::service::{Difference, Front, ListId, Protocol, Set, Side, Value, port_part};
use crate::settings::{Config, Ipv4Net};
use picks::Picks;

/// Stands in the table's comment. A table of another layout is replaced by an empty one,
/// which the first synchronisation fills.
const LAYOUT: &str = "Atoll's addresses of services, layout 2";

/// kube-proxy's bit for packets whose source becomes the node.
const MASQUERADE_MARK: u32 = 0x4000;

const HAIRPINS: &str = "hairpins";
const TARGET: &[Part] = &[Part::Address, Part::Port];

const BEFORE_CONNECTION_TRACKING: i32 = -300;
const NAT_BEFORE_ROUTING: i32 = -100;
const AFTER_DESTINATION_NAT: i32 = -90;
const NAT_AFTER_ROUTING: i32 = 100;

const BASE_CHAINS: [(&str, Hook); 7] = [
    ("guard", hook("filter", Point::Prerouting, BEFORE_CONNECTION_TRACKING)),
    ("prerouting", hook("nat", Point::Prerouting, NAT_BEFORE_ROUTING)),
    ("output", hook("nat", Point::Output, NAT_BEFORE_ROUTING)),
    ("postrouting", hook("nat", Point::Postrouting, NAT_AFTER_ROUTING)),
    ("refuse-input", hook("filter", Point::Input, AFTER_DESTINATION_NAT)),
    ("refuse-forward", hook("filter", Point::Forward, AFTER_DESTINATION_NAT)),
    ("refuse-output", hook("filter", Point::Output, AFTER_DESTINATION_NAT)),
];

const CHAINS: [&str; 7] =
    ["inside", "outside", "host-port", "refuse", "remember", "inside-kept", "outside-kept"];

const FRONTS: [Front; 2] = [Front::Address, Front::NodePort];

const fn hook(kind: &'static str, point: Point, priority: i32) -> Hook {
    Hook { kind, point, priority }
}

/// The rule table of one node.
#[derive(Debug)]
pub(crate) struct Rules {
    socket: Socket,
    table: String,
    /// What of the services is there, so that a change adds only what is new.
    picks: Picks,
}

impl Rules {
    pub(crate) fn open(config: &Config) -> Result<Self, Error> {
        let table = config.node_id.table();
        let socket = nft::open().when(|| format!("reaching nf_tables for {table}"))?;
        Ok(Self { socket, table, picks: Picks::default() })
    }

    /// Writes the frame, and the elements of the leases. Services stay as they are.
    pub(crate) fn write_frame<'a>(
        &mut self,
        config: &Config,
        leases: impl Iterator<Item = &'a Lease> + Clone,
    ) -> Result<(), Error> {
        let what = || format!("writing the rule table {}", self.table);
        let old = nft::table_comment(&mut self.socket, &self.table).when(what)?;
        let outdated = old.is_some_and(|comment| comment.as_deref() != Some(LAYOUT));
        let outcome = match self.try_frame(config, leases.clone(), outdated) {
            // Somebody has changed the kind of a chain or a set.
            Err(error) if error.is(libc::EEXIST) || error.is(libc::EOPNOTSUPP) => {
                self.try_frame(config, leases, true)
            }
            other => other,
        };
        outcome.when(|| format!("writing the rule table {}", self.table))
    }

    fn try_frame<'a>(
        &mut self,
        config: &Config,
        leases: impl Iterator<Item = &'a Lease>,
        anew: bool,
    ) -> Result<(), NetlinkError> {
        let mut batch = Batch::new(&self.table);
        if anew {
            batch.delete_table();
        }
        batch.add_table(LAYOUT);
        add_fixed_sets(&mut batch);
        for (name, hook) in BASE_CHAINS {
            batch.add_chain(name, Some(hook));
            batch.flush_chain(name);
        }
        for name in CHAINS {
            batch.add_chain(name, None);
            batch.flush_chain(name);
        }
        frame_rules(&mut batch, config);
        write_leases(&mut batch, leases);
        batch.commit(&mut self.socket)
    }

    /// Whether the table is there, as it was written.
    pub(crate) fn is_there(&mut self) -> Result<bool, Error> {
        let what = || format!("looking for the rule table {}", self.table);
        let comment = nft::table_comment(&mut self.socket, &self.table).when(what)?;
        let chains = nft::chains(&mut self.socket, &self.table).when(what)?;
        let framed = BASE_CHAINS.iter().all(|(name, _)| chains.iter().any(|chain| chain == name));
        Ok(comment.flatten().as_deref() == Some(LAYOUT) && framed)
    }

    /// Replaces all services in one transaction.
    pub(crate) fn replace_services(&mut self, all: &Difference) -> Result<(), Error> {
        let mut picks = Picks::default();
        let turn = picks.turn(all);
        let mut batch = Batch::new(&self.table);
        picks::add(&mut batch, &turn);
        for set in Set::FIXED.into_iter().chain(turn.new_lists.iter().map(|l| Set::Valid(*l))) {
            batch.flush_set(&set.name());
        }
        add_elements(&mut batch, all);
        batch.commit(&mut self.socket).when(|| format!("writing services into {}", self.table))?;
        self.picks = picks;
        if let Err(error) = self.drop_unused() {
            // Nothing leads to them; the next full synchronisation tries again.
            tracing::warn!(table = self.table, %error, "unused chains and sets stay");
        }
        let mut valid: HashMap<ListId, HashSet<&[u8]>> = HashMap::new();
        for (key, _) in &all.add {
            if let Set::Valid(list) = key.set {
                valid.entry(list).or_default().insert(key.bytes());
            }
        }
        for (list, endpoints) in valid {
            self.forget_clients(list, |endpoint| !endpoints.contains(endpoint))?;
        }
        Ok(())
    }

    fn drop_unused(&mut self) -> Result<(), NetlinkError> {
        let mut batch = Batch::new(&self.table);
        for chain in nft::chains(&mut self.socket, &self.table)? {
            if self.picks.owns_chain(&chain) == Some(false) {
                batch.flush_chain(&chain);
                batch.delete_chain(&chain);
            }
        }
        for set in nft::sets(&mut self.socket, &self.table)? {
            if self.picks.owns_set(&set) == Some(false) {
                batch.delete_set(&set);
            }
        }
        batch.commit(&mut self.socket)
    }

    /// Applies a difference in one transaction.
    pub(crate) fn change_services(&mut self, difference: &Difference) -> Result<(), Error> {
        if difference.is_empty() {
            return Ok(());
        }
        let what = || format!("changing services in {}", self.table);
        let turn = self.picks.turn(difference);
        let mut batch = Batch::new(&self.table);
        picks::add(&mut batch, &turn);
        for set in difference.sets() {
            let keys = difference.delete.iter().filter(|(key, _)| key.set == set);
            batch.delete_elements(&set.name(), keys.map(|(key, _)| key.bytes()));
        }
        add_elements(&mut batch, difference);
        picks::remove(&mut batch, &turn);
        batch.commit(&mut self.socket).when(what)?;
        let mut gone: HashMap<ListId, HashSet<&[u8]>> = HashMap::new();
        for (key, _) in &difference.delete {
            if let Set::Valid(list) = key.set
                && !turn.idle_lists.contains(&list)
            {
                gone.entry(list).or_default().insert(key.bytes());
            }
        }
        for (list, endpoints) in gone {
            self.forget_clients(list, |endpoint| endpoints.contains(endpoint))?;
        }
        Ok(())
    }

    /// Ends the affinity of clients to such endpoints, so that they are kept at others. No
    /// rule keeps a client at what is no endpoint any more, so none comes after this.
    fn forget_clients(
        &mut self,
        list: ListId,
        doomed: impl Fn(&[u8]) -> bool,
    ) -> Result<(), Error> {
        let map = list.affinity();
        let what = || format!("ending session affinity to removed endpoints in {map}");
        let mut clients = nft::elements(&mut self.socket, &self.table, &map).when(what)?;
        clients.retain(|(_, endpoint)| doomed(endpoint));
        for (client, _) in clients {
            let mut batch = Batch::new(&self.table);
            batch.delete_elements(&map, [client.as_slice()]);
            // Its time may have come meanwhile.
            unless(batch.commit(&mut self.socket), &[libc::ENOENT]).when(what)?;
        }
        Ok(())
    }

    /// Hairpins and host ports of exactly these leases, in one transaction.
    pub(crate) fn set_leases<'a>(
        &mut self,
        leases: impl Iterator<Item = &'a Lease>,
    ) -> Result<(), Error> {
        let mut batch = Batch::new(&self.table);
        write_leases(&mut batch, leases);
        batch
            .commit(&mut self.socket)
            .when(|| format!("writing the sandboxes' ports into {}", self.table))
    }

    pub(crate) fn drop_table(&mut self) -> Result<(), Error> {
        nft::drop_table(&mut self.socket, &self.table)
            .when(|| format!("removing the rule table {}", self.table))
    }
}

fn add_fixed_sets(batch: &mut Batch) {
    for set in Set::FIXED {
        let (key, holds) = match set {
            Set::Fronts(_, front) | Set::Kept(_, front) => (front_parts(front), Holds::Verdicts),
            Set::Endpoints(Front::Address, _) => {
                (&[Part::Address, Part::Protocol, Part::Port, Part::Mark][..], Holds::Parts(TARGET))
            }
            Set::Endpoints(Front::NodePort, _) => {
                (&[Part::Protocol, Part::Port, Part::Mark][..], Holds::Parts(TARGET))
            }
            Set::Rejected(front) => (front_parts(front), Holds::Nothing),
            Set::ClusterAddresses => (&[Part::Address][..], Holds::Nothing),
            // Made with its list.
            Set::Valid(_) => continue,
        };
        batch.add_set(&SetSpec { name: &set.name(), key, holds, dynamic: None });
    }
    let hairpins = &[Part::Address, Part::Address];
    batch.add_set(&SetSpec { name: HAIRPINS, key: hairpins, holds: Holds::Nothing, dynamic: None });
    for front in FRONTS {
        batch.add_set(&SetSpec {
            name: host_ports(front),
            key: front_parts(front),
            holds: Holds::Parts(TARGET),
            dynamic: None,
        });
    }
}

fn front_parts(front: Front) -> &'static [Part] {
    match front {
        Front::Address => &[Part::Address, Part::Protocol, Part::Port],
        Front::NodePort => &[Part::Protocol, Part::Port],
    }
}

fn host_ports(front: Front) -> &'static str {
    match front {
        Front::Address => "host-ports",
        Front::NodePort => "node-host-ports",
    }
}

fn frame_rules(batch: &mut Batch, config: &Config) {
    batch.add_rule("prerouting", |rule| {
        rule.source_in(config.cluster_pod_cidr, true).goto("inside");
    });
    batch.add_rule("prerouting", |rule| {
        rule.goto("outside");
    });
    batch.add_rule("output", |rule| {
        rule.goto("inside");
    });
    for (chain, side) in [("inside", Side::Inside), ("outside", Side::Outside)] {
        for front in FRONTS {
            batch.add_rule(chain, |rule| {
                addressed_to(rule, front).verdict_of(&Set::Fronts(side, front).name(), Reg(0));
            });
        }
        batch.add_rule(chain, |rule| {
            rule.jump("host-port");
        });
    }
    // The links of sandboxes with such ports route to loopback addresses, for the answers.
    batch.add_rule("guard", |rule| {
        rule.source_in(config.cluster_pod_cidr, true).destination_in(loopback(), true).drop();
    });
    for front in FRONTS {
        batch.add_rule("host-port", |rule| {
            if front == Front::NodePort {
                rule.destination_is_local();
            }
            front_key(rule, front)
                .lookup(host_ports(front), Reg(0), Reg(8))
                .translate_to(Reg(8), Reg(9));
        });
    }
    refusals(batch, config);
    remember(batch, config);
    way_out(batch, config);
}

/// A client stays where it was just led to, if its service has session affinity.
fn remember(batch: &mut Batch, config: &Config) {
    batch.add_rule("refuse", |rule| {
        rule.is_translated().goto("remember");
    });
    batch.add_rule("remember", |rule| {
        rule.source_in(config.cluster_pod_cidr, true).goto("inside-kept");
    });
    batch.add_rule("remember", |rule| {
        rule.source_is_local().goto("inside-kept");
    });
    batch.add_rule("remember", |rule| {
        rule.goto("outside-kept");
    });
    for (chain, side) in [("inside-kept", Side::Inside), ("outside-kept", Side::Outside)] {
        for front in FRONTS {
            let map = Set::Kept(side, front).name();
            batch.add_rule(chain, |rule| {
                match front {
                    Front::Address => {
                        rule.original_address(Reg(0)).protocol(Reg(1)).original_port(Reg(2))
                    }
                    Front::NodePort => rule.protocol(Reg(0)).original_port(Reg(1)),
                };
                rule.verdict_of(&map, Reg(0));
            });
        }
    }
}

fn refusals(batch: &mut Batch, config: &Config) {
    for chain in ["refuse-input", "refuse-forward", "refuse-output"] {
        batch.add_rule(chain, |rule| {
            rule.is_new().jump("refuse");
        });
    }
    for front in FRONTS {
        refuse(batch, "refuse", |rule| {
            addressed_to(rule, front).in_set(&Set::Rejected(front).name(), Reg(0));
        });
    }
    // A packet that connection tracking does not place in its flow is not translated back
    // either: its receiver would reset a connection that is fine.
    batch.add_rule("refuse-forward", |rule| {
        rule.source_in(config.cluster_pod_cidr, true).is_invalid().drop();
    });
    // What is still addressed to a service now is for a port that it does not have.
    for chain in ["refuse-forward", "refuse-output"] {
        if let Some(dns) = config.dns_address {
            batch.add_rule(chain, |rule| {
                rule.destination_in(Ipv4Net::new(dns, 32), true).accept();
            });
        }
        refuse(batch, chain, |rule| {
            rule.is_new().destination_address(Reg(0));
            rule.in_set(&Set::ClusterAddresses.name(), Reg(0));
        });
        batch.add_rule(chain, |rule| {
            rule.is_new().destination_in(config.service_cidr, true).drop();
        });
    }
}

/// TCP is reset: a socket that is just connecting may miss an ICMP error, and the kernel
/// sends only so many of those.
fn refuse(batch: &mut Batch, chain: &str, matches: impl Fn(&mut Rule<'_>)) {
    batch.add_rule(chain, |rule| {
        matches(rule);
        rule.is_tcp().reset();
    });
    batch.add_rule(chain, |rule| {
        matches(rule);
        rule.reject();
    });
}

fn way_out(batch: &mut Batch, config: &Config) {
    batch.add_rule("postrouting", |rule| {
        rule.marked(MASQUERADE_MARK).set_mark(MASQUERADE_MARK, false).masquerade();
    });
    batch.add_rule("postrouting", |rule| {
        rule.source_address(Reg(0)).destination_address(Reg(1));
        rule.in_set(HAIRPINS, Reg(0)).masquerade();
    });
    // To a host port, from the node's loopback: a sandbox would answer its own.
    batch.add_rule("postrouting", |rule| {
        rule.source_in(loopback(), true).destination_in(config.pod_cidr, true).masquerade();
    });
    batch.add_rule("postrouting", |rule| {
        rule.source_in(config.pod_cidr, true)
            .destination_in(config.cluster_pod_cidr, false)
            .masquerade();
    });
}

/// Loads what the packet is addressed to into the first registers; goes on if it can be
/// of that kind.
fn addressed_to<'r, 'm>(rule: &'r mut Rule<'m>, front: Front) -> &'r mut Rule<'m> {
    if front == Front::NodePort {
        rule.destination_is_local().destination_in(loopback(), false);
    }
    front_key(rule, front)
}

/// What the node has for itself alone.
fn loopback() -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::LOCALHOST, 8)
}

fn front_key<'r, 'm>(rule: &'r mut Rule<'m>, front: Front) -> &'r mut Rule<'m> {
    match front {
        Front::Address => {
            rule.destination_address(Reg(0)).protocol(Reg(1)).destination_port(Reg(2))
        }
        Front::NodePort => rule.protocol(Reg(0)).destination_port(Reg(1)),
    }
}

fn add_elements(batch: &mut Batch, difference: &Difference) {
    for set in difference.sets() {
        let elements = difference.add.iter().filter(|(key, _)| key.set == set);
        batch.add_elements(&set.name(), elements.map(|(key, value)| (key.bytes(), held(*value))));
    }
}

fn held(value: Value) -> Data {
    match value {
        Value::Nothing => Data::Nothing,
        Value::Drop => Data::Drop,
        Value::Pick(chain) => Data::Goto(chain.name()),
        Value::Keep(affinity) => Data::Goto(affinity.name()),
        Value::Endpoint(to) => Data::Bytes([to.ip().octets(), port_part(to.port())].concat()),
    }
}

fn write_leases<'a>(batch: &mut Batch, leases: impl Iterator<Item = &'a Lease>) {
    let mut hairpins = Vec::new();
    let mut ports: [BTreeMap<Vec<u8>, Data>; 2] = Default::default();
    for lease in leases {
        hairpins.push([lease.address.octets(), lease.address.octets()].concat());
        for port in &lease.host_ports {
            let target = [lease.address.octets(), port_part(port.container_port)].concat();
            let of = &mut ports[usize::from(port.host_ip.is_none())];
            // The first one stays: a key that comes twice would refuse the whole table.
            of.entry(host_port_key(port)).or_insert(Data::Bytes(target));
        }
    }
    batch.flush_set(HAIRPINS);
    batch.add_elements(HAIRPINS, hairpins.iter().map(|key| (key.as_slice(), Data::Nothing)));
    for (front, ports) in FRONTS.into_iter().zip(ports) {
        let set = host_ports(front);
        batch.flush_set(set);
        batch.add_elements(set, ports.iter().map(|(key, held)| (key.as_slice(), held.clone())));
    }
}

fn host_port_key(port: &HostPort) -> Vec<u8> {
    let protocol: Protocol = port.protocol;
    let front = [[protocol.number(), 0, 0, 0], port_part(port.host_port)].concat();
    match port.host_ip {
        Some(address) => [address.octets().as_slice(), front.as_slice()].concat(),
        None => front,
    }
}
