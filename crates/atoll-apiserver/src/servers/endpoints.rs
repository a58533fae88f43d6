//! The endpoints of the Service `default/kubernetes`: the servers that are there.

use atoll_api::kinds::ResourceInfo;
use serde_json::{Value, json};

use crate::core::Core;
use crate::initial::{complete, row};
use crate::status::Status;
use crate::storage::{self, Extra, Written};

/// Attempts against other servers, which write the same.
const ATTEMPTS_MAX: usize = 5;

/// Makes Endpoints and EndpointSlice name the servers that are known to be there; this one while
/// none is.
pub(crate) async fn write(core: &Core) -> Result<(), Status> {
    let own = core.config.advertise;
    let live = core.servers.live.borrow().clone();
    // All have the same port; joining asks for that.
    let same_port = live.values().filter(|one| one.address.port() == own.port());
    let mut addresses: Vec<String> = same_port.map(|one| one.address.ip().to_string()).collect();
    if addresses.is_empty() {
        addresses.push(own.ip().to_string());
    }
    addresses.sort();
    addresses.dedup();
    let port = json!({"name": "https", "protocol": "TCP", "port": own.port()});
    let labels = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    let subsets = json!([{"addresses": ips, "ports": [port]}]);
    let endpoints = json!({"metadata": {"labels": labels}, "subsets": subsets});
    let ready = |ip| json!({"addresses": [ip], "conditions": {"ready": true}});
    let slice = json!({
        "metadata": {"labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": addresses.iter().map(ready).collect::<Vec<Value>>(),
        "ports": [port],
    });
    put(core, row("", "endpoints")?, endpoints, "/subsets").await?;
    put(core, row("discovery.k8s.io", "endpointslices")?, slice, "/endpoints").await
}

/// Creates the object or, when the part that matters differs, writes it anew.
async fn put(
    core: &Core,
    row: &'static ResourceInfo,
    object: Value,
    part: &str,
) -> Result<(), Status> {
    let (namespace, name) = ("default", "kubernetes");
    let wanted = complete(core, row, namespace, name, object);
    for _ in 0..ATTEMPTS_MAX {
        if let Written::Done(_) = attempt(core, row, &wanted, part).await? {
            return Ok(());
        }
    }
    Err(Status::modified(row, name))
}

async fn attempt(
    core: &Core,
    row: &'static ResourceInfo,
    wanted: &Value,
    part: &str,
) -> Result<Written, Status> {
    let (namespace, name) = ("default", "kubernetes");
    let key = storage::key(row, namespace, name);
    let Some(stored) = core.storage.get(row, namespace, name).await? else {
        let value = storage::encode(row, wanted)?;
        return core.storage.create(key, value, Extra::default()).await;
    };
    let mut current = stored.object(row)?;
    if current.pointer(part) == wanted.pointer(part) && current.get("ports") == wanted.get("ports")
    {
        return Ok(Written::Done(stored.revision));
    }
    for field in ["subsets", "endpoints", "ports"] {
        if let (Some(value), Value::Object(map)) = (wanted.get(field), &mut current) {
            map.insert(field.to_owned(), value.clone());
        }
    }
    let value = storage::encode(row, &current)?;
    core.storage.update(key, stored.revision, value, Extra::default()).await
}
