//! What the elements of the rule table are for one service port: a pure function.
//!
//! A packet finds by (address, protocol, port) a chain that knows how many endpoints
//! there are; the chain draws a number and finds by (address, protocol, port, number) the
//! endpoint. So a change of endpoints is a change of elements alone.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::{Endpoint, ServicePort, TrafficPolicy};
use crate::settings::{base32, stable_hash};

/// The most endpoints of one port; each count in use costs a chain or two. The rest of
/// a longer list gets no connections.
pub(crate) const ENDPOINTS_MAX: usize = 65_536;

/// A day, as in the API. Longer affinity ends then.
const AFFINITY_SECONDS_MAX: u64 = 86_400;

/// The sets and maps that services fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Set {
    /// Front → chain, for traffic of sandboxes and of the node, or from elsewhere.
    Fronts(Side, Front),
    /// Front . number → endpoint.
    Endpoints(Front, Reach),
    /// Front → chain that keeps the client where it was led to.
    Kept(Side, Front),
    /// Fronts of ports without endpoints.
    Rejected(Front),
    /// Addresses on which every port but the known is refused.
    ClusterAddresses,
    /// Endpoints that a client may be kept at.
    Valid(ListId),
}

impl Set {
    /// Those that every table has; the others come and go with services.
    pub(crate) const FIXED: [Self; 15] = [
        Self::Fronts(Side::Inside, Front::Address),
        Self::Fronts(Side::Inside, Front::NodePort),
        Self::Fronts(Side::Outside, Front::Address),
        Self::Fronts(Side::Outside, Front::NodePort),
        Self::Endpoints(Front::Address, Reach::All),
        Self::Endpoints(Front::Address, Reach::Local),
        Self::Endpoints(Front::NodePort, Reach::All),
        Self::Endpoints(Front::NodePort, Reach::Local),
        Self::Kept(Side::Inside, Front::Address),
        Self::Kept(Side::Inside, Front::NodePort),
        Self::Kept(Side::Outside, Front::Address),
        Self::Kept(Side::Outside, Front::NodePort),
        Self::Rejected(Front::Address),
        Self::Rejected(Front::NodePort),
        Self::ClusterAddresses,
    ];

    pub(crate) fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Fronts(Side::Inside, Front::Address) => "inside",
            Self::Fronts(Side::Inside, Front::NodePort) => "node-inside",
            Self::Fronts(Side::Outside, Front::Address) => "outside",
            Self::Fronts(Side::Outside, Front::NodePort) => "node-outside",
            Self::Endpoints(Front::Address, Reach::All) => "endpoints",
            Self::Endpoints(Front::Address, Reach::Local) => "local-endpoints",
            Self::Endpoints(Front::NodePort, Reach::All) => "node-endpoints",
            Self::Endpoints(Front::NodePort, Reach::Local) => "node-local-endpoints",
            Self::Kept(Side::Inside, Front::Address) => "inside-kept",
            Self::Kept(Side::Inside, Front::NodePort) => "node-inside-kept",
            Self::Kept(Side::Outside, Front::Address) => "outside-kept",
            Self::Kept(Side::Outside, Front::NodePort) => "node-outside-kept",
            Self::Rejected(Front::Address) => "rejected",
            Self::Rejected(Front::NodePort) => "node-rejected",
            Self::ClusterAddresses => "cluster-addresses",
            Self::Valid(list) => return Cow::Owned(list.valid()),
        })
    }

    fn key_length(self) -> usize {
        let front = |front| match front {
            Front::Address => 12,
            Front::NodePort => 8,
        };
        match self {
            Self::Fronts(_, of) | Self::Kept(_, of) | Self::Rejected(of) => front(of),
            Self::Endpoints(of, _) => front(of) + 4,
            Self::ClusterAddresses => 4,
            Self::Valid(_) => 8,
        }
    }
}

/// The endpoints of one port that clients are kept at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ListId(u64);

impl ListId {
    /// What the names of its map and its set begin with.
    pub(crate) const PREFIXES: [&str; 2] = ["affinity-", "valid-"];

    fn of(port: &ServicePort, reach: Reach) -> Self {
        let which: &[u8] = match reach {
            Reach::All => b"all",
            Reach::Local => b"local",
        };
        Self(stable_hash(&[port.key.as_bytes(), &[port.protocol.number()], which]))
    }

    /// The map of clients.
    pub(crate) fn affinity(self) -> String {
        format!("affinity-{self}")
    }

    pub(crate) fn valid(self) -> String {
        format!("valid-{self}")
    }
}

