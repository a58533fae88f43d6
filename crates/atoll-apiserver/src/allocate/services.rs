//! Services: cluster addresses and node ports.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use atoll_api::access::Access as _;
use atoll_api::field::{self, Path};
use atoll_store::kv::{KeyRange, RangeRequest};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use rand::Rng as _;
use serde_json::{Value, json};

use super::{Allocator, PREFIX, address_key, addresses, difference, families};
use crate::call::Call;
use crate::config::Cidr;
use crate::status::Status;
use crate::storage::Extra;

pub(super) const ALLOCATOR: Allocator =
    Allocator { group: "", resource: "services", create, update, held: everything };

/// Addresses at the start of the network that are only given to those who ask for them:
/// the API's own Service and cluster DNS live there.
const RESERVED_ADDRESSES: u32 = 256;

fn create<'a>(
    call: &'a Call,
    service: &'a mut Value,
    _: usize,
) -> BoxFuture<'a, Result<Extra, Status>> {
    async move {
        assign(call, None, service).await?;
        let mut extra = difference(service, &[], &held(service));
        addresses::follow(&call.core, None, service, &mut extra)?;
        Ok(extra)
    }
    .boxed()
}

fn update<'a>(
    call: &'a Call,
    old: &'a Value,
    new: &'a mut Value,
) -> BoxFuture<'a, Result<Extra, Status>> {
    async move {
        let before = held(old);
        keep_address(old, new);
        assign(call, Some(old), new).await?;
        let mut extra = difference(new, &before, &held(new));
        addresses::follow(&call.core, addresses::of(old), new, &mut extra)?;
        Ok(extra)
    }
    .boxed()
}

/// A client that leaves the address out of an update means the one that the Service has.
fn keep_address(old: &Value, new: &mut Value) {
    if !has_address(new) {
        if let Some(spec) = new["spec"].as_object_mut() {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
        return;
    }
    let was = old["spec"].text("clusterIP");
    if new["spec"].text("clusterIP").is_empty() && !was.is_empty() {
        new["spec"]["clusterIP"] = json!(was);
        new["spec"]["clusterIPs"] = old["spec"]["clusterIPs"].clone();
    }
}

fn has_address(service: &Value) -> bool {
    service["spec"].text("type") != "ExternalName"
}

fn has_node_ports(service: &Value) -> bool {
    match service["spec"].text("type") {
        "NodePort" => true,
        "LoadBalancer" => service["spec"].opt_flag("allocateLoadBalancerNodePorts").unwrap_or(true),
        _ => false,
    }
}

/// What goes with a Service: all that it holds, and the IPAddress that says so.
fn everything(service: &Value) -> Vec<String> {
    let mut keys = held(service);
    keys.extend(addresses::of(service).and_then(|address| addresses::object_key(address).ok()));
    keys
}

/// Everything the Service holds, as keys.
fn held(service: &Value) -> Vec<String> {
    let mut keys = Vec::new();
    let address = service["spec"].text("clusterIP");
    if has_address(service) && !address.is_empty() && address != "None" {
        keys.push(format!("{PREFIX}/serviceips/{address}"));
    }
    let mut ports: Vec<i64> =
        service["spec"].items("ports").iter().filter_map(|port| port.int("nodePort")).collect();
    ports.push(service["spec"].int("healthCheckNodePort").unwrap_or(0));
    ports.retain(|port| *port != 0);
    // One port may serve two protocols.
    ports.sort_unstable();
    ports.dedup();
    keys.extend(ports.into_iter().map(port_key));
    keys
}

fn port_key(port: i64) -> String {
    format!("{PREFIX}/nodeports/{port}")
}

/// Fills in what the Service needs and does not have, and checks what it asks for.
async fn assign(call: &Call, old: Option<&Value>, service: &mut Value) -> Result<(), Status> {
    let before = old.map(held).unwrap_or_default();
    if has_address(service) {
        let errors = families::set(old, service);
        if !errors.is_empty() {
            return Err(Status::invalid(&call.row, service["metadata"].text("name"), &errors));
        }
        assign_address(call, &before, service).await?;
    }
    if has_node_ports(service) {
        assign_ports(call, &before, service).await?;
    }
    Ok(())
}

async fn assign_address(call: &Call, before: &[String], service: &mut Value) -> Result<(), Status> {
    let address = service["spec"].text("clusterIP").to_owned();
    if address.is_empty() {
        let address = free_address(call).await?.to_string();
        service["spec"]["clusterIP"] = json!(address);
        service["spec"]["clusterIPs"] = json!([address]);
        return Ok(());
    }
    if service["spec"].items("clusterIPs").is_empty() {
        service["spec"]["clusterIPs"] = json!([address]);
    }
    if address == "None" || before.contains(&format!("{PREFIX}/serviceips/{address}")) {
        return Ok(());
    }
    let at = Path::new("spec").child("clusterIPs");
    let networks = addresses::networks(&call.core);
    let inside = |ip: &Ipv4Addr| networks.iter().any(|network| network.contains(*ip));
    let Some(ip) = address.parse().ok().filter(inside) else {
        let ranges: Vec<String> = networks.iter().map(ToString::to_string).collect();
        let why = format!(
            "failed to allocate IP {address}: the provided IP ({address}) is not in the valid range. \
             The range of valid IPs is {}",
            ranges.join(",")
        );
        return Err(invalid(call, service, at.invalid(json!([address]), why)));
    };
    if address_taken(call, ip).await? {
        let why = format!("failed to allocate IP {address}: provided IP is already allocated");
        return Err(invalid(call, service, at.invalid(json!([address]), why)));
    }
    Ok(())
}

async fn assign_ports(call: &Call, before: &[String], service: &mut Value) -> Result<(), Status> {
    let mut chosen: Vec<i64> =
        service["spec"].items("ports").iter().filter_map(|port| port.int("nodePort")).collect();
    let count = service["spec"].items("ports").len();
    for index in 0..count {
        let at = Path::new("spec").child("ports").index(index).child("nodePort");
        let wanted = service["spec"]["ports"][index].int("nodePort").unwrap_or(0);
        if wanted == 0 {
            let port = free_port(call, &chosen).await?;
            chosen.push(port);
            service["spec"]["ports"][index]["nodePort"] = json!(port);
            continue;
        }
        if before.contains(&port_key(wanted)) {
            continue;
        }
        let range = &call.core.config.node_ports;
        if !range.contains(&u16::try_from(wanted).unwrap_or(0)) {
            let why = format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                range.start(),
                range.end()
            );
            return Err(invalid(call, service, at.invalid(wanted, why)));
        }
        if taken(call, &port_key(wanted)).await? {
            let why = "provided port is already allocated";
            return Err(invalid(call, service, at.invalid(wanted, why)));
        }
    }
    Ok(())
}

