//! EndpointSlices of a Service: at most 100 endpoints each, changed as little as possible.

use super::plan::{Backend, Backends, Port, target_ref};
use crate::{
    error::{Error, failed, gone_is_fine},
    shared::Shared,
};
use atoll_informer::Key;
use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ObjectMeta, PostParams},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

/// Endpoints of one slice, as kube-controller-manager's default.
const ENDPOINTS_MAX: usize = 100;
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";

/// Resource versions of our last writes, so that a cache that lags is not written over.
#[derive(Default)]
pub(super) struct Pending(Mutex<HashMap<Key, Arc<EndpointSlice>>>);

impl Pending {
    /// The slices of a Service: the cache's, or our own newer write of the same slice.
    fn freshest(&self, cached: Vec<Arc<EndpointSlice>>, service: &Key) -> Vec<Arc<EndpointSlice>> {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut slices: BTreeMap<Key, Arc<EndpointSlice>> =
            cached.into_iter().map(|slice| (Key::of(slice.as_ref()), slice)).collect();
        pending.retain(|key, ours| {
            if service_of(ours).as_ref() != Some(service) {
                return true;
            }
            if slices.get(key).is_some_and(|seen| version(seen) >= version(ours)) {
                return false;
            }
            slices.insert(key.clone(), ours.clone());
            true
        });
        slices.into_values().collect()
    }

    fn wrote(&self, slice: EndpointSlice) {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pending.insert(Key::of(&slice), Arc::new(slice));
    }

    fn forget(&self, key: &Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

fn version(slice: &EndpointSlice) -> u64 {
    slice.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// The Service that a slice of ours belongs to.
pub(super) fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let labels = slice.labels();
    (labels.get(MANAGED_BY).map(String::as_str) == Some(MANAGER)).then_some(())?;
    Some(Key::new(slice.namespace().unwrap_or_default(), labels.get(SERVICE_NAME)?))
}

pub(super) async fn sync(
    client: &Client,
    shared: &Shared,
    pending: &Pending,
    service: &Service,
    backends: &Backends,
) -> Result<(), Error> {
    let key = Key::of(service);
    let cached = shared.slices.indexed(0, &format!("{}/{}", key.namespace, key.name));
    let cached = cached.into_iter().filter(|slice| service_of(slice).is_some()).collect();
    let known = pending.freshest(cached, &key);
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), &key.namespace);
    for change in plan(service, &known, backends) {
        apply(&api, pending, change).await?;
    }
    Ok(())
}

#[derive(Debug)]
enum Change {
    Create(Box<EndpointSlice>),
    Replace(Box<EndpointSlice>),
    Delete(Key),
}

async fn apply(api: &Api<EndpointSlice>, pending: &Pending, change: Change) -> Result<(), Error> {
    match change {
        Change::Create(slice) => {
            let name = slice.metadata.generate_name.clone().unwrap_or_default();
            let written = api.create(&PostParams::default(), &slice).await;
            pending.wrote(written.map_err(failed("creating", "endpointslice", name))?);
        }
        Change::Replace(slice) => {
            let name = slice.name_any();
            let written = api.replace(&name, &PostParams::default(), &slice).await;
            if matches!(&written, Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409))
            {
                pending.forget(&Key::of(slice.as_ref()));
            }
            pending.wrote(written.map_err(failed("updating", "endpointslice", name))?);
        }
        Change::Delete(key) => {
            pending.forget(&key);
            let deleted = api.delete(&key.name, &DeleteParams::default()).await;
            gone_is_fine(deleted).map_err(failed("deleting", "endpointslice", key.name))?;
        }
    }
    Ok(())
}

/// Slices with the same ports are filled in their present order, so that one pod's change
/// touches one slice; what is empty afterwards is deleted.
fn plan(service: &Service, known: &[Arc<EndpointSlice>], backends: &Backends) -> Vec<Change> {
    let mut unused: Vec<&Arc<EndpointSlice>> = known.iter().collect();
    let mut changes = Vec::new();
    let empty = BTreeMap::from([(Vec::new(), Vec::new())]);
    // A Service whose pods are all gone keeps one empty slice, as upstream's does.
    let groups = if backends.is_empty() { &empty } else { backends };
    for (ports, group) in groups {
        let (mine, rest): (Vec<_>, Vec<_>) =
            unused.into_iter().partition(|slice| slice_ports(slice) == *ports);
        unused = rest;
        changes.extend(fill(service, ports, group, &mine));
    }
    changes.extend(unused.into_iter().map(|slice| Change::Delete(Key::of(slice.as_ref()))));
    changes
}

fn fill(
    service: &Service,
    ports: &[Port],
    group: &[Backend],
    slices: &[&Arc<EndpointSlice>],
) -> Vec<Change> {
    let mut placed: Vec<Vec<&Backend>> = vec![Vec::new(); slices.len()];
    let mut homeless = Vec::new();
    let homes: HashMap<&str, usize> = slices
        .iter()
        .enumerate()
        .flat_map(|(index, slice)| addresses(slice).map(move |address| (address, index)))
        .collect();
    for backend in group {
        match homes.get(backend.address.as_str()) {
            Some(index) => placed[*index].push(backend),
            None => homeless.push(backend),
        }
    }
    let mut homeless = homeless.into_iter().peekable();
    for slice in &mut placed {
        while slice.len() < ENDPOINTS_MAX && homeless.peek().is_some() {
            slice.extend(homeless.next());
        }
    }
    let mut changes: Vec<Change> = slices
        .iter()
        .zip(&placed)
        .filter_map(|(slice, group)| revise(service, ports, slice, group, slices.len()))
        .collect();
    let rest: Vec<&Backend> = homeless.collect();
    let chunks = rest.chunks(ENDPOINTS_MAX).map(|chunk| build(service, ports, chunk));
    changes.extend(chunks.map(|slice| Change::Create(Box::new(slice))));
    if changes.is_empty() && slices.is_empty() {
        changes.push(Change::Create(Box::new(build(service, ports, &[]))));
    }
    changes
}

