//! What has been applied, and the difference that a change makes to it.
//!
//! Two services may claim one address and port; the first keeps it, and the second
//! gets it when the first lets go. What is an address of the cluster for one of them is
//! that one's.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use super::plan::{ElementKey, Set, Standing, Value, plan, shortened};
use super::{Protocol, ServiceChange, ServicePort};

/// The service ports of the node, as applied.
#[derive(Debug, Default, Clone)]
pub(crate) struct Ledger {
    ports: BTreeMap<Arc<str>, Placed>,
    claims: HashMap<ElementKey, Vec<Claim>>,
    arrivals: u64,
}

#[derive(Debug, Clone)]
struct Placed {
    port: ServicePort,
    arrival: u64,
}

/// In a list of claims, the least one counts. All that a port claims for one front has
/// one rank, so a chain never picks from another port's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claim {
    rank: (Standing, u64),
    value: Value,
}

/// Elements to delete, with what they hold, then to add.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) delete: Vec<(ElementKey, Value)>,
    pub(crate) add: Vec<(ElementKey, Value)>,
}

impl Difference {
    /// The sets that elements go to or come from, the fixed ones first.
    pub(crate) fn sets(&self) -> BTreeSet<Set> {
        self.delete.iter().chain(&self.add).map(|(key, _)| key.set).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.delete.is_empty() && self.add.is_empty()
    }
}

/// UDP flows of a port that must go unless they lead to an endpoint it has now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StaleFlows {
    pub(crate) addresses: HashSet<Ipv4Addr>,
    pub(crate) port: u16,
    pub(crate) node_port: Option<u16>,
    pub(crate) endpoints: HashSet<SocketAddrV4>,
}

impl Ledger {
    /// A ledger of exactly these ports.
    pub(crate) fn of(ports: Vec<ServicePort>) -> Self {
        let mut ledger = Self::default();
        for port in ports {
            ledger.set(port);
        }
        ledger
    }

    /// Everything that must stand in the tables.
    pub(crate) fn all(&self) -> Difference {
        let effective = |(key, claims): (&ElementKey, &Vec<Claim>)| {
            claims.first().map(|claim| (*key, claim.value))
        };
        Difference { delete: Vec::new(), add: self.claims.iter().filter_map(effective).collect() }
    }

    /// Makes the changes in order; what they touch is returned once, before and after.
    pub(crate) fn change(&mut self, changes: Vec<ServiceChange>) -> (Difference, Vec<StaleFlows>) {
        let mut before = HashMap::new();
        let mut stale = Vec::new();
        for change in changes {
            let (key, new) = match change {
                ServiceChange::Set(port) => (port.key.clone(), Some(port)),
                ServiceChange::Remove(key) => (key, None),
            };
            let old = self.ports.get(key.as_str()).map(|placed| placed.port.clone());
            if old == new {
                continue;
            }
            stale.extend(stale_flows(old.as_ref(), new.as_ref()));
            for port in old.iter().chain(&new) {
                for element in plan(port) {
                    before.entry(element.key).or_insert_with(|| self.effective(&element.key));
                }
            }
            match new {
                Some(port) => self.set(port),
                None => {
                    self.remove(&key);
                }
            }
        }
        (self.difference(before), stale)
    }

    fn difference(&self, before: HashMap<ElementKey, Option<Value>>) -> Difference {
        let mut difference = Difference::default();
        for (key, old) in before {
            let new = self.effective(&key);
            if old == new {
                continue;
            }
            difference.delete.extend(old.map(|value| (key, value)));
            difference.add.extend(new.map(|value| (key, value)));
        }
        difference
    }

    fn effective(&self, key: &ElementKey) -> Option<Value> {
        self.claims.get(key).and_then(|claims| claims.first()).map(|claim| claim.value)
    }

    /// A port that is there already keeps its place among those that claim the same.
    fn set(&mut self, port: ServicePort) {
        if let Some(short) = shortened(&port) {
            tracing::warn!(service = %port.key, short, "service is not served as it says");
        }
        let arrival = self.remove(&port.key).unwrap_or_else(|| {
            self.arrivals += 1;
            self.arrivals
        });
        for element in plan(&port) {
            let claim = Claim { rank: (element.standing, arrival), value: element.value };
            let claims = self.claims.entry(element.key).or_default();
            let at = claims.partition_point(|other| other.rank <= claim.rank);
            claims.insert(at, claim);
        }
        self.ports.insert(port.key.as_str().into(), Placed { port, arrival });
    }

    fn remove(&mut self, key: &str) -> Option<u64> {
        let Placed { port, arrival } = self.ports.remove(key)?;
        for element in plan(&port) {
            if let Some(claims) = self.claims.get_mut(&element.key) {
                claims.retain(|claim| claim.rank.1 != arrival);
                if claims.is_empty() {
                    self.claims.remove(&element.key);
                }
            }
        }
        Some(arrival)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.ports.keys().map(|key| &**key)
    }

    /// All UDP ports, for the cleaning after a full synchronisation.
    pub(crate) fn udp_flows(&self) -> Vec<StaleFlows> {
        self.ports.values().flat_map(|placed| stale_flows(None, Some(&placed.port))).collect()
    }
}

/// Flows to where the port is still served may lead to its endpoints; those to where it no
/// longer is, to none.
fn stale_flows(old: Option<&ServicePort>, new: Option<&ServicePort>) -> Vec<StaleFlows> {
    let udp = |port: &&ServicePort| port.protocol == Protocol::Udp;
    let fronts = |port: &ServicePort, endpoints| StaleFlows {
        addresses: port.cluster_addresses.iter().chain(&port.external_addresses).copied().collect(),
        port: port.port,
        node_port: port.node_port,
        endpoints,
    };
    let mut stale = Vec::new();
    if let Some(port) = new.filter(udp) {
        let endpoints = port.endpoints.iter().map(|endpoint| endpoint.address).collect();
        stale.push(fronts(port, endpoints));
    }
    if let Some(port) = old.filter(udp) {
        let mut former = fronts(port, HashSet::new());
        if let Some(kept) = stale.first() {
            former.addresses.retain(|to| kept.port != port.port || !kept.addresses.contains(to));
            former.node_port = former.node_port.filter(|_| former.node_port != kept.node_port);
        }
        if !former.addresses.is_empty() || former.node_port.is_some() {
            stale.push(former);
        }
    }
    stale
}
