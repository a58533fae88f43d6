//! Flows that connection tracking would keep sending to where nobody answers.
//!
//! UDP has no end of a connection, so a client that keeps its socket would talk to a
//! removed endpoint for ever. TCP flows are left to their ends, unless the caller knows
//! an endpoint to be dead.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::netlink::{Attributes, Family, Message, NetlinkError, Socket, unless};
use crate::service::StaleFlows;

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const HEADER: [u8; 4] = [2, 0, 0, 0];
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const UDP: u8 = 17;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuple {
    protocol: u8,
    source: SocketAddrV4,
    destination: SocketAddrV4,
}

/// Deletes the UDP flows to these ports that lead elsewhere than to their endpoints.
/// Ports of the node are those of its `local` addresses.
pub(crate) fn forget_stale(
    ports: &[StaleFlows],
    local: &HashSet<Ipv4Addr>,
) -> Result<usize, NetlinkError> {
    delete_where(|original, reply| {
        original.protocol == UDP && ports.iter().any(|port| is_stale(port, local, original, reply))
    })
}

/// Deletes the flows of all protocols that these addresses take part in.
pub(crate) fn forget_addresses(addresses: &HashSet<Ipv4Addr>) -> Result<usize, NetlinkError> {
    if addresses.is_empty() {
        return Ok(0);
    }
    delete_where(|original, reply| {
        addresses.contains(reply.source.ip()) || addresses.contains(original.source.ip())
    })
}

fn is_stale(port: &StaleFlows, local: &HashSet<Ipv4Addr>, original: &Tuple, reply: &Tuple) -> bool {
    let to = original.destination;
    let ours = (to.port() == port.port && port.addresses.contains(to.ip()))
        || (Some(to.port()) == port.node_port && local.contains(to.ip()));
    ours && !port.endpoints.contains(&reply.source)
}

fn delete_where(chosen: impl Fn(&Tuple, &Tuple) -> bool) -> Result<usize, NetlinkError> {
    let mut socket = Socket::open(Family::Netfilter)?;
    let mut request = Message::new();
    request.begin(GET, 0, &HEADER);
    let doomed = socket.dump(&mut request, |_, body| {
        let flow = Attributes::after(body, HEADER.len());
        let original = read(flow.nested(ORIGINAL))?;
        let reply = read(flow.nested(REPLY))?;
        if !chosen(&original, &reply) {
            return None;
        }
        Some((flow.get(ORIGINAL)?.to_vec(), flow.get(ID)?.to_vec()))
    })?;
    for (tuple, id) in &doomed {
        let mut request = Message::new();
        request.begin(DELETE, 0, &HEADER);
        request
            .nest(ORIGINAL, |copy| {
                copy.raw(tuple);
            })
            .attribute(ID, id);
        // It may have ended by itself.
        unless(socket.request(&mut request), &[libc::ENOENT])?;
    }
    Ok(doomed.len())
}

pub(crate) fn read(tuple: Attributes<'_>) -> Option<Tuple> {
    let ip = tuple.nested(1);
    let transport = tuple.nested(2);
    let address = |kind| {
        let value = <[u8; 4]>::try_from(ip.get(kind)?).ok()?;
        Some(Ipv4Addr::from(value))
    };
    let port = |kind| {
        let value = transport.get(kind).and_then(|value| <[u8; 2]>::try_from(value).ok());
        u16::from_be_bytes(value.unwrap_or_default())
    };
    Some(Tuple {
        protocol: *transport.get(1)?.first()?,
        source: SocketAddrV4::new(address(1)?, port(2)),
        destination: SocketAddrV4::new(address(2)?, port(3)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    #[test]
    fn a_node_port_is_one_of_the_nodes_own_addresses() {
        let port = StaleFlows {
            addresses: HashSet::from([Ipv4Addr::new(10, 43, 0, 20)]),
            port: 53,
            node_port: Some(30_053),
            endpoints: HashSet::from([address("10.42.1.2:5353")]),
        };
        let local = HashSet::from([Ipv4Addr::new(10, 41, 0, 1)]);
        let stale = |to: &str, at: &str| {
            let client = address("10.41.0.9:4000");
            let original = Tuple { protocol: UDP, source: client, destination: address(to) };
            let reply = Tuple { protocol: UDP, source: address(at), destination: client };
            is_stale(&port, &local, &original, &reply)
        };
        assert!(stale("10.43.0.20:53", "10.42.1.9:5353"), "another endpoint");
        assert!(stale("10.43.0.20:53", "10.43.0.20:53"), "not translated");
        assert!(!stale("10.43.0.20:53", "10.42.1.2:5353"));
        assert!(stale("10.41.0.1:30053", "10.41.0.1:30053"), "from before it was a node port");
        assert!(stale("10.41.0.1:30053", "10.42.1.9:5353"));
        assert!(!stale("10.43.0.77:30053", "10.42.1.9:99"), "another service's port");
        assert!(!stale("198.51.100.7:30053", "198.51.100.7:30053"), "a port elsewhere");
    }
}
