//! The node's rule table: its fixed frame, and the elements that come and go in it.
//!
//! ```text
//! prerouting ─ source is a sandbox → inside ┐
//!            └ else                → outside ┤ (address, protocol, port) → pick-… chain
//! output     ─                     → inside ┘                            → host-ports
//! input, forward, output: new connections to ports without endpoints are refused
//! postrouting: masquerade what is marked, hairpins, and sandboxes' way out
//! ```
//! The table outlives the agent. At a start the frame is written again over the old
//! one, in one transaction; what is remembered for session affinity stays.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::Error;
use crate::error::NetlinkContext as _;
use crate::ipam::{HostPort, Lease};
use crate::netlink::{NetlinkError, Socket, unless};
use crate::nft::{self, Batch, Data, Holds, Hook, Part, Point, Reg, Rule, SetSpec};
use crate::service::{Chain, Difference, Front, Protocol, Set, Side, Value, halves, port_part};
use crate::settings::Config;

/// kube-proxy's bit for packets whose source becomes the node.
const MASQUERADE_MARK: u32 = 0x4000;

/// Clients remembered for session affinity on one node. Beyond it new clients are
/// spread without being remembered.
const AFFINITY_CLIENTS_MAX: u32 = 262_144;

const AFFINITY: &str = "affinity";
const HAIRPINS: &str = "hairpins";
const HOST_PORTS: &str = "host-ports";
const TARGET: &[Part] = &[Part::Address, Part::Port];
const FRONT: &[Part] = &[Part::Address, Part::Protocol, Part::Port];
const LIST: &[Part] = &[Part::Mark, Part::Mark];

const NAT_BEFORE_ROUTING: i32 = -100;
const AFTER_DESTINATION_NAT: i32 = -90;
const NAT_AFTER_ROUTING: i32 = 100;

const BASE_CHAINS: [(&str, Hook); 6] = [
    ("prerouting", hook("nat", Point::Prerouting, NAT_BEFORE_ROUTING)),
    ("output", hook("nat", Point::Output, NAT_BEFORE_ROUTING)),
    ("postrouting", hook("nat", Point::Postrouting, NAT_AFTER_ROUTING)),
    ("refuse-input", hook("filter", Point::Input, AFTER_DESTINATION_NAT)),
    ("refuse-forward", hook("filter", Point::Forward, AFTER_DESTINATION_NAT)),
    ("refuse-output", hook("filter", Point::Output, AFTER_DESTINATION_NAT)),
];

const CHAINS: [&str; 4] = ["inside", "outside", "refuse", "host-port"];

const fn hook(kind: &'static str, point: Point, priority: i32) -> Hook {
    Hook { kind, point, priority }
}

/// The rule table of one node.
#[derive(Debug)]
pub(crate) struct Rules {
    socket: Socket,
    table: String,
    /// Chains that exist, so that a change adds only new ones.
    picks: BTreeSet<String>,
}

impl Rules {
    pub(crate) fn open(config: &Config) -> Result<Self, Error> {
        let table = config.node_id.table();
        let socket = nft::open().when(|| format!("reaching nf_tables for {table}"))?;
        Ok(Self { socket, table, picks: BTreeSet::new() })
    }