fn invalid(call: &Call, service: &Value, error: field::Error) -> Status {
    Status::invalid(&call.row, service["metadata"].text("name"), &[error])
}

async fn taken(call: &Call, key: &str) -> Result<bool, Status> {
    let mut request = RangeRequest::new(KeyRange::single(key.to_owned()));
    request.keys_only = true;
    Ok(!call.core.storage.range(request).await?.kvs.is_empty())
}

/// Somebody has it, or an IPAddress keeps it free of Services.
async fn address_taken(call: &Call, address: Ipv4Addr) -> Result<bool, Status> {
    Ok(taken(call, &address_key(address)).await?
        || taken(call, &addresses::object_key(address)?).await?)
}

/// From the first network that has one.
async fn free_address(call: &Call) -> Result<Ipv4Addr, Status> {
    for network in addresses::networks(&call.core) {
        if let Some(address) = free_in(call, network).await? {
            return Ok(address);
        }
    }
    Err(Status::internal("failed to allocate a serviceIP: range is full"))
}

/// A random address first; when that is taken, any that is free.
async fn free_in(call: &Call, network: Cidr) -> Result<Option<Ipv4Addr>, Status> {
    // The last address is the broadcast of the network.
    let end = u32::try_from(network.size().saturating_sub(1)).unwrap_or(u32::MAX);
    let start = RESERVED_ADDRESSES.min(end / 16).max(1);
    if start >= end {
        return Ok(None);
    }
    let guess = network.nth(rand::rng().random_range(start..end));
    if let Some(address) = guess
        && !address_taken(call, address).await?
    {
        return Ok(Some(address));
    }
    let mut used = used(call, &format!("{PREFIX}/serviceips/")).await?;
    used.extend(self::used(call, &addresses::object_prefix()?).await?);
    let used: HashSet<String> = used.into_iter().collect();
    Ok((start..end)
        .chain(1..start)
        .filter_map(|offset| network.nth(offset))
        .find(|address| !used.contains(&address.to_string())))
}

async fn free_port(call: &Call, chosen: &[i64]) -> Result<i64, Status> {
    let range = call.core.config.node_ports.clone();
    let (start, end) = (i64::from(*range.start()), i64::from(*range.end()));
    let band = start + static_ports(end - start + 1);
    let guess = rand::rng().random_range(band..=end);
    if !chosen.contains(&guess) && !taken(call, &port_key(guess)).await? {
        return Ok(guess);
    }
    let used = used(call, &format!("{PREFIX}/nodeports/")).await?;
    (band..=end)
        .chain(start..band)
        .find(|port| !chosen.contains(port) && !used.contains(&port.to_string()))
        .ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))
}

/// The first ports of a range are for those who choose one, as upstream has it: they are given
/// to others only when the rest is taken.
fn static_ports(size: i64) -> i64 {
    const LEAST: i64 = 16;
    if size <= LEAST { 0 } else { (size / 32).clamp(LEAST, 128) }
}

/// The last parts of the keys below a prefix.
async fn used(call: &Call, prefix: &str) -> Result<Vec<String>, Status> {
    let mut request = RangeRequest::new(KeyRange::prefix(prefix.to_owned()));
    request.keys_only = true;
    let answer = call.core.storage.range(request).await?;
    let names = answer.kvs.iter().filter_map(|kv| kv.key.strip_prefix(prefix.as_bytes()));
    Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}