impl fmt::Display for ListId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: usize = 13;
        f.write_str(&base32(self.0, DIGITS))
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
    /// address . protocol . port
    Address,
    /// protocol . port, on any local address.
    NodePort,
}

/// Which of a port's endpoints are picked from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reach {
    All,
    /// Those of this node.
    Local,
}

/// A chain that picks one of so many endpoints; shared by all services it fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Chain {
    pub(crate) front: Front,
    pub(crate) reach: Reach,
    pub(crate) masquerade: bool,
    pub(crate) endpoints: u32,
    pub(crate) affinity: Option<Affinity>,
}

/// How long clients are kept at the endpoints of a list. A chain that knows it is its
/// port's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Affinity {
    pub(crate) list: ListId,
    pub(crate) seconds: u32,
}

impl Affinity {
    pub(crate) const PREFIX: &str = "keep-";

    /// Of the chain that keeps clients.
    pub(crate) fn name(&self) -> String {
        format!("{}{}-{}s", Self::PREFIX, self.list, self.seconds)
    }
}

impl Chain {
    pub(crate) const PREFIX: &str = "pick-";

    pub(crate) fn name(&self) -> String {
        let front = match self.front {
            Front::Address => "",
            Front::NodePort => "node-",
        };
        let reach = match self.reach {
            Reach::All => "",
            Reach::Local => "local-",
        };
        let masquerade = if self.masquerade { "masq-" } else { "" };
        let mut name = format!("{}{front}{reach}{masquerade}{}", Self::PREFIX, self.endpoints);
        if let Some(Affinity { list, seconds }) = self.affinity {
            // Writing to a String cannot fail.
            write!(name, "-{list}-{seconds}s").unwrap_or_default();
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
    Keep(Affinity),
    Drop,
    Endpoint(SocketAddrV4),
}

impl Value {
    pub(crate) fn chain(self) -> Option<Chain> {
        match self {
            Self::Pick(chain) => Some(chain),
            _ => None,
        }
    }

    pub(crate) fn kept(self) -> Option<Affinity> {
        match self {
            Self::Keep(affinity) => Some(affinity),
            _ => None,
        }
    }
}

/// One element that a port wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) key: ElementKey,
    pub(crate) value: Value,
    pub(crate) standing: Standing,
}

/// Who keeps what two ports claim: addresses of the cluster's own are stronger than
/// external ones, which anyone may write into a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    Cluster,
    External,
}

/// All elements of the port, in a stable order.
pub(crate) fn plan(port: &ServicePort) -> Vec<Element> {
    let all = sorted(&port.endpoints);
    let local = all.iter().copied().filter(|endpoint| endpoint.local).collect();
    let mut plan = Plan { port, lists: Lists { all, local }, elements: Vec::new() };
    for address in &port.cluster_addresses {
        plan.cluster_address(*address);
    }
    for address in &port.external_addresses {
        plan.external(Place { front: Front::Address, address: *address, port: port.port });
    }
    if let Some(node_port) = port.node_port {
        let address = Ipv4Addr::UNSPECIFIED;
        plan.external(Place { front: Front::NodePort, address, port: node_port });
    }
    plan.valid();
    plan.elements
}

/// What of the port is not done as it says, for the log.
pub(crate) fn shortened(port: &ServicePort) -> Option<&'static str> {
    if port.endpoints.len() > ENDPOINTS_MAX {
        Some("it has more endpoints than one port can, the rest gets no connections")
    } else if port.affinity.is_some_and(|kept| kept.as_secs() > AFFINITY_SECONDS_MAX) {
        Some("its session affinity ends after a day")
    } else {
        None
    }
}

fn sorted(endpoints: &[Endpoint]) -> Vec<Endpoint> {
    let mut sorted = endpoints.to_vec();
    sorted.sort_unstable();
    sorted.dedup_by_key(|endpoint| endpoint.address);
    sorted.truncate(ENDPOINTS_MAX);
    sorted
}

struct Lists {
    all: Vec<Endpoint>,
    local: Vec<Endpoint>,
}

/// Something a packet can be addressed to.
#[derive(Clone, Copy)]
struct Place {
    front: Front,
    address: Ipv4Addr,
    port: u16,
}

struct Plan<'a> {
    port: &'a ServicePort,
    lists: Lists,
    elements: Vec<Element>,
}

