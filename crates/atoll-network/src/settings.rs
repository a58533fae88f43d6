//! What a node's network is told: its name, its addresses and its neighbours.
//!
//! Every value comes from outside; this crate has no address of its own.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The network of one node.
#[derive(Debug, Clone)]
pub struct Config {
    /// Stands in the name of every link and table, so that two nodes on one network
    /// namespace, of one cluster or of two, never meet.
    pub node_id: NodeId,
    /// The node's address among its peers. It must be on one of the node's links.
    pub node_address: Ipv4Addr,
    /// The addresses of this node's sandboxes. The first is the node's own end.
    pub pod_cidr: Ipv4Net,
    /// The sandboxes of all nodes: traffic to them keeps its source address.
    pub cluster_pod_cidr: Ipv4Net,
    pub service_cidr: Ipv4Net,
    /// Put on the node's `lo`, for the cluster's DNS to listen on.
    pub dns_address: Option<Ipv4Addr>,
    /// A file per lease; created when missing. Leases outlive the agent, not the node.
    pub ipam_dir: PathBuf,
    /// Of the links into sandboxes; that of the uplink when `None`.
    pub mtu: Option<u32>,
}

/// Six characters that stand for a cluster and a node in names of at most 15.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(String);

impl NodeId {
    /// The same for the same cluster and node, on every machine and in every version.
    pub fn derive(cluster: &str, node: &str) -> Self {
        let hash = stable_hash(&[cluster.as_bytes(), node.as_bytes()]);
        Self(base32(hash, 6))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host's end of a sandbox's link: `a` + node + sandbox, 15 characters.
    pub(crate) fn link(&self, uid: &str) -> String {
        format!("a{}{}", self.0, base32(stable_hash(&[uid.as_bytes()]), 8))
    }

    /// What all of this node's links begin with.
    pub(crate) fn link_prefix(&self) -> String {
        format!("a{}", self.0)
    }

    pub(crate) fn table(&self) -> String {
        format!("atoll-{}", self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Another node, reached directly on the same layer 2.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    pub name: String,
    pub node_address: Ipv4Addr,
    pub pod_cidr: Ipv4Net,
}

/// An IPv4 network in CIDR form; the address is always the network's first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Net {
    address: Ipv4Addr,
    prefix: u8,
}

/// A text that is no IPv4 network.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an IPv4 network; write one as 10.42.0.0/16")]
pub struct ParseNetError(String);

impl Ipv4Net {
    /// Host bits of `address` are cleared; `prefix` beyond 32 counts as 32.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self { address: Ipv4Addr::from_bits(address.to_bits() & mask_of(prefix)), prefix }
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(mask_of(self.prefix))
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask_of(self.prefix) == self.address.to_bits()
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// The address at `index`, counted from the network's own.
    pub fn nth(&self, index: u32) -> Option<Ipv4Addr> {
        let size = 1u64 << (32 - u32::from(self.prefix));
        if u64::from(index) >= size {
            return None;
        }
        self.address.to_bits().checked_add(index).map(Ipv4Addr::from_bits)
    }

    /// How many addresses it holds, network and broadcast included.
    pub fn size(&self) -> u64 {
        1 << (32 - u32::from(self.prefix))
    }
}

fn mask_of(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Ipv4Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Debug for Ipv4Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Ipv4Net {
    type Err = ParseNetError;

    fn from_str(text: &str) -> Result<Self, ParseNetError> {
        let fault = || ParseNetError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(fault)?;
        let plain = prefix == "0" || prefix.starts_with(|first| matches!(first, '1'..='9'));
        let prefix = prefix.parse().ok().filter(|p| *p <= 32 && plain).ok_or_else(fault)?;
        let address: Ipv4Addr = address.parse().ok().ok_or_else(fault)?;
        Ok(Self::new(address, prefix))
    }
}

impl TryFrom<String> for Ipv4Net {
    type Error = ParseNetError;

    fn try_from(text: String) -> Result<Self, ParseNetError> {
        text.parse()
    }
}

impl From<Ipv4Net> for String {
    fn from(net: Ipv4Net) -> Self {
        net.to_string()
    }
}

/// FNV-1a with a final mix: names must stay the same across versions, which the
/// standard library's hasher does not promise.
pub(crate) fn stable_hash(parts: &[&[u8]]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for byte in part.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

pub(crate) fn base32(mut hash: u64, length: usize) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut text = String::with_capacity(length);
    for _ in 0..length {
        text.push(char::from(DIGITS[usize::try_from(hash & 31).unwrap_or(0)]));
        hash >>= 5;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_clears_its_host_bits() {
        let net: Ipv4Net = "10.42.3.7/24".parse().unwrap();
        assert_eq!(net.to_string(), "10.42.3.0/24");
        assert!(net.contains(Ipv4Addr::new(10, 42, 3, 255)));
        assert!(!net.contains(Ipv4Addr::new(10, 42, 4, 0)));
        assert_eq!(net.nth(255), Some(Ipv4Addr::new(10, 42, 3, 255)));
        assert_eq!(net.nth(256), None);
    }

    #[test]
    fn the_whole_space_and_one_address_are_networks() {
        let all: Ipv4Net = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains(Ipv4Addr::BROADCAST));
        let one: Ipv4Net = "10.0.0.1/32".parse().unwrap();
        assert!(one.contains(Ipv4Addr::new(10, 0, 0, 1)) && !one.contains(Ipv4Addr::UNSPECIFIED));
        assert!(all.overlaps(&one) && one.overlaps(&all));
    }

    #[test]
    fn refuses_what_is_no_network() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0/8",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "10.0.0.010/8",
            "::/0",
        ] {
            assert_eq!(text.parse::<Ipv4Net>(), Err(ParseNetError(text.to_owned())));
        }
    }

    #[test]
    fn link_names_fit_the_kernel_and_differ_by_cluster_node_and_sandbox() {
        let one = NodeId::derive("c1", "node-1");
        assert_eq!(one.link("uid").len(), 15);
        assert_ne!(one, NodeId::derive("c2", "node-1"));
        assert_ne!(one, NodeId::derive("c1", "node-2"));
        assert_ne!(one.link("a"), one.link("b"));
        assert!(one.link("a").starts_with(&one.link_prefix()));
    }
}
