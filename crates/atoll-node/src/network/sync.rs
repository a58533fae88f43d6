//! Keeps the node's rules, routes and DNS snapshot equal to the cluster's Services,
//! EndpointSlices and Nodes.
//!
//! Nothing is touched before all lists are complete: half a list would take working
//! services away. Changes that come together are made together.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use atoll_dns::Snapshot;
use atoll_informer::Informer;
use atoll_network::{Ipv4Net, NodeNetwork, Peer, ServicePort};
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::translate;

/// Changes within this time are made in one go.
const GATHER: Duration = Duration::from_millis(20);
/// A synchronisation that failed is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// Nothing tells of rules and routes that others remove: they are looked for this often.
const UPKEEP: Duration = Duration::from_secs(30);

/// What the loop reads and writes.
pub struct Sync {
    pub node_name: String,
    pub services: Arc<Informer<Service>>,
    pub slices: Arc<Informer<EndpointSlice>>,
    pub nodes: Arc<Informer<Node>>,
    pub namespaces: Arc<Informer<Namespace>>,
    pub snapshot: PathBuf,
    pub upstream_dns: Vec<std::net::SocketAddr>,
    pub network: NodeNetwork,
}

#[derive(Default)]
struct Last {
    services: Option<Vec<ServicePort>>,
    peers: Option<Vec<Peer>>,
    snapshot: Option<Snapshot>,
    /// Dead endpoints whose flows are still to be ended.
    gone: Vec<Ipv4Addr>,
}

impl Sync {
    pub async fn run(self, stop: CancellationToken) {
        let changed = Arc::new(Notify::new());
        self.subscribe(&changed);
        tokio::select! {
            () = stop.cancelled() => return,
            () = self.synced() => {}
        }
        let mut last = Last::default();
        let mut upkeep = tokio::time::interval(UPKEEP);
        loop {
            let done = Box::pin(self.once(&mut last)).await;
            if !done {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(RETRY) => continue,
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = changed.notified() => tokio::time::sleep(GATHER).await,
                _ = upkeep.tick() => self.repair().await,
            }
        }
    }

    fn subscribe(&self, changed: &Arc<Notify>) {
        let notify = changed.clone();
        self.services.on_change(move |_| notify.notify_one());
        let notify = changed.clone();
        self.slices.on_change(move |_| notify.notify_one());
        let notify = changed.clone();
        self.namespaces.on_change(move |_| notify.notify_one());
        let notify = changed.clone();
        self.nodes.on_change(move |change| {
            // Nodes report all the time; only their addresses matter here.
            let facts = |node: Option<&Arc<Node>>| node.map(|node| translate::node_facts(node));
            if facts(change.old) != facts(change.new) {
                notify.notify_one();
            }
        });
    }

    async fn synced(&self) {
        self.services.synced().await;
        self.slices.synced().await;
        self.nodes.synced().await;
        self.namespaces.synced().await;
    }

    async fn repair(&self) {
        match self.network.repair().await {
            Ok(missing) if missing.is_empty() => {}
            Ok(missing) => tracing::warn!(?missing, "put back what was removed from the network"),
            Err(error) => _ = failed("the node's network", &error),
        }
    }

    /// Returns whether everything is as it should be.
    async fn once(&self, last: &mut Last) -> bool {
        let peers = translate::peers(&self.nodes.list(), &self.node_name);
        let mut done = true;
        if last.peers.as_ref() != Some(&peers) {
            match self.network.sync_peers(peers.clone()).await {
                Ok(()) => last.peers = Some(peers),
                Err(error) => done = failed("routes", &error),
            }
        }
        done &= self.once_services(last).await;
        let (services, slices) = (self.services.list(), self.slices.list());
        let mut snapshot = translate::snapshot(&services, &slices, &self.namespaces.list());
        snapshot.upstreams.clone_from(&self.upstream_dns);
        if last.snapshot.as_ref() != Some(&snapshot) {
            match snapshot.write(&self.snapshot) {
                Ok(()) => last.snapshot = Some(snapshot),
                Err(error) => done = failed("the DNS snapshot", &error),
            }
        }
        done
    }

    async fn once_services(&self, last: &mut Last) -> bool {
        let (services, slices) = (self.services.list(), self.slices.list());
        let ports = translate::service_ports(&services, &slices, &self.node_name);
        if last.services.as_ref() != Some(&ports) {
            let dead = translate::dead_ranges(&self.nodes.list());
            let old = last.services.as_deref().unwrap_or_default();
            let gone = dead_endpoints(old, &ports, &dead);
            if let Err(error) = self.network.sync_services(ports.clone()).await {
                return failed("services", &error);
            }
            last.services = Some(ports);
            last.gone.extend(gone);
        }
        if !last.gone.is_empty() {
            if let Err(error) = self.network.forget_flows(last.gone.clone()).await {
                return failed("flows", &error);
            }
            last.gone.clear();
        }
        true
    }
}

fn failed(what: &'static str, error: &dyn std::error::Error) -> bool {
    let error = crate::pod::image::with_sources(error);
    tracing::warn!(what, error, "not synchronised; will retry");
    false
}

/// Addresses that no service has any more and whose node is lost: connections to them
/// only hang. Those that left while their pod ends in peace are let finish.
fn dead_endpoints(old: &[ServicePort], new: &[ServicePort], dead: &[Ipv4Net]) -> Vec<Ipv4Addr> {
    let addresses = |ports: &[ServicePort]| {
        let all = ports.iter().flat_map(|port| &port.endpoints);
        all.map(|endpoint| *endpoint.address.ip()).collect::<std::collections::BTreeSet<_>>()
    };
    let gone = addresses(old).difference(&addresses(new)).copied().collect::<Vec<_>>();
    gone.into_iter().filter(|ip| dead.iter().any(|range| range.contains(*ip))).collect()
}