fn revise(
    service: &Service,
    ports: &[Port],
    slice: &EndpointSlice,
    group: &[&Backend],
    siblings: usize,
) -> Option<Change> {
    if group.is_empty() && siblings > 1 {
        return Some(Change::Delete(Key::of(slice)));
    }
    let mut wanted = build(service, ports, group);
    let same = wanted.endpoints.as_deref().unwrap_or_default()
        == slice.endpoints.as_deref().unwrap_or_default()
        && wanted.metadata.labels == slice.metadata.labels
        && wanted.ports.as_deref().unwrap_or_default()
            == slice.ports.as_deref().unwrap_or_default();
    if same {
        return None;
    }
    let labels = wanted.metadata.labels.take();
    wanted.metadata = slice.metadata.clone();
    wanted.metadata.labels = labels;
    Some(Change::Replace(Box::new(wanted)))
}

fn addresses(slice: &EndpointSlice) -> impl Iterator<Item = &str> {
    let endpoints = slice.endpoints.iter().flatten();
    endpoints.filter_map(|endpoint| endpoint.addresses.first().map(String::as_str))
}

fn slice_ports(slice: &EndpointSlice) -> Vec<Port> {
    let ports = slice.ports.iter().flatten();
    ports
        .map(|port| Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
            number: port.port.unwrap_or(0),
            app_protocol: port.app_protocol.clone(),
        })
        .collect()
}

fn build(service: &Service, ports: &[Port], group: &[&Backend]) -> EndpointSlice {
    let name = service.name_any();
    let headless =
        service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None");
    let mut labels = service.labels().clone();
    labels.insert(SERVICE_NAME.into(), name.clone());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if headless {
        labels.insert("service.kubernetes.io/headless".into(), String::new());
    }
    let owner = service.controller_owner_ref(&()).map(|mut owner| {
        owner.block_owner_deletion = Some(true);
        vec![owner]
    });
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: service.namespace(),
            labels: Some(labels),
            owner_references: owner,
            ..ObjectMeta::default()
        },
        address_type: "IPv4".into(),
        endpoints: Some(group.iter().map(|backend| endpoint(backend)).collect()),
        ports: Some(ports.iter().map(endpoint_port).collect()),
    }
}

fn endpoint(backend: &Backend) -> Endpoint {
    Endpoint {
        addresses: vec![backend.address.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(backend.ready),
            serving: Some(backend.serving),
            terminating: Some(backend.terminating),
        }),
        hostname: backend.hostname.clone(),
        node_name: backend.node.clone(),
        zone: backend.zone.clone(),
        target_ref: Some(target_ref(backend)),
        ..Endpoint::default()
    }
}

fn endpoint_port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()),
        protocol: Some(port.protocol.clone()),
        port: Some(port.number),
        app_protocol: port.app_protocol.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service() -> Service {
        serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "default", "uid": "s" },
            "spec": { "clusterIP": "10.43.0.5" },
        }))
        .unwrap()
    }

    fn group(count: usize) -> Backends {
        let backends = (0..count).map(|index| Backend {
            address: format!("10.42.0.{index}"),
            pod: format!("p{index:03}"),
            pod_uid: format!("u{index}"),
            namespace: "default".into(),
            node: None,
            zone: None,
            hostname: None,
            ready: true,
            serving: true,
            terminating: false,
        });
        Backends::from([(vec![], backends.collect())])
    }

    fn created(changes: Vec<Change>) -> Vec<Arc<EndpointSlice>> {
        let slices = changes.into_iter().enumerate().map(|(index, change)| match change {
            Change::Create(mut slice) => {
                slice.metadata.name = Some(format!("web-{index}"));
                Arc::new(*slice)
            }
            other => panic!("{other:?}"),
        });
        slices.collect()
    }

    #[test]
    fn large_services_are_split() {
        let slices = created(plan(&service(), &[], &group(250)));
        let sizes: Vec<usize> = slices.iter().map(|slice| addresses(slice).count()).collect();
        assert_eq!(sizes, [100, 100, 50]);
    }

    #[test]
    fn one_pods_change_touches_one_slice() {
        let known = created(plan(&service(), &[], &group(250)));
        let mut after = group(250);
        after.values_mut().next().unwrap()[120].ready = false;
        let changes = plan(&service(), &known, &after);
        assert!(
            matches!(changes.as_slice(), [Change::Replace(slice)] if slice.name_any() == "web-1")
        );
    }

    #[test]
    fn nothing_changed_writes_nothing() {
        let known = created(plan(&service(), &[], &group(3)));
        assert!(plan(&service(), &known, &group(3)).is_empty());
    }

    #[test]
    fn a_service_without_pods_keeps_one_empty_slice() {
        let known = created(plan(&service(), &[], &Backends::new()));
        assert_eq!(known.len(), 1);
        assert!(plan(&service(), &known, &Backends::new()).is_empty());
    }
}