    /// Writes the frame, and the elements of the leases. Services stay as they are.
    pub(crate) fn write_frame<'a>(
        &mut self,
        config: &Config,
        leases: impl Iterator<Item = &'a Lease> + Clone,
    ) -> Result<(), Error> {
        let first = self.try_frame(config, leases.clone());
        let outcome = match first {
            // An older version laid the table out in another way.
            Err(error) if error.is(libc::EEXIST) || error.is(libc::EOPNOTSUPP) => {
                nft::drop_table(&mut self.socket, &self.table)
                    .and_then(|()| self.try_frame(config, leases))
            }
            other => other,
        };
        outcome.when(|| format!("writing the rule table {}", self.table))
    }

    fn try_frame<'a>(
        &mut self,
        config: &Config,
        leases: impl Iterator<Item = &'a Lease>,
    ) -> Result<(), NetlinkError> {
        let mut batch = Batch::new(&self.table);
        batch.add_table();
        for set in sets() {
            batch.add_set(&set);
        }
        for (name, hook) in BASE_CHAINS {
            batch.add_chain(name, Some(hook));
            batch.flush_chain(name);
        }
        for name in CHAINS {
            batch.add_chain(name, None);
            batch.flush_chain(name);
        }
        frame_rules(&mut batch, config);
        batch.flush_set(HAIRPINS);
        batch.flush_set(HOST_PORTS);
        for lease in leases {
            add_lease(&mut batch, lease);
        }
        batch.commit(&mut self.socket)
    }

    /// Replaces all services in one transaction.
    pub(crate) fn replace_services(&mut self, all: &Difference) -> Result<(), Error> {
        let what = || format!("writing all services into {}", self.table);
        let old = nft::chains(&mut self.socket, &self.table).when(what)?;
        let chains = all.chains();
        let mut batch = Batch::new(&self.table);
        for set in Set::ALL {
            batch.flush_set(set.name());
        }
        for chain in &chains {
            write_pick(&mut batch, chain);
        }
        add_elements(&mut batch, all);
        batch.commit(&mut self.socket).when(|| format!("writing services into {}", self.table))?;
        self.picks = chains.iter().map(Chain::name).collect();
        self.drop_unused(old)
    }

    fn drop_unused(&mut self, old: Vec<String>) -> Result<(), Error> {
        let mut batch = Batch::new(&self.table);
        for chain in old {
            if chain.starts_with(Chain::PREFIX) && !self.picks.contains(&chain) {
                batch.flush_chain(&chain);
                batch.delete_chain(&chain);
            }
        }
        batch
            .commit(&mut self.socket)
            .when(|| format!("removing unused chains from {}", self.table))
    }

    /// Applies a difference in one transaction.
    pub(crate) fn change_services(&mut self, difference: &Difference) -> Result<(), Error> {
        if difference.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new(&self.table);
        let mut added = Vec::new();
        for chain in difference.chains() {
            let name = chain.name();
            if !self.picks.contains(&name) {
                write_pick(&mut batch, &chain);
                added.push(name);
            }
        }
        for set in Set::ALL {
            let keys = difference.delete.iter().filter(|key| key.set == set);
            batch.delete_elements(set.name(), keys.map(|key| key.bytes()));
        }
        add_elements(&mut batch, difference);
        batch.commit(&mut self.socket).when(|| format!("changing services in {}", self.table))?;
        self.picks.extend(added);
        Ok(())
    }

    pub(crate) fn add_lease(&mut self, lease: &Lease) -> Result<(), Error> {
        let mut batch = Batch::new(&self.table);
        add_lease(&mut batch, lease);
        batch.commit(&mut self.socket).when(|| format!("adding {} to {}", lease.uid, self.table))
    }

    pub(crate) fn remove_lease(&mut self, lease: &Lease) -> Result<(), Error> {
        let hairpin = hairpin_key(lease.address);
        let ports = lease.host_ports.iter().map(|port| (HOST_PORTS, host_port_key(port).to_vec()));
        for (set, key) in std::iter::once((HAIRPINS, hairpin.to_vec())).chain(ports) {
            let mut batch = Batch::new(&self.table);
            batch.delete_elements(set, [key.as_slice()]);
            unless(batch.commit(&mut self.socket), &[libc::ENOENT])
                .when(|| format!("removing {} from {}", lease.uid, self.table))?;
        }
        Ok(())
    }

    pub(crate) fn drop_table(&mut self) -> Result<(), Error> {
        nft::drop_table(&mut self.socket, &self.table)
            .when(|| format!("removing the rule table {}", self.table))
    }
}

