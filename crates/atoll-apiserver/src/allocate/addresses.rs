//! IPAddress objects and ServiceCIDRs: which networks Services take addresses from, and who
//! holds which address, for everybody to see.
//!
//! An address is claimed by two keys in the transaction of its Service: the claim, which
//! releases before this one know too, and the IPAddress. Either one that is there already
//! makes the transaction fail, so that no race gives an address away twice.

use std::net::Ipv4Addr;

use atoll_api::access::Access as _;
use serde_json::{Value, json};

use crate::config::Cidr;
use crate::core::Core;
use crate::initial::{complete, row};
use crate::status::Status;
use crate::storage::{self, Extra};

pub(crate) const GROUP: &str = "networking.k8s.io";
const FAMILY_LABEL: &str = "ipaddress.kubernetes.io/ip-family";
/// Upstream's label of those that the server itself made.
pub(super) const MANAGED_LABEL: &str = "ipaddress.kubernetes.io/managed-by";
pub(super) const MANAGED_BY: &str = "ipallocator.k8s.io";

/// The address of a Service that has one of its own.
pub(super) fn of(service: &Value) -> Option<Ipv4Addr> {
    let spec = &service["spec"];
    let own = spec.text("type") != "ExternalName";
    own.then(|| spec.text("clusterIP").parse().ok()).flatten()
}

/// Where the IPAddress of an address stands.
pub(super) fn object_key(address: Ipv4Addr) -> Result<String, Status> {
    Ok(format!("{}{address}", object_prefix()?))
}

pub(super) fn object_prefix() -> Result<String, Status> {
    Ok(storage::prefix(row(GROUP, "ipaddresses")?))
}

/// Puts IPAddress objects beside the claims of a changed Service.
pub(crate) fn follow(
    core: &Core,
    before: Option<Ipv4Addr>,
    service: &Value,
    extra: &mut Extra,
) -> Result<(), Status> {
    let after = of(service);
    if before == after {
        return Ok(());
    }
    if let Some(address) = before {
        extra.release(object_key(address)?);
    }
    if let Some(address) = after {
        extra.claim(object_key(address)?, encoded(core, address, service)?);
    }
    Ok(())
}

/// The IPAddress of a Service as the store keeps it.
pub(super) fn encoded(core: &Core, address: Ipv4Addr, service: &Value) -> Result<String, Status> {
    let row = row(GROUP, "ipaddresses")?;
    let metadata = &service["metadata"];
    let object = json!({
        "metadata": {"labels": {FAMILY_LABEL: "IPv4", MANAGED_LABEL: MANAGED_BY}},
        "spec": {"parentRef": {
            "group": "",
            "resource": "services",
            "namespace": metadata.text("namespace"),
            "name": metadata.text("name"),
        }},
    });
    let object = complete(core, row, "", &address.to_string(), object);
    let bytes = storage::encode(row, &object)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The networks that Services take addresses from: that of the server's settings first, then
/// those of every ServiceCIDR that is ready and stays.
pub(super) fn networks(core: &Core) -> Vec<Cidr> {
    let mut all = vec![core.config.service_cidr];
    let Some(cache) = core.registry.objects(GROUP, "servicecidrs") else { return all };
    for entry in cache.list("") {
        let Ok(object) = entry.object(cache.row()) else { continue };
        if !is_ready(&object) {
            continue;
        }
        let texts = object["spec"].items("cidrs").iter().filter_map(Value::as_str);
        for network in texts.filter_map(parse) {
            if !all.contains(&network) {
                all.push(network);
            }
        }
    }
    all
}

/// Upstream takes addresses only from networks that its controller has looked at.
fn is_ready(cidr: &Value) -> bool {
    let ready = |one: &Value| one.text("type") == "Ready" && one.text("status") == "True";
    !cidr["metadata"].has("deletionTimestamp")
        && cidr["status"].items("conditions").iter().any(ready)
}

/// IPv4 only: this cluster has one family.
fn parse(text: &str) -> Option<Cidr> {
    let (address, prefix) = text.split_once('/')?;
    let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
    Some(Cidr { address: address.parse().ok()?, prefix })
}