impl Plan<'_> {
    fn cluster_address(&mut self, address: Ipv4Addr) {
        let standing = Standing::Cluster;
        self.add(Set::ClusterAddresses, &[address.octets()], Value::Nothing, standing);
        let place = Place { front: Front::Address, address, port: self.port.port };
        if self.lists.all.is_empty() {
            self.reject(place, standing);
            return;
        }
        let reach = reach(self.port.internal_policy);
        self.side(Side::Inside, place, reach, false, standing);
        // The answer would not come back through this node otherwise.
        self.side(Side::Outside, place, reach, true, standing);
        self.endpoints(place, reach, standing);
    }

    fn external(&mut self, place: Place) {
        let standing = Standing::External;
        if self.lists.all.is_empty() {
            self.reject(place, standing);
            return;
        }
        // What comes from inside never was external: as in kube-proxy, it may go anywhere.
        self.side(Side::Inside, place, Reach::All, false, standing);
        self.endpoints(place, Reach::All, standing);
        let reach = reach(self.port.external_policy);
        self.side(Side::Outside, place, reach, reach == Reach::All, standing);
        if reach == Reach::Local {
            self.endpoints(place, reach, standing);
        }
    }

    fn side(
        &mut self,
        side: Side,
        place: Place,
        reach: Reach,
        masquerade: bool,
        standing: Standing,
    ) {
        let (key, length) = self.key(place);
        let set = Set::Fronts(side, place.front);
        let endpoints = u32::try_from(self.list(reach).len()).unwrap_or(u32::MAX);
        if endpoints == 0 {
            self.add(set, &key[..length], Value::Drop, standing);
            return;
        }
        let affinity = self.affinity_seconds().map(|seconds| {
            let list = ListId::of(self.port, reach);
            Affinity { list, seconds }
        });
        let front = place.front;
        let chain = Chain { front, reach, masquerade, endpoints, affinity };
        self.add(set, &key[..length], Value::Pick(chain), standing);
        if let Some(affinity) = affinity {
            let set = Set::Kept(side, place.front);
            self.add(set, &key[..length], Value::Keep(affinity), standing);
        }
    }

    fn affinity_seconds(&self) -> Option<u32> {
        let seconds = |kept: Duration| kept.as_secs().clamp(1, AFFINITY_SECONDS_MAX);
        self.port.affinity.and_then(|kept| u32::try_from(seconds(kept)).ok())
    }

    fn list(&self, reach: Reach) -> &[Endpoint] {
        match reach {
            Reach::All => &self.lists.all,
            Reach::Local => &self.lists.local,
        }
    }

    fn reject(&mut self, place: Place, standing: Standing) {
        let (key, length) = self.key(place);
        self.add(Set::Rejected(place.front), &key[..length], Value::Nothing, standing);
    }

    fn endpoints(&mut self, place: Place, reach: Reach, standing: Standing) {
        let (mut key, length) = self.key(place);
        let addresses: Vec<_> = self.list(reach).iter().map(|endpoint| endpoint.address).collect();
        for (number, address) in (0u32..).zip(addresses) {
            key[length] = number.to_ne_bytes();
            let set = Set::Endpoints(place.front, reach);
            self.add(set, &key[..=length], Value::Endpoint(address), standing);
        }
    }

    /// For affinity: what its chains pick from.
    fn valid(&mut self) {
        let mut used: Vec<(ListId, Reach)> = Vec::new();
        for element in &self.elements {
            if let Value::Pick(Chain { reach, affinity: Some(affinity), .. }) = element.value
                && !used.contains(&(affinity.list, reach))
            {
                used.push((affinity.list, reach));
            }
        }
        for (list, reach) in used {
            let addresses: Vec<_> = self.list(reach).iter().map(|to| to.address).collect();
            for to in addresses {
                let key = [to.ip().octets(), port_part(to.port())];
                self.add(Set::Valid(list), &key, Value::Nothing, Standing::Cluster);
            }
        }
    }

    /// The parts of the key, and how many there are; one more is free for a number.
    fn key(&self, place: Place) -> ([[u8; 4]; 4], usize) {
        let protocol = [self.port.protocol.number(), 0, 0, 0];
        let port = port_part(place.port);
        match place.front {
            Front::Address => ([place.address.octets(), protocol, port, [0; 4]], 3),
            Front::NodePort => ([protocol, port, [0; 4], [0; 4]], 2),
        }
    }

    fn add(&mut self, set: Set, key: &[[u8; 4]], value: Value, standing: Standing) {
        self.elements.push(Element { key: ElementKey::new(set, key), value, standing });
    }
}

fn reach(policy: TrafficPolicy) -> Reach {
    match policy {
        TrafficPolicy::Cluster => Reach::All,
        TrafficPolicy::Local => Reach::Local,
    }
}

/// A port as registers hold it: network order, then zeroes.
pub(crate) fn port_part(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}