fn sets() -> Vec<SetSpec> {
    let fixed = |name, key, holds| SetSpec { name, key, holds, dynamic: None };
    let mut sets: Vec<_> = Set::ALL
        .into_iter()
        .map(|set| match set {
            Set::Inside | Set::Outside => fixed(set.name(), FRONT, Holds::Verdicts),
            Set::InsideLists | Set::OutsideLists => fixed(set.name(), FRONT, Holds::Parts(LIST)),
            Set::Endpoints => {
                fixed(set.name(), &[Part::Mark, Part::Mark, Part::Mark], Holds::Parts(TARGET))
            }
            Set::Valid => fixed(
                set.name(),
                &[Part::Mark, Part::Mark, Part::Address, Part::Port],
                Holds::Nothing,
            ),
            Set::Rejected => fixed(set.name(), FRONT, Holds::Nothing),
            Set::ClusterAddresses => fixed(set.name(), &[Part::Address], Holds::Nothing),
        })
        .collect();
    sets.push(fixed(HAIRPINS, &[Part::Address, Part::Address], Holds::Nothing));
    sets.push(fixed(HOST_PORTS, FRONT, Holds::Parts(TARGET)));
    sets.push(SetSpec {
        name: AFFINITY,
        key: &[Part::Mark, Part::Mark, Part::Address],
        holds: Holds::Parts(TARGET),
        dynamic: Some(AFFINITY_CLIENTS_MAX),
    });
    sets
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
    for side in [Side::Inside, Side::Outside] {
        let (chain, verdicts) = match side {
            Side::Inside => ("inside", Set::Inside.name()),
            Side::Outside => ("outside", Set::Outside.name()),
        };
        batch.add_rule(chain, |rule| {
            front_key(rule, Front::Address).verdict_of(verdicts, Reg(0));
        });
        batch.add_rule(chain, |rule| {
            node_port(rule).verdict_of(verdicts, Reg(0));
        });
        batch.add_rule(chain, |rule| {
            rule.jump("host-port");
        });
    }
    batch.add_rule("host-port", |rule| {
        front_key(rule, Front::Address)
            .lookup(HOST_PORTS, Reg(0), Reg(8))
            .translate_to(Reg(8), Reg(9));
    });
    batch.add_rule("host-port", |rule| {
        node_port(rule).lookup(HOST_PORTS, Reg(0), Reg(8)).translate_to(Reg(8), Reg(9));
    });
    refusals(batch, config);
    way_out(batch, config);
}

