//! The objects that every cluster begins with: its namespaces, and the Service by which pods
//! find the API.

use std::sync::Arc;

use atoll_api::kinds::{self, ResourceInfo, metadata};
use serde_json::{Value, json};

use crate::allocate;
use crate::core::Core;
use crate::servers::{endpoints, presence};
use crate::status::Status;
use crate::storage::{self, Extra};

/// Namespaces that every cluster has.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// Priorities of the cluster's own pods; upstream's words.
const PRIORITY_CLASSES: [(&str, i64, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another \
         node if necessary.",
    ),
];
/// The port of the Service `default/kubernetes`.
const API_PORT: u16 = 443;

/// Puts the API's own Service and its endpoints back whenever somebody deletes them: pods find
/// the API by them.
pub(crate) async fn keep(core: Arc<Core>) {
    let caches = [("", "services"), ("", "endpoints"), ("discovery.k8s.io", "endpointslices")]
        .map(|(group, resource)| core.registry.objects(group, resource));
    let [Some(services), Some(endpoints), Some(slices)] = caches else { return };
    let (mut a, mut b, mut c) = (services.subscribe(), endpoints.subscribe(), slices.subscribe());
    loop {
        let changed = tokio::select! {
            () = core.stop.cancelled() => return,
            changed = a.changed() => changed,
            changed = b.changed() => changed,
            changed = c.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        let all = [&services, &endpoints, &slices];
        if all.iter().any(|cache| cache.get("default", "kubernetes").is_none())
            && let Err(error) = own_service(&core).await
        {
            tracing::warn!(%error, "the Service of the API could not be put back");
        }
    }
}

async fn own_service(core: &Core) -> Result<(), Status> {
    service(core).await?;
    endpoints::write(core).await
}

pub(crate) async fn create(core: &Core) -> Result<(), Status> {
    let mut objects: Vec<(&'static ResourceInfo, &str, &str, Value)> = Vec::new();
    for name in NAMESPACES {
        objects.push((row("", "namespaces")?, "", name, json!({})));
    }
    for (name, value, description) in PRIORITY_CLASSES {
        let class = json!({"value": value, "description": description});
        objects.push((row("scheduling.k8s.io", "priorityclasses")?, "", name, class));
    }
    let mut batch = Vec::new();
    for (row, namespace, name, object) in objects {
        if exists(core, row, namespace, name) {
            continue;
        }
        let object = complete(core, row, namespace, name, object);
        batch.push((storage::key(row, namespace, name), storage::encode(row, &object)?));
    }
    let cidrs = row(allocate::NETWORKING, "servicecidrs")?;
    if !exists(core, cidrs, "", "kubernetes") {
        let key = storage::key(cidrs, "", "kubernetes");
        batch.push((key, storage::encode(cidrs, &service_cidr(core, cidrs))?));
    }
    core.storage.ensure(batch).await?;
    service(core).await?;
    // With others there the endpoints are theirs too: they are written once this one is known.
    if let Some(servers) = &core.config.servers
        && presence::present(core).await?.keys().any(|name| *name != servers.name)
    {
        return Ok(());
    }
    endpoints::write(core).await
}

/// The network of the server's settings, as an object; upstream's name and words.
fn service_cidr(core: &Core, row: &ResourceInfo) -> Value {
    let spec = json!({"spec": {"cidrs": [core.config.service_cidr.to_string()]}});
    let mut object = complete(core, row, "", "kubernetes", spec);
    metadata::of(&mut object)
        .insert("finalizers".to_owned(), json!(["networking.k8s.io/service-cidr-finalizer"]));
    object["status"] = json!({"conditions": [{
        "type": "Ready",
        "status": "True",
        "reason": "",
        "message": "Kubernetes default Service CIDR is ready",
        "lastTransitionTime": core.now_text(),
    }]});
    object
}

/// Completes an object that the server itself creates at start: everything but admission.
pub(crate) fn complete(
    core: &Core,
    row: &ResourceInfo,
    namespace: &str,
    name: &str,
    mut object: Value,
) -> Value {
    storage::set_type(&mut object, &row.api_version(), &row.kind);
    let own = metadata::of(&mut object);
    own.insert("name".to_owned(), json!(name));
    if !namespace.is_empty() {
        own.insert("namespace".to_owned(), json!(namespace));
    }
    row.default(&mut object);
    row.prepare_create(&mut object);
    let own = metadata::of(&mut object);
    own.insert("uid".to_owned(), json!(uuid::Uuid::new_v4().to_string()));
    own.insert("creationTimestamp".to_owned(), json!(core.now_text()));
    object
}

pub(crate) fn row(group: &str, resource: &str) -> Result<&'static ResourceInfo, Status> {
    kinds::find(group, "v1", resource)
        .filter(|row| row.served)
        .ok_or_else(|| Status::internal(format!("the resource {resource} is not served")))
}

fn exists(core: &Core, row: &ResourceInfo, namespace: &str, name: &str) -> bool {
    core.registry.cache(row).is_some_and(|cache| cache.get(namespace, name).is_some())
}

async fn service(core: &Core) -> Result<(), Status> {
    let row = row("", "services")?;
    let (namespace, name) = ("default", "kubernetes");
    if exists(core, row, namespace, name) {
        return Ok(());
    }
    let address = core.config.service_cidr.nth(1).ok_or_else(|| {
        Status::internal("the network of Services has no address for the API's own Service")
    })?;
    let spec = json!({
        "metadata": {"labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address.to_string(),
            "clusterIPs": [address.to_string()],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{
                "name": "https",
                "protocol": "TCP",
                "port": API_PORT,
                "targetPort": core.config.advertise.port(),
            }],
        },
    });
    let object = complete(core, row, namespace, name, spec);
    let mut extra = Extra::default();
    extra.claim(allocate::address_key(address), object["metadata"]["uid"].to_string());
    allocate::follow_address(core, None, &object, &mut extra)?;
    let key = storage::key(row, namespace, name);
    core.storage.create(key, storage::encode(row, &object)?, extra).await?;
    Ok(())
}
