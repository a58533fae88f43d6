//! ServiceCIDRs: ready to give addresses to Services, and kept while an address of theirs is in
//! use that no other one covers.

use crate::{
    error::{Error, failed},
    launch::launch,
    shared::{ClientFor, MANAGER, Shared},
};
use atoll_informer::{Change, Informer, Key, Outcome, WorkQueue};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    runtime::watcher,
};
use serde_json::{Value, json};
use std::{net::IpAddr, sync::Arc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const READY: &str = "Kubernetes Service CIDR is ready";
const IN_USE: &str = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";

struct Controller {
    client: Client,
    cidrs: Arc<Informer<ServiceCIDR>>,
    addresses: Arc<Informer<IPAddress>>,
}

/// What a pass does to a ServiceCIDR.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    AddFinalizer,
    RemoveFinalizer,
    /// The condition `Ready`: its status, reason and message.
    Condition(&'static str, &'static str, &'static str),
}

pub(crate) fn start(
    clients: &ClientFor,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let queue: Arc<WorkQueue<Key>> = WorkQueue::new();
    let controller = Arc::new(Controller {
        client: clients("service-cidrs-controller"),
        cidrs: Informer::new(),
        addresses: Informer::new(),
    });
    let changed = queue.clone();
    let all = controller.cidrs.clone();
    controller.cidrs.on_change(move |_: &Change<'_, ServiceCIDR>| {
        // A new network may cover what keeps another one from going.
        for cidr in all.list() {
            changed.add(Key::of(&*cidr));
        }
    });
    let changed = queue.clone();
    let all = controller.cidrs.clone();
    controller.addresses.on_change(move |change: &Change<'_, IPAddress>| {
        if change.new.is_none() {
            let going = |cidr: &Arc<ServiceCIDR>| cidr.metadata.deletion_timestamp.is_some();
            all.list().iter().filter(|cidr| going(cidr)).for_each(|cidr| {
                changed.add(Key::of(&**cidr));
            });
        }
    });
    let reader = clients(MANAGER);
    let everything = watcher::Config::default();
    let (cidrs, addresses) = (controller.cidrs.clone(), controller.addresses.clone());
    tasks.spawn(cidrs.run(Api::all(reader.clone()), everything.clone(), stop.clone()));
    tasks.spawn(addresses.run(Api::all(reader), everything, stop.clone()));
    launch("servicecidr", 1, &queue, shared, tasks, stop, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        self.cidrs.synced().await;
        self.addresses.synced().await;
        let Some(cidr) = self.cidrs.get(key) else { return Ok(Outcome::Done) };
        let others: Vec<Network> = self
            .cidrs
            .list()
            .iter()
            .filter(|other| stays_beside(other, &cidr))
            .flat_map(|other| networks(other))
            .collect();
        let used: Vec<IpAddr> =
            self.addresses.list().iter().filter_map(|one| one.name_any().parse().ok()).collect();
        for step in plan(&cidr, &others, &used) {
            self.take(&cidr, step).await?;
        }
        Ok(Outcome::Done)
    }

    async fn take(&self, cidr: &ServiceCIDR, step: Step) -> Result<(), Error> {
        let api: Api<ServiceCIDR> = Api::all(self.client.clone());
        let (name, params) = (cidr.name_any(), PatchParams::default());
        let version = cidr.metadata.resource_version.clone();
        let finalizers =
            |list: Vec<&str>| json!({"metadata": {"resourceVersion": version, "finalizers": list}});
        let own = cidr.finalizers().iter().map(String::as_str).filter(|one| *one != FINALIZER);
        let patched = match step {
            Step::AddFinalizer => {
                let body = finalizers(own.chain([FINALIZER]).collect());
                api.patch(&name, &params, &Patch::Merge(body)).await
            }
            Step::RemoveFinalizer => {
                let body = finalizers(own.collect());
                api.patch(&name, &params, &Patch::Merge(body)).await
            }
            Step::Condition(status, reason, message) => {
                let body = json!({"status": {"conditions": [condition(status, reason, message)]}});
                api.patch_status(&name, &params, &Patch::Merge(body)).await
            }
        };
        patched.map_err(failed("updating", "servicecidr", name)).map(|_| ())
    }
}

fn condition(status: &str, reason: &str, message: &str) -> Value {
    let now = jiff::Timestamp::now();
    json!({
        "type": "Ready",
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    })
}

fn plan(cidr: &ServiceCIDR, others: &[Network], used: &[IpAddr]) -> Vec<Step> {
    let finalized = cidr.finalizers().iter().any(|one| one == FINALIZER);
    if cidr.metadata.deletion_timestamp.is_none() {
        let mut steps = Vec::new();
        if !finalized {
            steps.push(Step::AddFinalizer);
        }
        if !has_condition(cidr, "True") {
            steps.push(Step::Condition("True", "", READY));
        }
        return steps;
    }
    if !finalized {
        return Vec::new();
    }
    let own = networks(cidr);
    let holds = |address: &IpAddr| {
        own.iter().any(|network| network.contains(address))
            && !others.iter().any(|network| network.contains(address))
    };
    if !used.iter().any(holds) {
        return vec![Step::RemoveFinalizer];
    }
    if has_condition(cidr, "False") {
        return Vec::new();
    }
    vec![Step::Condition("False", "Terminating", IN_USE)]
}

fn has_condition(cidr: &ServiceCIDR, status: &str) -> bool {
    let conditions = cidr.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == status)
}

fn stays_beside(other: &ServiceCIDR, cidr: &ServiceCIDR) -> bool {
    other.name_any() != cidr.name_any() && other.metadata.deletion_timestamp.is_none()
}

fn networks(cidr: &ServiceCIDR) -> Vec<Network> {
    let texts = cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    texts.filter_map(|text| Network::parse(text)).collect()
}

/// An address and the length of its prefix.
#[derive(Debug, Clone, Copy)]
struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let bits = if address.is_ipv4() { u32::BITS } else { u128::BITS };
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= bits)?;
        Some(Self { address, prefix })
    }

    fn contains(&self, address: &IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let head = |ip: u32| ip.checked_shr(u32::BITS - self.prefix).unwrap_or(0);
                head(own.to_bits()) == head(other.to_bits())
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let head = |ip: u128| ip.checked_shr(u128::BITS - self.prefix).unwrap_or(0);
                head(own.to_bits()) == head(other.to_bits())
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(fields: Value) -> ServiceCIDR {
        serde_json::from_value(fields).unwrap()
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_new_network_is_made_ready() {
        let new = cidr(json!({"metadata": {"name": "a"}, "spec": {"cidrs": ["10.0.0.0/24"]}}));
        let steps = plan(&new, &[], &[]);
        assert_eq!(steps, [Step::AddFinalizer, Step::Condition("True", "", READY)]);
    }

    #[test]
    fn a_network_in_use_stays_until_another_covers_it() {
        let going = cidr(json!({
            "metadata": {"name": "a", "finalizers": [FINALIZER],
                "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"cidrs": ["10.0.0.0/24", "fd00::/64"]},
        }));
        let used = addresses(&["10.0.0.7", "10.9.0.1"]);
        assert_eq!(plan(&going, &[], &used), [Step::Condition("False", "Terminating", IN_USE)]);
        let wider = [Network::parse("10.0.0.0/16").unwrap()];
        assert_eq!(plan(&going, &wider, &used), [Step::RemoveFinalizer]);
        assert_eq!(plan(&going, &[], &addresses(&["10.0.1.7"])), [Step::RemoveFinalizer]);
        assert_eq!(plan(&going, &[], &addresses(&["fd00::1"])).len(), 1);
    }
}
