//! The EndpointSlices that say the same as an Endpoints object; decides only.

use k8s_openapi::{
    api::{
        core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{Resource, ResourceExt, api::ObjectMeta};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

/// Addresses of one subset that are mirrored. Upstream's default.
pub(super) const ADDRESSES_MAX: usize = 1_000;
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// An Endpoints object that is a lock, from before there were Leases.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that speak of the Endpoints object alone.
const OWN_ANNOTATIONS: [&str; 2] = [
    "endpoints.kubernetes.io/last-change-trigger-time",
    "kubectl.kubernetes.io/last-applied-configuration",
];
const NAME_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

#[derive(Debug)]
pub(super) enum Step {
    Create(EndpointSlice),
    Update(EndpointSlice),
    Delete(Arc<EndpointSlice>),
}

/// Whether the Endpoints are somebody's own: of a Service without selector, and not marked.
pub(super) fn is_custom(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let selector = service.and_then(|service| service.spec.as_ref()).map(|spec| &spec.selector);
    let no_selector =
        selector.is_some_and(|selector| selector.as_ref().is_none_or(BTreeMap::is_empty));
    no_selector
        && endpoints.labels().get(SKIP).map(String::as_str) != Some("true")
        && !endpoints.annotations().contains_key(LEADER)
}

/// Steps towards the mirror of `endpoints`, and how many addresses it leaves out.
pub(super) fn plan(endpoints: &Endpoints, known: &[Arc<EndpointSlice>]) -> (Vec<Step>, usize) {
    let (wanted, skipped) = mirror(endpoints);
    let mut left: Vec<Arc<EndpointSlice>> = known.to_vec();
    let mut steps = Vec::new();
    for mut slice in wanted {
        let fits = |one: &Arc<EndpointSlice>| {
            one.address_type == slice.address_type && one.ports == slice.ports
        };
        let Some(position) = left.iter().position(fits) else {
            steps.push(Step::Create(slice));
            continue;
        };
        let old = left.swap_remove(position);
        let same = old.endpoints == slice.endpoints
            && old.labels() == slice.labels()
            && old.annotations() == slice.annotations();
        if !same {
            slice.metadata.name = old.metadata.name.clone();
            slice.metadata.uid = old.metadata.uid.clone();
            slice.metadata.resource_version = old.metadata.resource_version.clone();
            steps.push(Step::Update(slice));
        }
    }
    steps.extend(left.into_iter().map(Step::Delete));
    (steps, skipped)
}

fn mirror(endpoints: &Endpoints) -> (Vec<EndpointSlice>, usize) {
    // Subsets with the same ports share a slice.
    let mut groups: Vec<(&'static str, Vec<EndpointPort>, Vec<Endpoint>)> = Vec::new();
    let mut skipped = 0;
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        let (mut taken, mut all) = (0, 0);
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let others = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(others) {
            all += 1;
            let Some(family) = family(&address.ip).filter(|_| taken < ADDRESSES_MAX) else {
                continue;
            };
            taken += 1;
            let endpoint = endpoint(address, ready);
            let same = |group: &&mut (&str, Vec<EndpointPort>, Vec<Endpoint>)| {
                group.0 == family && group.1 == ports && group.2.len() < ADDRESSES_MAX
            };
            match groups.iter_mut().find(same) {
                Some(group) => group.2.push(endpoint),
                None => groups.push((family, ports.clone(), vec![endpoint])),
            }
        }
        skipped += all - taken;
    }
    let slices =
        groups.into_iter().enumerate().map(|(position, (family, ports, list))| EndpointSlice {
            metadata: metadata(endpoints, position, family),
            address_type: family.to_owned(),
            ports: Some(ports),
            endpoints: Some(list),
        });
    (slices.collect(), skipped)
}

fn family(address: &str) -> Option<&'static str> {
    match address.parse::<IpAddr>().ok()? {
        IpAddr::V4(_) => Some("IPv4"),
        IpAddr::V6(_) => Some("IPv6"),
    }
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let ports = subset.ports.iter().flatten();
    ports
        .map(|port| EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(port.port),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        })
        .collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn metadata(endpoints: &Endpoints, position: usize, family: &str) -> ObjectMeta {
    let name = endpoints.name_any();
    let mut labels = endpoints.labels().clone();
    labels.remove("endpoints.kubernetes.io/managed-by");
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut annotations = endpoints.annotations().clone();
    annotations.retain(|key, _| !OWN_ANNOTATIONS.contains(&key.as_str()));
    ObjectMeta {
        // A name that follows from what it holds is made once, however late the cache is.
        name: Some(format!("{name}-{}", suffix(endpoints, position, family))),
        generate_name: Some(format!("{name}-")),
        namespace: endpoints.namespace(),
        labels: Some(labels),
        annotations: (!annotations.is_empty()).then_some(annotations),
        owner_references: endpoints
            .controller_owner_ref(&())
            .map(|owner| vec![OwnerReference { block_owner_deletion: Some(true), ..owner }]),
        ..ObjectMeta::default()
    }
}

fn suffix(endpoints: &Endpoints, position: usize, family: &str) -> String {
    let uid = endpoints.uid().unwrap_or_default();
    let digest = Sha256::digest(format!("{uid}/{family}/{position}"));
    let letter = |byte: &u8| char::from(NAME_LETTERS[usize::from(*byte) % NAME_LETTERS.len()]);
    digest.iter().take(5).map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn endpoints(subsets: Value) -> Endpoints {
        serde_json::from_value(json!({
            "metadata": { "name": "e", "namespace": "n", "uid": "u", "labels": { "a": "b" },
                "annotations": { OWN_ANNOTATIONS[1]: "{}", "own": "kept" } },
            "subsets": subsets,
        }))
        .unwrap()
    }

    fn service(selector: Value) -> Service {
        serde_json::from_value(
            json!({ "metadata": { "name": "e" }, "spec": { "selector": selector } }),
        )
        .unwrap()
    }

    fn created(steps: Vec<Step>) -> Vec<Arc<EndpointSlice>> {
        let slice = |step| match step {
            Step::Create(slice) => Arc::new(slice),
            other => panic!("{other:?} instead of a creation"),
        };
        steps.into_iter().map(slice).collect()
    }

    #[test]
    fn only_endpoints_of_services_without_selector_are_mirrored() {
        let own = endpoints(json!([]));
        assert!(is_custom(&own, Some(&service(Value::Null))));
        assert!(!is_custom(&own, Some(&service(json!({ "a": "b" })))));
        assert!(!is_custom(&own, None));
        let mut marked = own;
        marked.labels_mut().insert(SKIP.into(), "true".into());
        assert!(!is_custom(&marked, Some(&service(Value::Null))));
    }

    #[test]
    fn families_and_ports_have_a_slice_each() {
        let subsets = json!([
            { "addresses": [{ "ip": "10.0.0.1", "nodeName": "n1" }, { "ip": "fd00::1" }],
              "notReadyAddresses": [{ "ip": "10.0.0.2" }], "ports": [{ "port": 80 }] },
            { "addresses": [{ "ip": "10.0.0.3" }], "ports": [{ "port": 81, "name": "x" }] },
        ]);
        let (steps, skipped) = plan(&endpoints(subsets.clone()), &[]);
        let slices = created(steps);
        assert_eq!((slices.len(), skipped), (3, 0));
        let first = &slices[0];
        let list = first.endpoints.clone().unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!(first.labels()[SERVICE_NAME], "e");
        assert_eq!(first.labels()["a"], "b");
        assert_eq!(first.annotations().len(), 1);
        let ready = |at: usize| list[at].conditions.as_ref().unwrap().ready;
        assert_eq!((ready(0), ready(1)), (Some(true), Some(false)));
        assert!(plan(&endpoints(subsets), &slices).0.is_empty());
    }

    #[test]
    fn what_is_over_the_limit_is_left_out_and_told() {
        let many: Vec<Value> = (0..1_003_usize)
            .map(|one| json!({ "ip": format!("10.0.{}.{}", one / 250, one % 250) }))
            .collect();
        let subsets = json!([{ "addresses": many, "ports": [{ "port": 80 }] }]);
        let (steps, skipped) = plan(&endpoints(subsets), &[]);
        assert_eq!(skipped, 3);
        assert_eq!(created(steps)[0].endpoints.as_ref().unwrap().len(), ADDRESSES_MAX);
    }

    #[test]
    fn a_slice_that_is_not_wanted_goes() {
        let subsets = json!([{ "addresses": [{ "ip": "10.0.0.1" }], "ports": [{ "port": 80 }] }]);
        let known = created(plan(&endpoints(subsets), &[]).0);
        let (steps, _) = plan(&endpoints(json!([])), &known);
        assert!(matches!(steps.as_slice(), [Step::Delete(_)]));
    }
}
