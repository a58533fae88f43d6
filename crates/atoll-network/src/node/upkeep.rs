//! Routes to other nodes, and the repair of what others took away: an administrator's
//! `nft flush ruleset`, or a link that went down and lost its routes.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{info, warn};

use super::state::{State, find_uplink, prepare_lo};
use crate::Error;
use crate::error::NetlinkContext as _;
use crate::netlink::route::Route;
use crate::settings::Peer;

impl State {
    /// One peer that cannot be reached takes no route from the others; the first error is
    /// returned once all are done.
    pub(super) fn sync_peers(&mut self, peers: Vec<Peer>) -> Result<(), Error> {
        self.peers = peers;
        self.write_peers()
    }

    fn write_peers(&mut self) -> Result<(), Error> {
        let wanted = self.wanted_routes();
        let have: BTreeSet<Route> = self.peer_routes()?.into_iter().collect();
        let mut first = Ok(());
        for route in wanted.values().filter(|route| !have.contains(*route)) {
            // It takes the place of another one to the same destination: there is no gap.
            let added = self.routing.replace_route(route);
            if added.is_ok() {
                info!(destination = %route.destination, "route added");
            }
            first = first.and(added.when(|| {
                format!("adding the route to {} by {:?}", route.destination, route.gateway)
            }));
        }
        for route in have.iter().filter(|route| !wanted.contains_key(&route.destination)) {
            let removed = self.routing.delete_route(route);
            first =
                first.and(removed.when(|| format!("removing a route to {}", route.destination)));
            info!(destination = %route.destination, "route removed");
        }
        first
    }

    /// One route for each range. A node says itself which range is its own, so it gets none
    /// that would take other traffic away.
    fn wanted_routes(&self) -> BTreeMap<crate::Ipv4Net, Route> {
        let mut wanted: BTreeMap<crate::Ipv4Net, Route> = BTreeMap::new();
        let cluster = self.config.cluster_pod_cidr;
        for peer in &self.peers {
            if peer.node_address == self.config.node_address {
                continue;
            }
            let destination = peer.pod_cidr;
            let inside =
                cluster.contains(destination.address()) && destination.prefix() >= cluster.prefix();
            let taken = destination.overlaps(&self.config.pod_cidr)
                || wanted.keys().any(|other| other.overlaps(&destination));
            if !inside || taken {
                let why = if inside { "another node has it" } else { "it is not the cluster's" };
                warn!(peer = peer.name, range = %destination, why, "no route to a node's range");
                continue;
            }
            let route = Route {
                destination,
                gateway: Some(peer.node_address),
                link: Some(self.uplink.index),
                source: None,
            };
            wanted.insert(destination, route);
        }
        wanted
    }

    /// Routes of other nodes on this network namespace, if any, have other destinations.
    pub(super) fn peer_routes(&mut self) -> Result<Vec<Route>, Error> {
        let mut routes =
            self.routing.routes().when(|| "listing the routes to other nodes".to_owned())?;
        routes.retain(|route| {
            // The default route overlaps every network and is nobody's podCIDR.
            route.gateway.is_some()
                && self.config.cluster_pod_cidr.contains(route.destination.address())
                && route.destination.prefix() >= self.config.cluster_pod_cidr.prefix()
        });
        Ok(routes)
    }

    /// Puts back what is missing. Returns what that was.
    pub(super) fn repair(&mut self) -> Result<Vec<&'static str>, Error> {
        let mut repaired = Vec::new();
        let uplink = find_uplink(&mut self.routing, &self.config)?;
        if uplink.index != self.uplink.index {
            repaired.push("the uplink is another link");
        }
        self.uplink = uplink;
        let what = || "listing the node's routes".to_owned();
        let routes = self.routing.routes().when(what)?;
        if !routes.contains(&self.service_route()) {
            prepare_lo(&mut self.routing, &self.config)?;
            self.route_services()?;
            repaired.push("the route to the services");
        }
        let wanted = self.wanted_routes();
        if wanted.values().any(|route| !routes.contains(route)) {
            self.write_peers()?;
            repaired.push("routes to other nodes");
        }
        if !self.rules.is_there()? {
            self.write_rules()?;
            repaired.push("the rules");
        }
        Ok(repaired)
    }

    /// The whole table: frame, leases and services.
    fn write_rules(&mut self) -> Result<(), Error> {
        self.rules.write_frame(&self.config, self.pool.all())?;
        match &self.services {
            Some(services) => self.rules.replace_services(&services.all()),
            None => Ok(()),
        }
    }

    /// Replaces all services, in a table that may be gone.
    pub(super) fn replace_services(
        &mut self,
        all: &crate::service::Difference,
    ) -> Result<(), Error> {
        if !self.rules.is_there()? {
            self.rules.write_frame(&self.config, self.pool.all())?;
        }
        self.rules.replace_services(all)
    }
}
