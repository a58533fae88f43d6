//! What the elements of the rule table are for one service port: a pure function.
//!
//! A packet finds by (address, protocol, port) a chain that knows how many endpoints
//! there are, and the id of the list they are in; the chain picks a number and finds
//! (id, number) the endpoint. So a change of endpoints is a change of elements alone.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Endpoint, ServicePort, TrafficPolicy};
use crate::Error;
use crate::settings::stable_hash;

/// The most endpoints of one port; each count in use costs a chain or two.
pub(crate) const ENDPOINTS_MAX: usize = 65_536;

const AFFINITY_SECONDS_MAX: u64 = 86_400;

/// The sets and maps that services fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Set {
    /// address . protocol . port → chain, for traffic of sandboxes and of the node.
    Inside,
    /// address . protocol . port → list.
    InsideLists,
    /// The same two for traffic from elsewhere.
    Outside,
    OutsideLists,
    /// list . number → endpoint.
    Endpoints,
    /// list . endpoint, for affinity: whether a remembered endpoint is still one.
    Valid,
    /// address . protocol . port of ports without endpoints.
    Rejected,
    /// Addresses on which every port but the known is refused.
    ClusterAddresses,
}

impl Set {
    pub(crate) const ALL: [Self; 8] = [
        Self::Inside,
        Self::InsideLists,
        Self::Outside,
        Self::OutsideLists,
        Self::Endpoints,
        Self::Valid,
        Self::Rejected,
        Self::ClusterAddresses,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Inside => "inside",
            Self::InsideLists => "inside-lists",
            Self::Outside => "outside",
            Self::OutsideLists => "outside-lists",
            Self::Endpoints => "endpoints",
            Self::Valid => "valid",
            Self::Rejected => "rejected",
            Self::ClusterAddresses => "cluster-addresses",
        }
    }

    fn key_length(self) -> usize {
        match self {
            Self::Valid => 16,
            Self::ClusterAddresses => 4,
            _ => 12,
        }
    }
}

/// Where a packet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Side {
    Inside,
    Outside,
}

/// What a packet is addressed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Front {
    Address,
    /// Any local address; the key then has 0.0.0.0.
    NodePort,
}

/// A chain that picks one of so many endpoints; shared by all services it fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Chain {
    pub(crate) side: Side,
    pub(crate) front: Front,
    pub(crate) masquerade: bool,
    pub(crate) endpoints: u32,
    pub(crate) affinity_seconds: Option<u32>,
}

impl Chain {
    pub(crate) const PREFIX: &str = "pick-";

    pub(crate) fn name(&self) -> String {
        let side = match self.side {
            Side::Inside => "in",
            Side::Outside => "out",
        };
        let front = match self.front {
            Front::Address => "",
            Front::NodePort => "-node",
        };
        let masquerade = if self.masquerade { "-masq" } else { "" };
        let mut name = format!("{}{side}{front}{masquerade}-{}", Self::PREFIX, self.endpoints);
        if let Some(seconds) = self.affinity_seconds {
            // Writing to a String cannot fail.
            write!(name, "-{seconds}s").unwrap_or_default();
        }
        name
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ElementKey {
    pub(crate) set: Set,
    bytes: [u8; 16],
}

impl ElementKey {
    fn new(set: Set, parts: &[[u8; 4]]) -> Self {
        let mut bytes = [0; 16];
        for (slot, part) in bytes.chunks_exact_mut(4).zip(parts) {
            slot.copy_from_slice(part);
        }
        Self { set, bytes }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.set.key_length()]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    Nothing,
    Pick(Chain),
    Drop,
    List(u64),
    Endpoint(SocketAddrV4),
}

pub(crate) type Elements = Vec<(ElementKey, Value)>;

/// All elements of the port, in a stable order.
pub(crate) fn plan(port: &ServicePort) -> Result<Elements, Error> {
    check(port)?;
    let mut plan = Plan { port, elements: Vec::new() };
    let all = sorted(&port.endpoints);
    let local: Vec<_> = all.iter().copied().filter(|endpoint| endpoint.local).collect();
    let lists = Lists { all: List::new(port, "all", all), local: List::new(port, "local", local) };
    for address in &port.cluster_addresses {
        plan.cluster_address(*address, &lists);
    }
    for address in &port.external_addresses {
        plan.external(Front::Address, *address, port.port, &lists);
    }
    if let Some(node_port) = port.node_port {
        plan.external(Front::NodePort, Ipv4Addr::UNSPECIFIED, node_port, &lists);
    }
    if !plan.elements.is_empty() {
        plan.list(&lists.all);
        let local_used = port.internal_policy == TrafficPolicy::Local
            || port.external_policy == TrafficPolicy::Local;
        if local_used {
            plan.list(&lists.local);
        }
    }
    Ok(plan.elements)
}

fn check(port: &ServicePort) -> Result<(), Error> {
    if port.endpoints.len() > ENDPOINTS_MAX {
        let count = port.endpoints.len();
        return Err(Error::TooManyEndpoints { key: port.key.clone(), count });
    }
    if port.affinity.is_some_and(|kept| kept.as_secs() > AFFINITY_SECONDS_MAX) {
        return Err(Error::AffinityTooLong { key: port.key.clone() });
    }
    Ok(())
}

fn sorted(endpoints: &[Endpoint]) -> Vec<Endpoint> {
    let mut sorted = endpoints.to_vec();
    sorted.sort_unstable();
    sorted.dedup_by_key(|endpoint| endpoint.address);
    sorted
}

struct Lists {
    all: List,
    local: List,
}

struct List {
    id: u64,
    endpoints: Vec<Endpoint>,
}

impl List {
    fn new(port: &ServicePort, which: &str, endpoints: Vec<Endpoint>) -> Self {
        let protocol = [port.protocol.number()];
        let id = stable_hash(&[port.key.as_bytes(), &protocol, which.as_bytes()]);
        Self { id, endpoints }
    }

    fn length(&self) -> u32 {
        u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX)
    }
}

struct Plan<'a> {
    port: &'a ServicePort,
    elements: Elements,
}