fn refusals(batch: &mut Batch, config: &Config) {
    for chain in ["refuse-input", "refuse-forward", "refuse-output"] {
        batch.add_rule(chain, |rule| {
            rule.is_new(true).jump("refuse");
        });
    }
    refuse(batch, "refuse", |rule| {
        front_key(rule, Front::Address).in_set(Set::Rejected.name(), Reg(0));
    });
    refuse(batch, "refuse", |rule| {
        node_port(rule).in_set(Set::Rejected.name(), Reg(0));
    });
    // What is still addressed to a service now is for a port that it does not have.
    for chain in ["refuse-forward", "refuse-output"] {
        if let Some(dns) = config.dns_address {
            batch.add_rule(chain, |rule| {
                rule.destination_in(crate::Ipv4Net::new(dns, 32), true).accept();
            });
        }
        refuse(batch, chain, |rule| {
            rule.is_new(true).destination_address(Reg(0));
            rule.in_set(Set::ClusterAddresses.name(), Reg(0));
        });
        batch.add_rule(chain, |rule| {
            rule.is_new(true).destination_in(config.service_cidr, true).drop();
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
    batch.add_rule("postrouting", |rule| {
        rule.source_in(config.pod_cidr, true)
            .destination_in(config.cluster_pod_cidr, false)
            .masquerade();
    });
}

/// Loads (address, protocol, port) into the first three registers.
fn front_key<'r, 'm>(rule: &'r mut Rule<'m>, front: Front) -> &'r mut Rule<'m> {
    match front {
        Front::Address => rule.destination_address(Reg(0)),
        Front::NodePort => rule.load([0; 4], Reg(0)),
    };
    rule.protocol(Reg(1)).destination_port(Reg(2))
}

fn node_port<'r, 'm>(rule: &'r mut Rule<'m>) -> &'r mut Rule<'m> {
    let loopback = crate::Ipv4Net::new(Ipv4Addr::LOCALHOST, 8);
    rule.destination_is_local().destination_in(loopback, false);
    front_key(rule, Front::NodePort)
}

/// The chain that sends a connection to one of so many endpoints.
fn write_pick(batch: &mut Batch, chain: &Chain) {
    let name = chain.name();
    batch.add_chain(&name, None);
    batch.flush_chain(&name);
    if chain.masquerade {
        batch.add_rule(&name, |rule| {
            rule.set_mark(MASQUERADE_MARK, true);
        });
    }
    let Some(seconds) = chain.affinity_seconds else {
        batch.add_rule(&name, |rule| {
            pick(rule, chain).translate_to(Reg(8), Reg(9));
        });
        return;
    };
    let kept_ms = u64::from(seconds) * 1000;
    batch.add_rule(&name, |rule| {
        list_of(rule, chain, Reg(4));
        client_key(rule, chain);
        rule.lookup(AFFINITY, Reg(10), Reg(6)).in_set(Set::Valid.name(), Reg(4));
        rule.remember(AFFINITY, Reg(10), Reg(6), kept_ms).translate_to(Reg(6), Reg(7));
    });
    batch.add_rule(&name, |rule| {
        pick(rule, chain);
        client_key(rule, chain);
        // An update leaves the old endpoint in place, so that has to go first.
        rule.forget(AFFINITY, Reg(10), Reg(8)).remember(AFFINITY, Reg(10), Reg(8), kept_ms);
        rule.translate_to(Reg(8), Reg(9));
    });
    // Reached when no more clients can be remembered.
    batch.add_rule(&name, |rule| {
        pick(rule, chain).translate_to(Reg(8), Reg(9));
    });
}

/// Puts a random endpoint of the list into registers 8 and 9.
fn pick<'r, 'm>(rule: &'r mut Rule<'m>, chain: &Chain) -> &'r mut Rule<'m> {
    list_of(rule, chain, Reg(4)).random(chain.endpoints, Reg(6)).lookup(
        Set::Endpoints.name(),
        Reg(4),
        Reg(8),
    )
}

/// Loads (list, client) into registers 10 to 12.
fn client_key(rule: &mut Rule<'_>, chain: &Chain) {
    list_of(rule, chain, Reg(10)).source_address(Reg(12));
}

fn list_of<'r, 'm>(rule: &'r mut Rule<'m>, chain: &Chain, to: Reg) -> &'r mut Rule<'m> {
    let lists = match chain.side {
        Side::Inside => Set::InsideLists,
        Side::Outside => Set::OutsideLists,
    };
    front_key(rule, chain.front).lookup(lists.name(), Reg(0), to)
}

fn add_elements(batch: &mut Batch, difference: &Difference) {
    for set in Set::ALL {
        let elements = difference.add.iter().filter(|(key, _)| key.set == set);
        batch.add_elements(set.name(), elements.map(|(key, value)| (key.bytes(), held(*value))));
    }
}

fn held(value: Value) -> Data {
    match value {
        Value::Nothing => Data::Nothing,
        Value::Drop => Data::Drop,
        Value::Pick(chain) => Data::Goto(chain.name()),
        Value::List(id) => Data::Bytes(halves(id).concat()),
        Value::Endpoint(to) => Data::Bytes([to.ip().octets(), port_part(to.port())].concat()),
    }
}

fn add_lease(batch: &mut Batch, lease: &Lease) {
    batch.add_elements(HAIRPINS, [(hairpin_key(lease.address).as_slice(), Data::Nothing)]);
    for port in &lease.host_ports {
        let target = [lease.address.octets(), port_part(port.container_port)].concat();
        batch.add_elements(HOST_PORTS, [(host_port_key(port).as_slice(), Data::Bytes(target))]);
    }
}

fn hairpin_key(address: Ipv4Addr) -> [u8; 8] {
    let [a, b, c, d] = address.octets();
    [a, b, c, d, a, b, c, d]
}

fn host_port_key(port: &HostPort) -> [u8; 12] {
    let [a, b, c, d] = port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED).octets();
    let [high, low, ..] = port_part(port.host_port);
    let protocol: Protocol = port.protocol;
    [a, b, c, d, protocol.number(), 0, 0, 0, high, low, 0, 0]
}
