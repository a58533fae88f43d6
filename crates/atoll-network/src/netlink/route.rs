//! Links, addresses and routes: get-or-create and delete, each repeatable.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{Attributes, Family, Message, NetlinkError, Socket, ne_u32, unless};
use crate::settings::Ipv4Net;

const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DEL_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const DEL_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;

const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
const REPLACE: u16 = 0x100;

const IPV4: u8 = 2;
const UP: u32 = 1;

const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const LINK_MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const LINK_NETNS_FD: u16 = 28;
const LINK_INFO_KIND: u16 = 1;
const LINK_INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;

const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;

const DESTINATION: u16 = 1;
const OUT_LINK: u16 = 4;
const GATEWAY: u16 = 5;
const PREFERRED_SOURCE: u16 = 7;

/// Marks our routes, so that those of others are never removed.
pub(crate) const ROUTE_PROTOCOL: u8 = 0xa7;

/// How far an address or a route's next hop is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Universe = 0,
    Link = 253,
    Host = 254,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AssignedAddress {
    pub(crate) link: u32,
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Route {
    pub(crate) destination: Ipv4Net,
    pub(crate) gateway: Option<Ipv4Addr>,
    pub(crate) link: Option<u32>,
    pub(crate) source: Option<Ipv4Addr>,
}

/// The links, addresses and routes of the namespace the socket was opened in.
#[derive(Debug)]
pub(crate) struct Routing(Socket);

impl Routing {
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        Socket::open(Family::Route).map(Self)
    }

    pub(crate) fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let mut request = Message::new();
        request.begin(GET_LINK, 0, &link_header(0, 0, 0));
        self.0.dump(
            &mut request,
            |kind, body| {
                if kind == NEW_LINK { read_link(body) } else { None }
            },
        )
    }

    /// `None` when there is no link of that name.
    pub(crate) fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut request = Message::new();
        request.begin(GET_LINK, 0, &link_header(0, 0, 0)).text(LINK_NAME, name);
        let mut found = None;
        let got = self.0.get(&mut request, |kind, body| {
            if kind == NEW_LINK {
                found = read_link(body);
            }
        });
        unless(got, &[libc::ENODEV])?;
        Ok(found)
    }

    /// A veth whose peer is in `peer_netns` under `peer_name`. An existing pair stays.
    pub(crate) fn add_veth(
        &mut self,
        name: &str,
        peer_name: &str,
        peer_netns: BorrowedFd<'_>,
        mtu: Option<u32>,
    ) -> Result<(), NetlinkError> {
        let mut request = Message::new();
        let peer_fd = peer_netns.as_raw_fd().cast_unsigned();
        request.begin(NEW_LINK, CREATE | EXCLUSIVE, &link_header(0, 0, 0)).text(LINK_NAME, name);
        if let Some(mtu) = mtu {
            request.ne32(LINK_MTU, mtu);
        }
        request.nest(LINK_INFO, |link| {
            link.text(LINK_INFO_KIND, "veth").nest(LINK_INFO_DATA, |kind| {
                kind.nest(VETH_PEER, |peer| {
                    peer.raw(&link_header(0, 0, 0)).text(LINK_NAME, peer_name);
                    if let Some(mtu) = mtu {
                        peer.ne32(LINK_MTU, mtu);
                    }
                    peer.ne32(LINK_NETNS_FD, peer_fd);
                });
            });
        });
        self.0.request(&mut request)
    }

    pub(crate) fn add_bridge(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut request = Message::new();
        request
            .begin(NEW_LINK, CREATE | EXCLUSIVE, &link_header(0, 0, 0))
            .text(LINK_NAME, name)
            .nest(LINK_INFO, |link| {
                link.text(LINK_INFO_KIND, "bridge");
            });
        unless(self.0.request(&mut request), &[libc::EEXIST])
    }

    pub(crate) fn set_up(&mut self, link: u32, up: bool) -> Result<(), NetlinkError> {
        let mut request = Message::new();
        request.begin(NEW_LINK, 0, &link_header(link, if up { UP } else { 0 }, UP));
        self.0.request(&mut request)
    }

    pub(crate) fn set_master(&mut self, link: u32, bridge: u32) -> Result<(), NetlinkError> {
        let mut request = Message::new();
        request.begin(NEW_LINK, 0, &link_header(link, 0, 0)).ne32(LINK_MASTER, bridge);
        self.0.request(&mut request)
    }

    pub(crate) fn delete_link(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut request = Message::new();
        request.begin(DEL_LINK, 0, &link_header(0, 0, 0)).text(LINK_NAME, name);
        unless(self.0.request(&mut request), &[libc::ENODEV])
    }

    pub(crate) fn addresses(&mut self) -> Result<Vec<AssignedAddress>, NetlinkError> {
        let mut request = Message::new();
        request.begin(GET_ADDRESS, 0, &[IPV4, 0, 0, 0, 0, 0, 0, 0]);
        self.0.dump(
            &mut request,
            |kind, body| {
                if kind == NEW_ADDRESS { read_address(body) } else { None }
            },
        )
    }

    pub(crate) fn add_address(
        &mut self,
        link: u32,
        address: Ipv4Addr,
        prefix: u8,
        scope: Scope,
    ) -> Result<(), NetlinkError> {
        let mut request = Message::new();
        request.begin(NEW_ADDRESS, CREATE | REPLACE, &address_header(link, prefix, scope));
        request.attribute(LOCAL, &address.octets()).attribute(ADDRESS, &address.octets());
        unless(self.0.request(&mut request), &[libc::EEXIST])
    }

    pub(crate) fn delete_address(
        &mut self,
        link: u32,
        address: Ipv4Addr,
        prefix: u8,
    ) -> Result<(), NetlinkError> {
        let mut request = Message::new();
        request.begin(DEL_ADDRESS, 0, &address_header(link, prefix, Scope::Universe));
        request.attribute(LOCAL, &address.octets());
        unless(self.0.request(&mut request), &[libc::EADDRNOTAVAIL, libc::ENODEV])
    }

    /// Our own routes alone.
    pub(crate) fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        Ok(self.all_routes()?.into_iter().filter(|(ours, _)| *ours).map(|(_, r)| r).collect())
    }

    /// The main table; the flag says whether a route is ours.
    pub(crate) fn all_routes(&mut self) -> Result<Vec<(bool, Route)>, NetlinkError> {
        let mut request = Message::new();
        request.begin(GET_ROUTE, 0, &[IPV4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        self.0.dump(
            &mut request,
            |kind, body| {
                if kind == NEW_ROUTE { read_route(body) } else { None }
            },
        )
    }

    pub(crate) fn replace_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let mut request = Message::new();
        let scope = if route.gateway.is_some() { Scope::Universe } else { Scope::Link };
        request.begin(NEW_ROUTE, CREATE | REPLACE, &route_header(route, scope as u8));
        route_attributes(&mut request, route);
        self.0.request(&mut request)
    }

    pub(crate) fn delete_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        const ANY_SCOPE: u8 = 255;
        let mut request = Message::new();
        request.begin(DEL_ROUTE, 0, &route_header(route, ANY_SCOPE));
        route_attributes(&mut request, route);
        unless(self.0.request(&mut request), &[libc::ESRCH, libc::ENODEV])
    }
}

fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn address_header(link: u32, prefix: u8, scope: Scope) -> [u8; 8] {
    let mut header = [IPV4, prefix, 0, scope as u8, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header
}

fn route_header(route: &Route, scope: u8) -> [u8; 12] {
    const MAIN_TABLE: u8 = 254;
    const UNICAST: u8 = 1;
    let prefix = route.destination.prefix();
    [IPV4, prefix, 0, 0, MAIN_TABLE, ROUTE_PROTOCOL, scope, UNICAST, 0, 0, 0, 0]
}

fn route_attributes(request: &mut Message, route: &Route) {
    if route.destination.prefix() > 0 {
        request.attribute(DESTINATION, &route.destination.address().octets());
    }
    if let Some(gateway) = route.gateway {
        request.attribute(GATEWAY, &gateway.octets());
    }
    if let Some(link) = route.link {
        request.ne32(OUT_LINK, link);
    }
    if let Some(source) = route.source {
        request.attribute(PREFERRED_SOURCE, &source.octets());
    }
}

pub(crate) fn read_link(body: &[u8]) -> Option<Link> {
    let attributes = Attributes::after(body, 16);
    Some(Link {
        index: ne_u32(body, 4)?,
        up: ne_u32(body, 8)? & UP != 0,
        name: attributes.text(LINK_NAME)?.to_owned(),
        mtu: attributes.get(LINK_MTU).and_then(|value| ne_u32(value, 0)).unwrap_or(0),
    })
}

pub(crate) fn read_address(body: &[u8]) -> Option<AssignedAddress> {
    let attributes = Attributes::after(body, 8);
    let address = attributes.get(LOCAL).or_else(|| attributes.get(ADDRESS))?;
    Some(AssignedAddress {
        link: ne_u32(body, 4)?,
        prefix: *body.get(1)?,
        address: read_ipv4(address)?,
    })
}

pub(crate) fn read_route(body: &[u8]) -> Option<(bool, Route)> {
    const MAIN_TABLE: u8 = 254;
    let attributes = Attributes::after(body, 12);
    if *body.first()? != IPV4 || *body.get(4)? != MAIN_TABLE {
        return None;
    }
    let destination = match attributes.get(DESTINATION) {
        Some(value) => read_ipv4(value)?,
        None => Ipv4Addr::UNSPECIFIED,
    };
    let route = Route {
        destination: Ipv4Net::new(destination, *body.get(1)?),
        gateway: attributes.get(GATEWAY).and_then(read_ipv4),
        link: attributes.get(OUT_LINK).and_then(|value| ne_u32(value, 0)),
        source: attributes.get(PREFERRED_SOURCE).and_then(read_ipv4),
    };
    Some((*body.get(5)? == ROUTE_PROTOCOL, route))
}

fn read_ipv4(value: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from)
}