impl Plan<'_> {
    fn cluster_address(&mut self, address: Ipv4Addr, lists: &Lists) {
        self.add(Set::ClusterAddresses, &[address.octets()], Value::Nothing);
        let list = match self.port.internal_policy {
            TrafficPolicy::Cluster => &lists.all,
            TrafficPolicy::Local => &lists.local,
        };
        let port = self.port.port;
        if lists.all.endpoints.is_empty() {
            self.reject(address, port);
            return;
        }
        self.front(Side::Inside, Front::Address, address, port, list, false);
        // The answer would not come back through this node otherwise.
        self.front(Side::Outside, Front::Address, address, port, list, true);
    }

    fn external(&mut self, front: Front, address: Ipv4Addr, port: u16, lists: &Lists) {
        if lists.all.endpoints.is_empty() {
            self.reject(address, port);
            return;
        }
        // What comes from inside never was external: as in kube-proxy, it may go anywhere.
        self.front(Side::Inside, front, address, port, &lists.all, false);
        match self.port.external_policy {
            TrafficPolicy::Cluster => {
                self.front(Side::Outside, front, address, port, &lists.all, true);
            }
            TrafficPolicy::Local => {
                self.front(Side::Outside, front, address, port, &lists.local, false);
            }
        }
    }

    fn front(
        &mut self,
        side: Side,
        front: Front,
        address: Ipv4Addr,
        port: u16,
        list: &List,
        masquerade: bool,
    ) {
        let (verdicts, ids) = match side {
            Side::Inside => (Set::Inside, Set::InsideLists),
            Side::Outside => (Set::Outside, Set::OutsideLists),
        };
        let key = self.key(address, port);
        if list.endpoints.is_empty() {
            self.add(verdicts, &key, Value::Drop);
            return;
        }
        let affinity_seconds =
            self.port.affinity.map(|kept| u32::try_from(kept.as_secs()).unwrap_or(u32::MAX).max(1));
        let endpoints = list.length();
        let chain = Chain { side, front, masquerade, endpoints, affinity_seconds };
        self.add(verdicts, &key, Value::Pick(chain));
        self.add(ids, &key, Value::List(list.id));
    }

    fn reject(&mut self, address: Ipv4Addr, port: u16) {
        let key = self.key(address, port);
        self.add(Set::Rejected, &key, Value::Nothing);
    }

    fn list(&mut self, list: &List) {
        let [high, low] = halves(list.id);
        for (number, endpoint) in (0u32..).zip(&list.endpoints) {
            let key = [high, low, number.to_ne_bytes()];
            self.add(Set::Endpoints, &key, Value::Endpoint(endpoint.address));
            if self.port.affinity.is_some() {
                let address = endpoint.address.ip().octets();
                let key = [high, low, address, port_part(endpoint.address.port())];
                self.add(Set::Valid, &key, Value::Nothing);
            }
        }
    }

    fn key(&self, address: Ipv4Addr, port: u16) -> [[u8; 4]; 3] {
        [address.octets(), [self.port.protocol.number(), 0, 0, 0], port_part(port)]
    }

    fn add(&mut self, set: Set, key: &[[u8; 4]], value: Value) {
        self.elements.push((ElementKey::new(set, key), value));
    }
}

/// A port as registers hold it: network order, then zeroes.
pub(crate) fn port_part(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

pub(crate) fn halves(id: u64) -> [[u8; 4]; 2] {
    let [a, b, c, d, e, f, g, h] = id.to_ne_bytes();
    [[a, b, c, d], [e, f, g, h]]
}
