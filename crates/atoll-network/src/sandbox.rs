//! The link of one sandbox: a veth pair, an address, and one route in each direction.
//!
//! There is no bridge: every packet is routed, so connection tracking sees both
//! directions even between sandboxes of one node.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;

use crate::Error;
use crate::error::{NetlinkContext as _, NetnsContext as _};
use crate::netlink::route::{Link, Route, Routing, Scope};
use crate::netns::in_netns;
use crate::settings::Ipv4Net;
use crate::sysctl;

/// The sandbox's end of its link.
const INSIDE: &str = "eth0";

/// What the link of a sandbox needs.
#[derive(Debug)]
pub(crate) struct Wiring<'a> {
    pub(crate) uid: &'a str,
    pub(crate) netns: &'a Path,
    /// The host's end.
    pub(crate) link: String,
    pub(crate) address: Ipv4Addr,
    /// The node's own address on every such link, and the sandbox's gateway.
    pub(crate) gateway: Ipv4Addr,
    pub(crate) mtu: Option<u32>,
    /// Answers to the node's own loopback are let in: ports of the node lead here.
    pub(crate) to_loopback: bool,
}

/// Makes or completes the link. The host's end comes up last.
pub(crate) fn connect(host: &mut Routing, wiring: &Wiring<'_>) -> Result<(), Error> {
    let what = || format!("connecting the sandbox {} at {}", wiring.uid, wiring.address);
    let mut inside = in_netns(wiring.netns, Routing::open).when(what)?.when(what)?;
    let outer = ensure_pair(host, &mut inside, wiring)?;
    configure_inside(&mut inside, wiring).map_err(|error| match error {
        Error::Netlink { source, .. } => Error::Netlink { what: what(), source },
        other => other,
    })?;
    // Only the sandbox's own address may come out of its link.
    sysctl::set_if_there(&format!("ipv4/conf/{}/rp_filter", outer.name), "1")?;
    let to_loopback = if wiring.to_loopback { "1" } else { "0" };
    sysctl::set_if_there(&format!("ipv4/conf/{}/route_localnet", outer.name), to_loopback)?;
    sysctl::set_if_there(&format!("ipv4/conf/{}/send_redirects", outer.name), "0")?;
    sysctl::set_if_there(&format!("ipv6/conf/{}/disable_ipv6", outer.name), "1")?;
    host.add_address(outer.index, wiring.gateway, 32, Scope::Universe).when(what)?;
    host.set_up(outer.index, true).when(what)?;
    host.replace_route(&Route {
        destination: Ipv4Net::new(wiring.address, 32),
        gateway: None,
        link: Some(outer.index),
        source: Some(wiring.gateway),
    })
    .when(what)
}

/// Removes the link with its addresses and routes.
pub(crate) fn disconnect(host: &mut Routing, link: &str, uid: &str) -> Result<(), Error> {
    host.delete_link(link).when(|| format!("removing the link {link} of the sandbox {uid}"))
}

fn ensure_pair(
    host: &mut Routing,
    inside: &mut Routing,
    wiring: &Wiring<'_>,
) -> Result<Link, Error> {
    let what = || format!("making the link {} of the sandbox {}", wiring.link, wiring.uid);
    let outer = host.link(&wiring.link).when(what)?;
    let inner = inside.link(INSIDE).when(what)?;
    if let (Some(outer), Some(_)) = (outer, inner) {
        return Ok(outer);
    }
    // Half a pair is of a sandbox that was made anew under the same name.
    host.delete_link(&wiring.link).when(what)?;
    inside.delete_link(INSIDE).when(what)?;
    let netns = File::open(wiring.netns).map_err(|source| Error::File {
        action: "opening the network namespace",
        path: wiring.netns.into(),
        source,
    })?;
    host.add_veth(&wiring.link, INSIDE, netns.as_fd(), wiring.mtu).when(what)?;
    host.link(&wiring.link)
        .when(what)?
        .ok_or_else(|| Error::LinkVanished { link: wiring.link.clone() })
}

fn configure_inside(inside: &mut Routing, wiring: &Wiring<'_>) -> Result<(), Error> {
    let what = || String::new();
    for name in ["lo", INSIDE] {
        let link = inside
            .link(name)
            .when(what)?
            .ok_or_else(|| Error::LinkVanished { link: name.to_owned() })?;
        if name == INSIDE {
            inside.add_address(link.index, wiring.address, 32, Scope::Universe).when(what)?;
        }
        inside.set_up(link.index, true).when(what)?;
    }
    let index = inside.link(INSIDE).when(what)?.map(|link| link.index);
    let gateway = Ipv4Net::new(wiring.gateway, 32);
    let direct = Route { destination: gateway, gateway: None, link: index, source: None };
    let default = Route {
        destination: Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 0),
        gateway: Some(wiring.gateway),
        link: index,
        source: None,
    };
    inside.replace_route(&direct).when(what)?;
    inside.replace_route(&default).when(what)
}
