//! The one Endpoints object of a Service, for clients that do not read EndpointSlices.

use super::plan::{Backend, Backends, Port, target_ref};
use crate::error::{Error, failed, gone_is_fine};
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ObjectMeta, PostParams, Preconditions},
};

/// Addresses of one object; more are cut and the object is marked, as upstream does.
const ADDRESSES_MAX: usize = 1_000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";

pub(super) async fn sync(
    client: &Client,
    known: Option<&Endpoints>,
    service: &Service,
    backends: &Backends,
) -> Result<(), Error> {
    let wanted = build(service, backends, known);
    let api: Api<Endpoints> =
        Api::namespaced(client.clone(), &service.namespace().unwrap_or_default());
    let name = service.name_any();
    match known {
        None => {
            let created = api.create(&PostParams::default(), &wanted).await;
            created.map_err(failed("creating", "endpoints", name))?;
        }
        Some(known) if is_same(known, &wanted) => {}
        Some(_) => {
            let replaced = api.replace(&name, &PostParams::default(), &wanted).await;
            replaced.map_err(failed("updating", "endpoints", name))?;
        }
    }
    Ok(())
}

/// Removes the Endpoints of a Service that is gone, if they were ours.
pub(super) async fn remove(client: &Client, known: &Endpoints) -> Result<(), Error> {
    if known.labels().get(MANAGED_BY).map(String::as_str) != Some(MANAGER) {
        return Ok(());
    }
    let api: Api<Endpoints> =
        Api::namespaced(client.clone(), &known.namespace().unwrap_or_default());
    let preconditions = Preconditions { uid: known.uid(), ..Preconditions::default() };
    let params = DeleteParams::default().preconditions(preconditions);
    let deleted = api.delete(&known.name_any(), &params).await;
    gone_is_fine(deleted).map_err(failed("deleting", "endpoints", known.name_any()))?;
    Ok(())
}

fn is_same(known: &Endpoints, wanted: &Endpoints) -> bool {
    known.subsets.as_deref().unwrap_or_default() == wanted.subsets.as_deref().unwrap_or_default()
        && known.labels() == wanted.labels()
        && known.annotations() == wanted.annotations()
}

fn build(service: &Service, backends: &Backends, known: Option<&Endpoints>) -> Endpoints {
    let mut metadata = known.map(|known| known.metadata.clone()).unwrap_or_else(|| ObjectMeta {
        name: Some(service.name_any()),
        namespace: service.namespace(),
        ..ObjectMeta::default()
    });
    let mut labels = service.labels().clone();
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert("service.kubernetes.io/headless".into(), String::new());
    }
    metadata.labels = Some(labels);

    let total: usize = backends.values().map(Vec::len).sum();
    let annotations = metadata.annotations.get_or_insert_default();
    if total > ADDRESSES_MAX {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    let mut room = ADDRESSES_MAX;
    let subsets = backends.iter().filter_map(|(ports, group)| {
        let group = &group[..group.len().min(room)];
        room -= group.len();
        subset(ports, group)
    });
    let subsets: Vec<EndpointSubset> = subsets.collect();
    Endpoints { metadata, subsets: (!subsets.is_empty()).then_some(subsets) }
}

fn subset(ports: &[Port], group: &[Backend]) -> Option<EndpointSubset> {
    // A terminating pod is in neither list: old readers know no third state.
    let staying = || group.iter().filter(|backend| !backend.terminating || backend.ready);
    let ready: Vec<_> = staying().filter(|one| one.ready).map(address).collect();
    let waiting: Vec<_> = staying().filter(|one| !one.ready).map(address).collect();
    if ready.is_empty() && waiting.is_empty() {
        return None;
    }
    let ports: Vec<EndpointPort> = ports
        .iter()
        .map(|port| EndpointPort {
            name: (!port.name.is_empty()).then(|| port.name.clone()),
            protocol: Some(port.protocol.clone()),
            port: port.number,
            app_protocol: port.app_protocol.clone(),
        })
        .collect();
    Some(EndpointSubset {
        addresses: (!ready.is_empty()).then_some(ready),
        not_ready_addresses: (!waiting.is_empty()).then_some(waiting),
        ports: (!ports.is_empty()).then_some(ports),
    })
}

fn address(backend: &Backend) -> EndpointAddress {
    EndpointAddress {
        ip: backend.address.clone(),
        hostname: backend.hostname.clone(),
        node_name: backend.node.clone(),
        target_ref: Some(target_ref(backend)),
    }
}
